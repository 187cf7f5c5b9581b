"""Recordings: the evidence of one incident, frozen in a folder, so that its diagnosis can be replayed for ever.

A recording is a folder of open formats. Only `incident.json` must be there; whatever else is absent is named in
`Recording.absent`, and a diagnosis says what it could not check. What is there must be readable.

```
incident.json      {"format": "lepton-recording/2", "id", "service",
                    "window": {"start", "end"},
                    "versions": {"current", "last_good"},          last_good may be null
                    "alerts": [{"name", "starts_at", "labels", "annotations"}],
                    "deployments": [{"time", "version", "note"}],  those known, also from before the window
                    "promises": [{"name", "title", "service", "target", "window_s", "events", "selector", "total"}],
                                                                   the service's objectives, as they were then
                    "declaration": {…},                            what the service says of itself, without secrets
                    "checksums": {version: true},                  whether the files are those that were registered
                    "problems": [],                                what could not be read, or looked wrong
                    "provenance": {"measured", "derived", "constructed"}}   lists: how each part came to be
metrics.parquet    time, metric (Prometheus names, base units), labels (JSON text), value
signals.json       role -> {"selector", "count", "scale"}, as captured; else those of the declaration
requests.parquet   one row per request, of
                     time, request_id, version, status (HTTP), latency_ms
                     feature_<name>                 what the service was given: numbers, or text (a category)
                     the columns of its task        what it answered (`Task.columns`); empty where it failed
                     actual                         what came true, empty where not yet known; actual_time: since when
                     rating, feedback               optional: what a user thought of the answer (1 to 5), and said
reference.parquet  a sample of the training rows of the current version: <feature names> and actual
logs.jsonl         one object per line: time, level, message, fields (an object)
topology.csv       optional, where the service has several parts: caller, callee
models/<version>/  model.safetensors, architecture.json, scaler.json: versions to replay requests through
truth.json         drills and benchmarks only: what was really done. `read_recording` does not read it
```

With a key, each file but those of the models is encrypted (`lepton_kit.telemetry.sealed`); reading asks for the key.

Times are UTC, ISO 8601 in text and `timestamp[us, UTC]` in Parquet. Predictions and actuals are in the unit of the
service's answer; those of one recording agree. All text of a recording is untrusted: it comes from whoever wrote to the
service's log. Control characters are made visible on reading; whoever displays text still escapes it.
"""

from __future__ import annotations

import itertools
import json
import math
import shutil
import tempfile
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import pydantic
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from lepton_kit.errors import InputError
from lepton_kit.models.tasks import NOT_NUMERIC, Task, task_of
from lepton_kit.telemetry.declaration import FORECASTER, Declaration
from lepton_kit.telemetry.sealed import opened, seal
from lepton_kit.telemetry.selectors import parse_selector
from lepton_kit.telemetry.signals import ROLES, Signal, from_json, signals_of, to_json
from lepton_kit.telemetry.slo import Objective

FORMAT: Literal["lepton-recording/2"] = "lepton-recording/2"
FORMER = "lepton-recording/1"
"""Recordings of this format are of interval forecasters of a time series, and say nothing of their service."""

FEATURE = "feature_"
REQUEST_COLUMNS = ("time", "request_id", "version", "status", "latency_ms", "actual")
"""Of every recording; beside them the columns of its task's answers, and features."""

METRIC_COLUMNS = ("time", "metric", "labels", "value")
LOG_COLUMNS = ("time", "level", "message", "fields")
TOPOLOGY_COLUMNS = ("caller", "callee")
NUMERIC_REQUEST_COLUMNS = ("status", "latency_ms", "actual")
TEXT_COLUMNS = ("request_id", "version")
LONGEST_TEXT = 500

LONGEST_LINE = 64 * 1024
"""A log line of more bytes is not read."""

MOST_FIELDS, LONGEST_FIELD = 20, 200
"""Of a log line's fields so many are kept, and of each so many characters."""


