"""The declaration of a service: `[services.<name>]` of `lepton.toml`, copied into the recordings of its incidents.

Every entry may be left out. What is absent is not checked, and a diagnosis says so; nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from lepton_kit.telemetry.selectors import parse_selector
from lepton_kit.telemetry.signals import ROLES, Given, Signal, preset, presets, series_beside

LABEL = r"^[a-zA-Z_][a-zA-Z0-9_]*$"
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
"""Of a service or a model: a folder is called so."""

TaskName = Literal[
    "classification_binary", "classification_multiclass", "regression", "interval_forecast", "ranking", "text"
]
ActionName = Literal["roll_back", "deploy", "scale", "restart", "restart_feed", "stop_feed"]
Placeholder = Literal["workers", "version"]


class Section(BaseModel):
    """Base of all sections: a misspelt setting is an error, not a silent default."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _list(given: Any) -> Any:
    return [given] if isinstance(given, str) else given


Names = Annotated[tuple[str, ...], BeforeValidator(_list)]
"""Names of columns, or patterns of them (`inputs.*`); one alone may stand without brackets."""


class Columns(Section):
    """The roles of the columns of a service's requests, in the words of Evidently's `DataDefinition`.

    Parameters
    ----------
    timestamp, id, version, status, latency_ms
        When a request came (UTC), its id, the version that answered, its HTTP status, and how long it took.
    features
        What the model was given; patterns such as `inputs.*` name the fields of an object. Those that `categorical` or
        `text` name hold categories or free text; the others hold numbers, unless their values are text.
    prediction
        What was answered: a number (`regression`), the ranked items (`ranking`), the text (`text`).
    prediction_labels, prediction_probas
        The class that was answered; its probability (binary: of `positive`), or one column for each class.
    lower, upper, mean, std
        The interval that was answered (`interval_forecast`).
    target
        What came true, where it is in the same table.
    positive
        The value of `target` that `prediction_probas` is the probability of.
    rating, feedback
        What a user thought of the answer, 1 to 5, and said.
    """

    timestamp: str = "timestamp"
    id: str | None = None
    version: str | None = None
    status: str | None = None
    latency_ms: str | None = None
    features: Names = ()
    categorical: Names = ()
    text: Names = ()
    prediction: str | None = None
    prediction_labels: str | None = None
    prediction_probas: Names = ()
    lower: str | None = None
    upper: str | None = None
    mean: str | None = None
    std: str | None = None
    target: str | None = None
    positive: str | int | bool = 1
    rating: str | None = None
    feedback: str | None = None


def short_name(name: str, columns: Columns) -> str:
    """Return the name that the model knows a feature by: `inputs.age` of `inputs.*` is `age`."""
    for pattern in columns.features:
        before = pattern.partition("*")[0]
        if fnmatchcase(name, pattern) and before != pattern and len(name) > len(before):
            return name.removeprefix(before)
    return name


class Rows(Section):
    """Where rows are: files (`path`: one, a glob, a URL such as `s3://…`), or a database (`sql`, and its `query`).

    `sql` is an address that SQLAlchemy knows, or where it is kept (`env:NAME`, `file:PATH`). `:start` and `:end` in a
    query are those of the window as times, `:start_s` and `:end_s` in Unix seconds, `:start_ms` and `:end_ms` in
    milliseconds. Times without a zone are of `timezone`.
    """

    path: str | None = None
    format: Literal["jsonl", "csv", "parquet"] | None = None
    sql: str | None = None
    query: str | None = None
    timezone: str = "UTC"

    @model_validator(mode="after")
    def _one_place(self) -> Rows:
        if (self.path is None) == (self.sql is None):
            raise ValueError("needs either 'path' or 'sql'")
        if (self.sql is None) != (self.query is None):
            raise ValueError("'sql' needs a 'query', and 'query' needs 'sql'")
        return self


def _places(given: Any) -> Any:
    places = given if isinstance(given, list | tuple) else [given]
    return [{"path": one} if isinstance(one, str) else one for one in places]


class Labels(Rows):
    """Where what came true is, joined to the requests by `key`: a column of both tables."""

    key: str
    target: str = "target"
    timestamp: str | None = None
    rating: str | None = None
    feedback: str | None = None


class Metric(Section):
    """A series whose label tells something, such as the version in service."""

    metric: str
    label: str = Field(pattern=LABEL)


class Versions(Section):
    """The version in service and the last good one: folders, `models:/…`, or the address of a server of models."""

    current: str
    last_good: str | None = None
    flavor: str | None = None


def _preset(name: str) -> str:
    if name not in presets():
        raise ValueError(f"must be one of {', '.join(presets())}")
    return name


class Signals(Section):
    """The selectors that tell how a service does: those of presets, and what is given beside them (`signals.ROLES`)."""

    model_config = ConfigDict(extra="allow", frozen=True)
    __pydantic_extra__: dict[str, Given]

    preset: Annotated[tuple[Annotated[str, AfterValidator(_preset)], ...], BeforeValidator(_list)] = ()

    @model_validator(mode="after")
    def _known(self) -> Signals:
        if unknown := [name for name in self.__pydantic_extra__ if name not in ROLES]:
            raise ValueError(f"no signal is called {unknown[0]!r}: must be preset, or one of {', '.join(ROLES)}")
        return self

    def given(self) -> dict[str, Signal]:
        """Return the signals that stand above those of the presets, by role."""
        return dict(self.__pydantic_extra__)


def _signals(given: Any) -> Any:
    return {"preset": given} if isinstance(given, str | list) else given


