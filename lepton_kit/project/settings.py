"""Reads `lepton.toml`, one project's settings."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, IPvAnyAddress, ValidationError, model_validator

from lepton_kit.errors import InputError
from lepton_kit.runs.project import SETTINGS
from lepton_kit.runs.targets import Targets
from lepton_kit.secrets import without_password
from lepton_kit.telemetry.declaration import Declaration, Name, Section, objectives_folder

WATCH_VARIABLE = "LEPTON_WATCH"
REMEDIES_VARIABLE = "LEPTON_REMEDIES"
SERVICES_VARIABLE = "LEPTON_SERVICES"
NOTIFY_VARIABLE = "LEPTON_NOTIFY"
ABOVE = {
    "watch": WATCH_VARIABLE,
    "remedies": REMEDIES_VARIABLE,
    "services": SERVICES_VARIABLE,
    "notify": NOTIFY_VARIABLE,
}
"""Sections, and the variables (TOML) that stand above what lepton.toml says of them."""


Event = Literal["opened", "acknowledged", "diagnosed", "waiting", "repaired", "not_repaired", "resolved"]
"""What `lepton watch` notifies people of: `waiting` is a repair that waits for their approval."""


class Step(Section):
    """One notebook of a pipeline, with values for its parameters.

    `leaves` names what the notebook writes outside of its run, relative to the project: while that is missing, the
    step is not skipped.
    """

    notebook: str
    parameters: dict[str, Any] = {}
    leaves: list[str] = []


class Pipeline(Section):
    """Notebooks that run one after another."""

    title: str = ""
    steps: list[Step] = Field(min_length=1)


class FromLabel(Section):
    """A parameter whose value is that of a label of the alert; labels that are not named so reach no notebook."""

    label: str = Field(min_length=1)


class Action(Section):
    """A runbook and values for its parameters: literals, or `{ label = "name" }`."""

    runbook: str
    parameters: dict[str, FromLabel | Any] = {}


def _action(given: Any) -> Any:
    return {"runbook": given} if isinstance(given, str) else given


class AlertRule(Action):
    """What an alert of a name starts, and what its end starts (`on_resolved`: a runbook, or an `Action`).

    An alert whose severity is not among `severities` is recorded only; without `severities` all start the runbook.
    """

    on_resolved: Annotated[Action | None, BeforeValidator(_action)] = None
    severities: list[str] | None = None


class Remedy(Section):
    """The runbook that repairs a cause, and whether it starts by itself (`auto`) or waits for a person (`ask`).

    Its parameter `service` is given the service's name, and `recording`, where it has one, the incident's evidence.
    """

    runbook: str
    policy: Literal["auto", "ask"] = "ask"
    parameters: dict[str, Any] = {}


class Remedies(Section):
    """What follows on a diagnosis, cause by cause; a cause without an entry is diagnosed and nothing more.

    Parameters
    ----------
    most_per_hour
        Repairs of one service that may start by themselves within an hour; what is more waits for a person. 0 lets
        none start, as in a freeze.
    least_probability
        How probable a diagnosis must be for a repair to start by itself; a less probable one waits for a person.
    data, model, compute
        The remedy of each cause.
    """

    most_per_hour: int = Field(default=3, ge=0, le=10_000)
    least_probability: float = Field(default=0.8, ge=0, le=1)
    data: Remedy | None = None
    model: Remedy | None = None
    compute: Remedy | None = None

    def by_cause(self) -> dict[str, Remedy]:
        """Return the remedies that are set, by cause."""
        causes = {"data": self.data, "model": self.model, "compute": self.compute}
        return {cause: remedy for cause, remedy in causes.items() if remedy is not None}


class Postmortem(Section):
    """The runbook that looks back on an incident that was repaired.

    It starts once the alert has ended (`resolved`), or as soon as the last repair has (`repaired`). Its parameters
    `history`, `recording`, `after` and `judgement`, where it has them, are given what the incident left.
    """

    runbook: str
    when: Literal["resolved", "repaired"] = "resolved"
    parameters: dict[str, Any] = {}


class Schedule(Section):
    """A notebook that runs at the times of a cron expression, in `timezone`.

    A notebook with a parameter `recording` is given the last `evidence_hours` of `service`, shortened by `time_scale`.
    """

    notebook: str
    cron: str
    parameters: dict[str, Any] = {}
    timezone: str = "UTC"
    service: str | None = None
    evidence_hours: float = Field(default=48, gt=0, le=24 * 90)


class Drills(Section):
    """Days after which a drill no longer proves a runbook."""

    stale_days: float = Field(default=30, gt=0, le=3650)


class Capture(Section):
    """How recordings are kept: `key` is where the key is (`env:NAME`, `file:PATH`) that they are encrypted with."""

    key: str | None = None


class ClusterAddress(Section):
    """Where `lepton run` executes notebooks: `address` is that of a dask scheduler; by default they run here."""

    address: str | None = None


class Lab(Section):
    """How jobs of JupyterLab's scheduler, and runs that `lepton ui` starts, are executed.

    Parameters
    ----------
    timeout, cell_timeout
        Seconds that a run, and a cell, may take; for ever unless given.
    retries, backoff
        How often a run is tried again that ran out of time or whose kernel died, and after how many seconds first.
    report
        Whether the run's page is then put into the report site.
    """

    timeout: float | None = Field(default=None, gt=0)
    cell_timeout: float | None = Field(default=None, gt=0)
    retries: int = Field(default=0, ge=0, le=100)
    backoff: float = Field(default=1, ge=0)
    report: bool = True


class Notify(Section):
    """Whom `lepton watch` tells of incidents.

    Parameters
    ----------
    urls
        References (`env:NAME`, `file:PATH`) to addresses as Apprise writes them, such as `slack://…` or `mailto://…`.
    on
        Which events to send.
    address
        Where people reach the watch, for links; the address that it listens on unless given.
    links
        A reference to the key of signed links: by them a person who gets a notice may approve or reject the
        repair that it asks about: without a login, once, and for `link_minutes`. Without a key there are none.
    most_per_hour
        Notices that each address gets within an hour; what is more is not sent, and the status page says so.
    """

    urls: list[str] = []
    on: list[Event] = list(get_args(Event))
    address: str | None = None
    links: str | None = None
    link_minutes: float = Field(default=60, gt=0, le=7 * 24 * 60)
    most_per_hour: int = Field(default=30, ge=1, le=10_000)


class Watch(Section):
    """How `lepton watch` works.

    Parameters
    ----------
    token, hmac
        References to secrets (`env:NAME`, `file:PATH`): the bearer token of webhooks, the key of their signature.
    login
        A reference to the token that opens the pages and `/status.json`; anybody may read them unless it is given, or
        `user_header`.
    user_header, proxies
        The header in which a reverse proxy before this server names the user that logged in there, and the addresses
        that proxy asks from; the header of any other client counts for nothing.
    hosts
        Further names under which this server is asked, such as that of a proxy before it; requests that name another
        are refused.
    body_limit
        Bytes that a webhook may have.
    workers
        Runs at once; 0 receives and queues only.
    alertmanager
        The address of the Alertmanager whose silences are respected: while an alert is silenced there, nobody is
        notified of its incident, and no repair starts by itself.
    source
        Where the samples are: the folder of the embedded store, or the address of a Prometheus.
    embedded_alerts
        Whether objectives are evaluated here; unless given, they are where the source is a folder.
    scrape_interval
        Seconds between two scrapes of the services.
    time_scale
        All windows of objectives are this many times shorter, for demonstrations.
    evidence_hours
        How long before an alert its recording begins; shortened by `time_scale`.
    most_looks
        How often an alert's runbook may run at most, while what it found left the incident open and the alert fires.
    look_again_minutes
        How long after such a run evidence is captured anew, and the runbook runs again; shortened by `time_scale`.
    flap_minutes
        An alert that ends and begins again within this many minutes of its last diagnosis is not diagnosed at once, but
        when they are over, if it still fires then; shortened by `time_scale`.
    run_timeout
        Seconds that a run may take.
    stop_seconds
        How long runs may go on after SIGTERM, before they are cancelled.
    report
        Whether the report site is rendered after an alert's runbook.
    """

    token: str | None = None
    hmac: str | None = None
    login: str | None = None
    user_header: str | None = Field(default=None, pattern=r"^[A-Za-z0-9-]+$")
    proxies: list[IPvAnyAddress] = [ip_address("127.0.0.1"), ip_address("::1")]
    hosts: list[str] = []
    body_limit: int = Field(default=1024 * 1024, ge=1024, le=64 * 1024 * 1024)
    workers: int = Field(default=2, ge=0, le=64)
    alertmanager: str | None = Field(default=None, pattern=r"^https?://")
    source: str = "telemetry"
    embedded_alerts: bool | None = None
    scrape_interval: float = Field(default=15, ge=0.1, le=3600)
    time_scale: float = Field(default=1, gt=0, le=1e6)
    evidence_hours: float = Field(default=24, gt=0, le=24 * 90)
    most_looks: int = Field(default=3, ge=1, le=20)
    look_again_minutes: float = Field(default=10, gt=0, le=24 * 60)
    flap_minutes: float = Field(default=30, ge=0, le=24 * 60)
    run_timeout: float = Field(default=1800, gt=0)
    stop_seconds: float = Field(default=30, ge=0, le=3600)
    report: bool = True


class Settings(Section):
    """The whole of `lepton.toml`.

    `track` names the trackers that each run is written into once it has ended, and where they are; its `store` gets the
    recordings of incidents, too, and other hosts fetch from it what they have not. `ledger` is the
    PostgreSQL that several watchers share (`postgresql+psycopg://USER@HOST/DATABASE`), or where that is kept
    (`env:NAME`, `file:PATH`), so that a password need not stand here; by default it is `runs/ledger.sqlite`.
    """

    ledger: str | None = None
    track: Targets = {}

    pipelines: dict[str, Pipeline] = {}
    services: dict[Name, Declaration] = {}
    alerts: dict[str, AlertRule] = {}
    schedules: dict[Annotated[str, Field(pattern=r"^[^./\\\x00-\x1f\x7f][^/\\\x00-\x1f\x7f]*$")], Schedule] = {}
    remedies: Remedies = Remedies()
    postmortem: Postmortem | None = None
    watch: Watch = Watch()
    capture: Capture = Capture()
    drills: Drills = Drills()
    notify: Notify = Notify()
    cluster: ClusterAddress = ClusterAddress()
    lab: Lab = Lab()

    @model_validator(mode="after")
    def _own_objectives(self) -> Settings:
        for name, one in self.services.items():
            if "objectives" not in one.model_fields_set:
                self.services[name] = one.model_copy(update={"objectives": objectives_folder(name)})
        return self

    def series_of(self, service: str) -> dict[str, str]:
        """Return the labels that the series of a service carry; none of a service that the settings do not name."""
        found = self.services.get(service)
        return {} if found is None else found.series(service)


def read_settings(project: Path) -> Settings:
    """Read a project's settings; the variables of `ABOVE`, such as `LEPTON_WATCH` (TOML), stand above its sections.

    Raises InputError when the file is not TOML, or a setting is unknown, missing or of the wrong type.
    """
    path = project / SETTINGS
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
        for section, variable in ABOVE.items():
            if (above := _above(variable)) and isinstance(below := document.get(section, {}), dict):
                document[section] = _merged(below, above)
        return Settings.model_validate(document)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not TOML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        told = without_password(f"{path}: setting {where!r} = {first['input']!r}: {first['msg']}")
        raise InputError(told + _said_above(first["loc"])) from error


def _above(variable: str) -> dict[str, Any]:
    try:
        return tomllib.loads(os.environ.get(variable, ""))
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"variable {variable}: not TOML: {error}") from error


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return a table with the values of another above its own, also in the tables within it.

    >>> _merged({"most": 3, "data": {"runbook": "r", "policy": "ask"}}, {"data": {"policy": "auto"}})
    {'most': 3, 'data': {'runbook': 'r', 'policy': 'auto'}}
    """
    made = dict(below)
    for name, value in above.items():
        held = made.get(name)
        made[name] = _merged(held, value) if isinstance(held, Mapping) and isinstance(value, Mapping) else value
    return made


def _said_above(setting: tuple[int | str, ...]) -> str:
    """Say by which variable a setting was given, if by one."""
    variable = ABOVE.get(str(setting[0])) if setting else None
    if variable is None:
        return ""
    found: Any = _above(variable)
    for name in setting[1:]:
        if not isinstance(found, Mapping) or name not in found:
            return ""
        found = found[name]
    return f" (from the variable {variable})" if len(setting) > 1 else ""