def printable(text: str, longest: int = LONGEST_TEXT) -> str:
    r"""Make control, formatting and line-breaking characters visible, and cut the text to a length.

    >>> printable("ok\x1b[31m \u202egnp.exe")
    'ok\\x1b[31m \\u202egnp.exe'
    """
    shown = "".join(_visible(character) for character in text[: longest + 1])
    return shown if len(text) <= longest else shown[:longest] + "…"


def _visible(character: str) -> str:
    hidden = unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")
    return character.encode("unicode_escape").decode() if hidden else character


Text = Annotated[str, AfterValidator(printable)]
Version = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]  # it names a folder


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Window(_Part):
    """From when to when the evidence was taken (UTC)."""

    start: AwareDatetime
    end: AwareDatetime


class Alert(_Part):
    """An alert as Alertmanager tells it."""

    name: Text
    starts_at: AwareDatetime
    labels: dict[Text, Text] = {}
    annotations: dict[Text, Text] = {}


class Deployment(_Part):
    """A version that went into service."""

    time: AwareDatetime
    version: Version
    note: Text = ""


class Versions(_Part):
    """The version in service, and the last one known to be good, if any.

    `stands_in_for` is the version that the one in service was compressed from, where it answers in its place.
    """

    current: Version
    last_good: Version | None = None
    stands_in_for: Version | None = None


class Provenance(_Part):
    """How each part of the recording came to be."""

    measured: tuple[Text, ...] = ()
    derived: tuple[Text, ...] = ()
    constructed: tuple[Text, ...] = ()


class Promise(_Part):
    """An objective of the service, as its file said it then; `time_scale` shortened its windows."""

    name: Text
    title: Text
    service: Text
    description: Text = ""
    target: float = Field(gt=0, lt=1)
    window_s: int = Field(gt=0)
    events: Literal["good", "bad"]
    selector: str
    total: str
    minimum: int = 1
    counts: Literal["requests", "hits"] = "requests"
    time_scale: float = Field(default=1, gt=0)

    @classmethod
    def of(cls, one: Objective, time_scale: float = 1.0) -> Promise:
        """Return an objective as it can be kept."""
        return cls(
            name=one.name, title=one.title, service=one.service, description=one.description, target=one.target,
            window_s=one.window, events=one.events, selector=str(one.selector), total=str(one.total),
            minimum=one.minimum, counts=one.counts, time_scale=time_scale,
        )  # fmt: skip

    def objective(self) -> Objective:
        """Return it ready to be evaluated."""
        return Objective(
            self.name, self.title, self.service, self.description, self.target, self.window_s, self.events,
            parse_selector(self.selector), parse_selector(self.total), self.minimum, self.counts,
        )  # fmt: skip


class Incident(_Part):
    """What `incident.json` says."""

    format: Literal["lepton-recording/1", "lepton-recording/2"]
    id: Text
    service: Text
    declaration: Declaration = Declaration()
    window: Window
    versions: Versions
    alerts: tuple[Alert, ...] = ()
    deployments: tuple[Deployment, ...] = ()
    promises: tuple[Promise, ...] = ()
    checksums: dict[Version, bool] = {}
    problems: tuple[Text, ...] = ()
    provenance: Provenance = Provenance()

    @model_validator(mode="after")
    def _of_the_former_format(self) -> Incident:
        if self.format == FORMER:
            told = {version: said for version in self._versions() if (said := self._sum_of(version)) is not None}
            self.__dict__.update(declaration=FORECASTER, checksums={**told, **self.checksums})
        return self

    def _versions(self) -> list[str]:
        return [one for one in (self.versions.current, self.versions.last_good) if one]

    def _sum_of(self, version: str) -> bool | None:
        """Return what the notes of the former format say of a version's checksums; it had no other place for that."""
        notes = (*self.provenance.derived, *self.provenance.measured)
        if any(note.startswith(f"models/{version}: its checksums do not hold") for note in notes):
            return False
        hold = any(note.startswith("models: ") and note.endswith("; their checksums hold") for note in notes)
        return True if hold else None