class Http(Section):
    """An action that is one HTTP request."""

    url: str = Field(pattern=r"^https?://")
    method: Literal["POST", "PUT", "PATCH", "DELETE"] = "POST"
    body: dict[str, Any] = {}
    token: str | None = None
    timeout: float = Field(default=60, gt=0, le=3600)


class Command(Section):
    """An action that is a command: a list of words that no shell reads, run in the project's folder."""

    run: tuple[str, ...] = Field(min_length=1)
    timeout: float = Field(default=60, gt=0, le=3600)


def _action(given: Any) -> Any:
    if isinstance(given, list | tuple):
        given = {"run": given}
    if not isinstance(given, dict):
        return given
    try:  # by itself: a union would name what the other kind of action lacks
        return (Http if "url" in given else Command).model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error


Action = Annotated[Command | Http, BeforeValidator(_action)]


class Drills(Section):
    """What a live drill of the service starts in a project of its own: commands, and the version that is a bad one.

    `start` runs the service; `traffic` those who ask it, at `{address}`, until the process `{parent}` is gone.
    """

    start: tuple[str, ...] = Field(min_length=1)
    traffic: tuple[str, ...] = Field(min_length=1)
    bad_version: str | None = None


class Declaration(Section):
    """A service: made by anyone, in any language, and changed in nothing.

    Parameters
    ----------
    owner
        Who answers for it, such as a team: shown with its incidents, and told with each notice.
    task
        What its model does.
    time_series
        Whether its rows follow on each other in time, as prices do: questions of the order of rows ask nothing else.
    address
        Where it answers; its `/metrics` are scraped, unless the source of telemetry is a Prometheus.
    ready
        The path that answers 200 once it is ready; the first that answers of `READY` unless given.
    match
        The labels that its series carry in the source of telemetry, `{ job = "<its name>" }` unless given.
    signals
        Presets (`signals = "vllm"`), single selectors (`signals = { queue_length = "my_queue" }`), or both.
    requests, labels, logs, deployments, topology
        Where its evidence is; `requests` may be in several places. `logs` holds JSON lines or
        plain text; `deployments` JSON lines, or a metric whose label tells the version.
    columns
        The roles of the columns of its requests.
    model
        Its name in the registry, or where the versions are.
    private
        Columns that no recording, page, log or message may hold.
    private_key
        The key (`env:NAME`, `file:PATH`) that private columns are hashed with; without it they are dropped.
    actions
        What can be done to it. A word `{workers}` or `{version}` is filled in.
    drill
        What `lepton drill --live --service` starts.
    objectives
        The folder of its objectives, `slo/<its name>` unless given.
    registry
        The folder of its models.
    subject
        A module of the project that knows its data, such as `subjects.prices` (`lepton_kit.project.subjects`).
    cost_per_minute, cost_per_worker_hour, currency
        What a minute of trouble costs, for the page of an incident; what a worker costs, for `repair-capacity`.
    """

    owner: str = ""
    task: TaskName | None = None
    time_series: bool = False
    address: str | None = Field(default=None, pattern=r"^https?://")
    ready: str | None = Field(default=None, pattern=r"^/")
    match: dict[Annotated[str, Field(pattern=LABEL)], str] = {}
    signals: Annotated[Signals, BeforeValidator(_signals)] = Signals.model_validate({})
    requests: Annotated[tuple[Rows, ...], BeforeValidator(_places)] = ()
    labels: Labels | None = None
    logs: str | None = None
    deployments: str | Metric | None = None
    topology: str | None = None
    columns: Columns = Columns()
    model: Name | Versions | None = None
    private: Names = ()
    private_key: str | None = None
    actions: dict[ActionName, Action] = {}
    drill: Drills | None = None
    objectives: str = "slo"
    registry: str = "models"
    subject: str | None = Field(default=None, pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$")
    cost_per_minute: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    cost_per_worker_hour: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    currency: str = ""

    @property
    def registered(self) -> str | None:
        """The name of its model in the registry; None of a model that is elsewhere, or not told."""
        return self.model if isinstance(self.model, str) else None

    def series(self, name: str) -> dict[str, str]:
        """Return the labels that the series of this service carry."""
        return self.match or {"job": name}


def objectives_folder(name: str) -> str:
    """Return the folder of the objectives of a service that names none.

    >>> objectives_folder("goog")
    'slo/goog'
    """
    return f"slo/{name}"


READY = ("/v2/health/ready", "/readyz", "/healthz", "/health")

FORECASTER = Declaration.model_validate({"task": "interval_forecast", "time_series": True, "signals": "lepton"})
"""What a forecaster of prices behind `lepton serve` says of itself."""


def signals_of(declaration: Declaration, labels: Mapping[str, str] | None = None) -> dict[str, Signal]:
    """Return the signals of a service by role: its own selectors, then its presets, the first named above the others.

    Every selector but those of the machine is narrowed to the labels that the service's series carry.

    >>> given = Declaration(signals={"preset": ["vllm", "dcgm"], "queue_length": "waiting"})
    >>> found = signals_of(given, {"job": "chat"})
    >>> found["queue_length"].selector, found["gpu_utilisation"].selector
    ('waiting{job="chat"}', 'DCGM_FI_DEV_GPU_UTIL')
    """
    found = {"up": Signal(selector="up")}
    for name in reversed(declaration.signals.preset):
        found |= preset(name)
    found |= declaration.signals.given()
    return {role: signal.within(labels or {}) for role, signal in found.items()}


def more_of(declaration: Declaration, labels: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """Return the selectors of series that presets name beside the signals, such as those that only one server has."""
    named = [text for name in declaration.signals.preset for text in series_beside(name)]
    return tuple(str(parse_selector(text).within(labels or {})) for text in named)
