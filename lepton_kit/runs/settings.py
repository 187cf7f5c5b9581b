"""Reads `lepton.toml`, one project's settings."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from lepton_kit.errors import InputError
from lepton_kit.runs.project import SETTINGS

WATCH_VARIABLE = "LEPTON_WATCH"


class Section(BaseModel):
    """Base of all sections: a misspelt setting is an error, not a silent default."""

    model_config = ConfigDict(extra="forbid", frozen=True)


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


class Service(Section):
    """A service that is watched; its state lies in `services/<name>/`.

    `address` is where it answers: what `lepton serve` wrote into its folder unless it is given. `slo` holds its
    objectives, `registry` its model; both are folders, relative to the project. `restart_feed` is the command, a list
    of words that no shell reads, which a repair of the data runs in the project's folder to restart the feed.
    """

    model: str
    address: str | None = Field(default=None, pattern=r"^https?://")
    slo: str = "slo"
    registry: str = "models"
    restart_feed: list[str] | None = Field(default=None, min_length=1)


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


class Watch(Section):
    """How `lepton watch` works.

    Parameters
    ----------
    token, hmac
        References to secrets (`env:NAME`, `file:PATH`): the bearer token of webhooks, the key of their signature.
    body_limit
        Bytes that a webhook may have.
    workers
        Runs at once; 0 receives and queues only.
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
    run_timeout
        Seconds that a run may take.
    stop_seconds
        How long runs may go on after SIGTERM, before they are cancelled.
    report
        Whether the report site is rendered after an alert's runbook.
    """

    token: str | None = None
    hmac: str | None = None
    body_limit: int = Field(default=1024 * 1024, ge=1024, le=64 * 1024 * 1024)
    workers: int = Field(default=2, ge=0, le=64)
    source: str = "telemetry"
    embedded_alerts: bool | None = None
    scrape_interval: float = Field(default=15, ge=0.1, le=3600)
    time_scale: float = Field(default=1, gt=0, le=1e6)
    evidence_hours: float = Field(default=24, gt=0, le=24 * 90)
    run_timeout: float = Field(default=1800, gt=0)
    stop_seconds: float = Field(default=30, ge=0, le=3600)
    report: bool = True


class Settings(Section):
    """The whole of `lepton.toml`."""

    pipelines: dict[str, Pipeline] = {}
    services: dict[str, Service] = {}
    alerts: dict[str, AlertRule] = {}
    schedules: dict[str, Schedule] = {}
    watch: Watch = Watch()


def read_settings(project: Path) -> Settings:
    """Read a project's settings; the variable `LEPTON_WATCH` (TOML) stands above what they say of `[watch]`.

    Raises
    ------
    InputError
        When the file is not TOML, or a setting is unknown, missing or of the wrong type.
    """
    path = project / SETTINGS
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
        if above := _above():
            document["watch"] = document.get("watch", {}) | above
        return Settings.model_validate(document)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not TOML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(
            f"{path}: setting {where!r} = {first['input']!r}: {first['msg']}{_said_above(where)}"
        ) from error


def _above() -> dict[str, Any]:
    try:
        return tomllib.loads(os.environ.get(WATCH_VARIABLE, ""))
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"variable {WATCH_VARIABLE}: not TOML: {error}") from error


def _said_above(setting: str) -> str:
    return f" (from the variable {WATCH_VARIABLE})" if setting.removeprefix("watch.") in _above() else ""