def feature_columns(requests: pd.DataFrame) -> list[str]:
    """Return the names of the columns that hold what the service was given."""
    return [column for column in map(str, requests.columns) if column.startswith(FEATURE)]


def _empty(columns: tuple[str, ...]) -> pd.DataFrame:
    dtypes = {"time": "datetime64[us, UTC]", **dict.fromkeys((*NUMERIC_REQUEST_COLUMNS, "value"), "float64")}
    return pd.DataFrame({column: pd.Series(dtype=dtypes.get(column, "str")) for column in columns})


@dataclass(frozen=True)
class Recording:
    """One incident's evidence.

    A table whose file is absent or not readable is empty, and the file is named in `absent`. `problems` says what could
    not be read, or looks wrong, and why. `signals` are those that it was captured by, else those of its declaration.

    Examples
    --------
    >>> incident = Incident(format=FORMAT, id="x", service="demo", versions={"current": "1"},
    ...                     window={"start": "2008-01-01T00:00Z", "end": "2008-02-01T00:00Z"})
    >>> recording = Recording(incident)
    >>> len(recording.requests), list(recording.features(recording.requests))
    (0, [])
    """

    incident: Incident
    requests: pd.DataFrame = field(default_factory=lambda: _empty(REQUEST_COLUMNS))
    metrics: pd.DataFrame = field(default_factory=lambda: _empty(METRIC_COLUMNS))
    reference: pd.DataFrame = field(default_factory=pd.DataFrame)
    logs: pd.DataFrame = field(default_factory=lambda: _empty(LOG_COLUMNS))
    topology: pd.DataFrame = field(default_factory=lambda: _empty(TOPOLOGY_COLUMNS))
    models: Mapping[str, Path] = field(default_factory=dict)
    signals: Mapping[str, Signal] = field(default_factory=dict)
    absent: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.signals:
            object.__setattr__(self, "signals", signals_of(self.incident.declaration))

    def samples(self, role: str, part: str = "value") -> pd.DataFrame:
        """Return the samples of a signal in the unit of its role, as `metrics` has them; of a histogram one `part`.

        Empty where it is not declared, or nothing of it was recorded; `lacking` says which.
        """
        signal = self.signals.get(role)
        text = signal.parts(ROLES[role].kind).get(part) if signal else None
        if signal is None or text is None:
            return self.metrics.head(0)
        wanted = parse_selector(text)
        named = self.metrics[self.metrics["metric"] == wanted.metric]
        labels = [one for one in named["labels"].unique() if wanted.matches(wanted.metric, json.loads(one))]
        held = named[named["labels"].isin(labels)]
        return held if part in ("count", "bucket") else held.assign(value=held["value"] * signal.scale)

    def lacking(self, *roles: str) -> str:
        """Say which of some signals are not declared, or not in the recording; nothing where all are there."""
        said = []
        for role in roles:
            if role not in self.signals:
                said.append(f"no signal `{role}` is declared")
            elif self.samples(role, "count" if ROLES[role].kind == "histogram" else "value").empty:
                said.append(f"no sample of signal `{role}` ({self.signals[role].selector}) was recorded")
        return "; ".join(said)

    @property
    def task(self) -> Task | None:
        """What the service's model does; None where its declaration does not say."""
        name = self.incident.declaration.task
        return None if name is None else task_of(name)

    def features(self, requests: pd.DataFrame) -> pd.DataFrame:
        """Return the numeric features of some requests under the names the model knows, indexed by request time.

        The others are `categories`; both together are `inputs`.
        """
        return self.inputs(requests).select_dtypes(["number", "bool"])

    def categories(self, requests: pd.DataFrame) -> pd.DataFrame:
        """Return the features that hold text, under the names the model knows, indexed by request time."""
        return self.inputs(requests).select_dtypes(exclude=["number", "bool"])

    @staticmethod
    def inputs(requests: pd.DataFrame) -> pd.DataFrame:
        """Return all features of some requests under the names the model knows, indexed by request time."""
        columns = {column: column.removeprefix(FEATURE) for column in feature_columns(requests)}
        return requests.set_index("time")[list(columns)].rename(columns=columns)


def read_recording(folder: Path | str) -> Recording:
    """Read a recording; whatever of it cannot be read is left out, and named.

    Half the evidence of an incident is better than none, so only `incident.json` must be readable. A file that is not
    there is named in `absent`; so is one that is not readable, with the reason in `problems`, where also stands what
    was left out of a file: log lines that are none, values that are no numbers, times without a zone. Rows outside of
    the incident's window stay, and are named: their clock may be wrong.

    Parameters
    ----------
    folder
        The recording's folder; see the top of this module for its format.

    Returns
    -------
    Recording
        Requests, metrics and logs in order of time.

    Raises
    ------
    InputError
        When there is no such folder, or it has no readable `incident.json`.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; a recording is a folder with an incident.json")
    incident = _read_incident(folder / "incident.json")
    absent: list[str] = []
    problems = list(incident.problems)

    def read(name: str, reader: Callable[[Path, list[str]], pd.DataFrame], nothing: pd.DataFrame) -> pd.DataFrame:
        """Return a part, or nothing where it is absent or not readable."""
        if not (folder / name).exists():
            absent.append(name)
            return nothing
        try:
            table = reader(folder / name, problems)
        except InputError as error:
            absent.append(name)
            problems.append(str(error).replace(f"{folder}/", ""))
            return nothing
        if outside := rows_outside(table, incident.window):
            problems.append(f"{name}: {outside} of {len(table)} rows lie outside of the window: the clock may be wrong")
        return table

    return Recording(
        incident=incident,
        requests=read("requests.parquet", partial(_read_requests, incident.declaration), _empty(REQUEST_COLUMNS)),
        metrics=read("metrics.parquet", _read_metrics, _empty(METRIC_COLUMNS)),
        reference=read("reference.parquet", partial(_read_reference, incident.declaration), pd.DataFrame()),
        logs=read("logs.jsonl", _read_logs, _empty(LOG_COLUMNS)),
        topology=read("topology.csv", _read_topology, _empty(TOPOLOGY_COLUMNS)),
        models=_find_models(folder / "models", incident.versions, absent),
        signals=_read_signals(folder / "signals.json", problems),
        absent=tuple(absent),
        problems=tuple(printable(problem) for problem in problems),
    )


SLACK = 0.05
"""So much of the window's length a time may lie outside of it: a log line just before the first request is no fault."""


def is_inside(times: pd.Series, window: Window) -> pd.Series:
    """Tell for each time whether it lies in a window, or so little outside that no clock is wrong."""
    slack = SLACK * (window.end - window.start)
    first, last = (one.replace(tzinfo=UTC) for one in (datetime.min, datetime.max))
    start = max(window.start, first + slack) - slack  # the first and the last year have no room for slack
    return times.between(pd.Timestamp(start), pd.Timestamp(min(window.end, last - slack) + slack))


def rows_outside(table: pd.DataFrame, window: Window) -> int:
    """Return how many rows of a table lie outside of a window; 0 of one without times."""
    return int((~is_inside(table["time"], window)).sum()) if "time" in table else 0


def write_recording(
    recording: Recording, folder: Path | str, truth: Mapping[str, Any] | None = None, key: str | None = None
) -> Path:
    """Write a recording whole or not at all, replacing what is there, and return its folder.

    Parameters
    ----------
    recording
        An empty table leaves no file, which is how `read_recording` would say that it is absent.
    folder
        Where to; its parent must be there.
    truth
        What was really done, for drills and benchmarks; it becomes `truth.json`.
    key
        Where the key is (`env:NAME`, `file:PATH`) that all but the models are encrypted with; without it nothing is.
    """
    folder = Path(folder)
    if not folder.parent.is_dir():
        raise InputError(f"{folder}: no folder {folder.parent} to put the recording into")
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        _write_parts(recording, temporary / "new")
        if truth is not None:
            _write_json(temporary / "new" / "truth.json", truth)
        if key is not None:
            seal(temporary / "new", key)
        if folder.exists():
            folder.rename(temporary / "old")
        (temporary / "new").rename(folder)
    finally:
        shutil.rmtree(temporary)
    return folder


def _read_incident(path: Path) -> Incident:
    if not path.is_file():
        raise InputError(f"{path}: no such file; every recording has an incident.json")
    try:
        incident = Incident.model_validate(_read_json(path))
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        given = printable(repr(first["input"]), 80)
        raise InputError(f"{path}: {place} = {given}: {first['msg']}") from error
    if incident.window.end <= incident.window.start:
        raise InputError(f"{path}: window.end = {incident.window.end}: must be after {incident.window.start}")
    return incident


def _read_json(path: Path) -> dict[str, Any]:
    try:
        with opened(path) as file:
            content = json.load(file)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a {type(content).__name__}; it must be a JSON object")
    return content


def _parquet(path: Path) -> pd.DataFrame:
    try:
        with opened(path) as file:
            return pd.read_parquet(file)
    except (OSError, ValueError, NotImplementedError, KeyError, TypeError) as error:  # what pyarrow's errors are
        raise InputError(f"{path}: not readable as Parquet ({printable(str(error), 200)})") from error


def _read_requests(declared: Declaration, path: Path, problems: list[str]) -> pd.DataFrame:
    """Read the requests; a column that is absent is empty, but for their time, without which there is no evidence."""
    table = _in_order_of_time(_parquet(path), path, problems)
    task = None if declared.task is None else task_of(declared.task)
    wanted = REQUEST_COLUMNS if task is None else (*REQUEST_COLUMNS, *task.required)
    lacking = [column for column in wanted if column not in table]
    if lacking:
        problems.append(f"{path.name}: lacks column {', '.join(lacking)}; it has {', '.join(map(str, table.columns))}")
    numbered = table.index.astype(str)  # an id of its own for each: none is asked twice
    table = table.assign(**{name: numbered if name == "request_id" else np.nan for name in lacking})
    numeric = [name for name in ("status", "latency_ms", "rating") if name in table]
    texts = list(TEXT_COLUMNS)
    if task is not None:
        numeric += [*task.numeric(table), *(["actual"] if task.has_numeric_target else [])]
        texts += [name for name in NOT_NUMERIC if name in task.columns(table)]
    told = {name: table[name].astype("object").where(table[name].notna(), "").astype(str) for name in texts}
    table = table.assign(**told)
    for name in set(texts) - set(TEXT_COLUMNS):  # an answer that failed has no class
        table[name] = table[name].replace("", None)
    table = _with_numbers(table, numeric, path, problems)
    return _with_inputs(table, feature_columns(table), path, problems, declared)


def _read_metrics(path: Path, problems: list[str]) -> pd.DataFrame:
    table = _parquet(path)
    _check_columns(table, METRIC_COLUMNS, path)
    table = _with_numbers(_in_order_of_time(table, path, problems), ["value"], path, problems)
    named = table["labels"].isin([text for text in table["labels"].unique() if _is_object(text)])
    if not named.all():
        problems.append(f"{path.name}: {int((~named).sum())} of {len(table)} rows have labels that are no JSON object")
    return table[named].reset_index(drop=True).astype({"metric": "str"})


def _is_object(text: Any) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (TypeError, ValueError, RecursionError):
        return False


def _read_reference(declared: Declaration, path: Path, problems: list[str]) -> pd.DataFrame:
    table = _parquet(path).rename(columns=str)
    return _with_inputs(table, list(table.columns), path, problems, declared)


def _check_columns(table: pd.DataFrame, columns: tuple[str, ...], path: Path) -> None:
    if missing := [column for column in columns if column not in table.columns]:
        raise InputError(f"{path}: lacks column {', '.join(missing)}; it has {', '.join(map(str, table.columns))}")


def _in_order_of_time(table: pd.DataFrame, path: Path, problems: list[str]) -> pd.DataFrame:
    _check_columns(table, ("time",), path)
    time = table["time"]
    if not isinstance(time.dtype, pd.DatetimeTZDtype):
        raise InputError(f"{path}: column time holds {time.dtype}; it must hold timestamps in UTC")
    if time.isna().any():
        problems.append(f"{path.name}: {int(time.isna().sum())} of {len(table)} rows have no time, and are left out")
    dated = table.assign(time=time.dt.tz_convert("UTC"))[time.notna()]
    return dated.sort_values("time", kind="stable", ignore_index=True)


def _with_inputs(
    table: pd.DataFrame, columns: list[str], path: Path, problems: list[str], declared: Declaration
) -> pd.DataFrame:
    """Return a table whose inputs hold numbers, or text where they did so at first or are declared as categories.

    What is neither is missing, and named.
    """
    chosen = [name for name in columns if _is_declared(name, declared.columns.categorical) or _is_category(table[name])]
    texts = {}
    for name in chosen:
        known = table[name].astype("object")
        if pd.api.types.is_numeric_dtype(table[name]):  # numbers that stand for categories
            known = known.where(table[name].isna(), known.map("{:g}".format))
        is_text = known.map(_is_text).astype(bool)
        if lost := int((~is_text & known.notna()).sum()):
            problems.append(f"{path.name}: column {name} holds categories, and {lost} of {len(table)} values are none")
        texts[name] = known.where(is_text, None).astype("str")
    numeric = [name for name in columns if name not in texts]
    return _with_numbers(table.assign(**texts), numeric, path, problems)


def _is_declared(column: str, patterns: tuple[str, ...]) -> bool:
    """Tell whether a column of a recording is one that a declaration names: by its last part, as `inputs.region` is.

    >>> _is_declared("feature_region", ("inputs.region",)), _is_declared("feature_age", ("inputs.region",))
    (True, False)
    """
    name = column.removeprefix(FEATURE)
    return any(fnmatchcase(name, pattern) or fnmatchcase(name, pattern.rpartition(".")[2]) for pattern in patterns)


FIRST = 50
"""So many known values of an input, the first ones, say whether it holds numbers or text."""


def _is_category(values: pd.Series) -> bool:
    """Tell whether an input holds text that is no number: what follows on numbers is damaged, and no category.

    >>> [_is_category(pd.Series(one)) for one in (["north", None], ["0.5", "0.7"], [0.5, "north"], [{"a": 1}])]
    [True, False, False, False]
    """
    if pd.api.types.is_numeric_dtype(values):
        return False
    first = values.astype("object").dropna().head(FIRST)
    is_text = first.map(_is_text).astype(bool) & pd.to_numeric(first, errors="coerce").isna()
    return bool(len(first) and is_text.mean() > 0.5)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _with_numbers(table: pd.DataFrame, columns: list[str], path: Path, problems: list[str]) -> pd.DataFrame:
    """Return a table whose named columns hold numbers; what is none is missing, and named."""
    for column in columns:
        if not pd.api.types.is_numeric_dtype(table[column]):
            numbers = pd.to_numeric(table[column], errors="coerce")
            if lost := int((numbers.isna() & table[column].notna()).sum()):
                problems.append(
                    f"{path.name}: column {column} holds {table[column].dtype}; it must hold numbers, and {lost} of "
                    f"{len(table)} values are none"
                )
            table = table.assign(**{column: numbers})
    return table.astype(dict.fromkeys(columns, "float64"))


def _read_logs(path: Path, problems: list[str]) -> pd.DataFrame:
    entries, damaged = [], []
    for number, line in enumerate(log_lines(path), 1):
        entry = _log_entry(line)
        if entry is None:
            damaged.append(number)
        else:
            entries.append(entry)
    if damaged:
        problems.append(
            f"{path.name}: {len(damaged)} of {len(damaged) + len(entries)} lines are no object with a time (and its "
            f"zone), level and message, or longer than {LONGEST_LINE} bytes, and are left out; the first is line "
            f"{damaged[0]}"
        )
    table = pd.DataFrame(entries, columns=list(LOG_COLUMNS)) if entries else _empty(LOG_COLUMNS)
    return table.sort_values("time", kind="stable", ignore_index=True)


def log_lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file that hold anything; one above `LONGEST_LINE` bytes as a `?`, which is none."""
    try:
        with opened(path) as file:
            while line := file.readline(LONGEST_LINE):
                is_whole = line.endswith(b"\n") or len(line) < LONGEST_LINE
                while not is_whole and (rest := file.readline(LONGEST_LINE)):
                    is_whole, line = rest.endswith(b"\n"), b"?"
                if line.strip():
                    yield line
    except OSError as error:
        raise InputError(f"{path}: not readable ({error})") from error


def _log_entry(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
        time = pd.Timestamp(entry["time"])
        texts = {key: printable(str(entry[key])) for key in ("level", "message")}
        fields = entry.get("fields")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
        return None
    if pd.isna(time) or time.tzinfo is None:
        return None
    told = json.dumps(flat_fields(fields if isinstance(fields, dict) else {}))
    return {"time": time.tz_convert("UTC"), **texts, "fields": told}


def flat_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return at most `MOST_FIELDS` fields with short names and values; whatever is not a number becomes text."""
    return {
        printable(str(name), 60): value
        if isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value))
        else printable(str(value), LONGEST_FIELD)
        for name, value in itertools.islice(fields.items(), MOST_FIELDS)
    }


def _read_topology(path: Path, problems: list[str]) -> pd.DataFrame:
    try:
        with opened(path) as file:
            table = pd.read_csv(file, dtype=str)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable as CSV ({printable(str(error), 200)})") from error
    _check_columns(table, TOPOLOGY_COLUMNS, path)
    return table


def _read_signals(path: Path, problems: list[str]) -> dict[str, Signal]:
    """Return the signals as captured; nothing where they are not there, as in the former format, or not readable."""
    try:
        return from_json(_read_json(path)) if path.exists() else {}
    except InputError as error:
        problems.append(f"{path.name}: {printable(str(error).replace(f'{path.parent}/', ''), 200)}")
        return {}


def _find_models(folder: Path, versions: Versions, absent: list[str]) -> dict[str, Path]:
    wanted = dict.fromkeys(version for version in (versions.current, versions.last_good) if version)
    absent += [f"models/{version}" for version in wanted if not (folder / version).is_dir()]
    return {version: folder / version for version in wanted if (folder / version).is_dir()}


def _write_parts(recording: Recording, folder: Path) -> None:
    folder.mkdir()
    _write_json(folder / "incident.json", recording.incident.model_dump(mode="json"))
    if recording.incident.format != FORMER:
        _write_json(folder / "signals.json", to_json(recording.signals))
    for name in ("requests", "metrics", "reference"):
        table: pd.DataFrame = getattr(recording, name)
        if len(table):
            table.to_parquet(folder / f"{name}.parquet", index=False, compression="zstd")
    if len(recording.logs):
        lines = [json.dumps(_log_line(entry), ensure_ascii=False) for entry in recording.logs.to_dict("records")]
        (folder / "logs.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    if len(recording.topology):
        recording.topology.to_csv(folder / "topology.csv", index=False)
    for version, source in recording.models.items():
        shutil.copytree(source, folder / "models" / version)


def _log_line(entry: dict[Any, Any]) -> dict[str, Any]:
    time = entry["time"].isoformat().replace("+00:00", "Z")
    return {"time": time, "level": entry["level"], "message": entry["message"], "fields": json.loads(entry["fields"])}


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
