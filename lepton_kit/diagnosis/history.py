"""The history of an incident, frozen when it was over: alert, runs, decisions and actions, as a machine can read them.

`lepton watch` writes it as `incidents/<id>/history.json`; times are UTC. What people think of the incident is no part
of it: that stands in `judgement.md` beside it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pydantic
from pydantic import AwareDatetime, Field, field_validator

from lepton_kit.data.input_fixes import InputFixes, renamed
from lepton_kit.errors import InputError
from lepton_kit.telemetry.incident import Part, Text
from lepton_kit.telemetry.recordings import Promise, printable

FORMAT: Literal["lepton-incident-history/1"] = "lepton-incident-history/1"
RUNS = {"alert": "diagnosis", "remedy": "repair", "recovery": "recovery check", "postmortem": "postmortem"}


class Alert(Part):
    """The alert; `received` is when it reached `lepton watch` first."""

    name: Text
    severity: Text = ""
    status: Literal["firing", "resolved"]
    starts_at: AwareDatetime
    ends_at: AwareDatetime | None = None
    received: AwareDatetime
    origin: Text = ""
    summary: Text = ""


class Fact(Part):
    """A value that a run recorded."""

    value: Any
    unit: Text = ""


class Run(Part):
    """What the manifest of a run says: read by a machine, judged by nobody."""

    run_id: Text
    status: Text
    started: AwareDatetime
    ended: AwareDatetime | None = None
    notebook_sha256: str
    code_sha256: str
    commit: str | None = None
    is_dirty: bool = False
    inputs: dict[Text, str | None] = Field(default={})
    results: dict[str, Fact] = Field(default={})
    left_out: tuple[Text, ...] = ()


class Decision(Part):
    """What a person decided on a repair: who, when, and where."""

    time: AwareDatetime
    is_approved: bool
    by: Text
    via: Text = ""
    note: Text = ""


class Job(Part):
    """A run that the incident asked for; `error` says why it never ran, `why` why it waited for a person.

    `plan` is what a repair would do, by its rehearsal.
    """

    kind: Literal["alert", "remedy", "recovery", "postmortem"]
    name: Text
    notebook: Text
    state: Text
    status: Text | None = None
    error: Text | None = None
    queued: AwareDatetime
    started: AwareDatetime | None = None
    ended: AwareDatetime | None = None
    attempts: int = 0
    run: Run | None = None
    is_automatic: bool = True
    why: Text = ""
    plan: Text = ""
    decisions: tuple[Decision, ...] = ()

    def result(self, name: str) -> Any:
        """Return what its run recorded under a name; None where it did not."""
        return self.run.results[name].value if self.run and name in self.run.results else None

    @property
    def what(self) -> str:
        """Return what it is, in words."""
        return f"{RUNS[self.kind]} of {self.name}" if self.kind == "remedy" else RUNS[self.kind]

    @property
    def approved_by(self) -> str:
        """Return who approved it: the policy, or the person who decided last."""
        if self.decisions:
            last = self.decisions[-1]
            return f"{'approved' if last.is_approved else 'rejected'} by {last.by}"
        return "policy" if self.is_automatic else "pending"


class Action(Part):
    """Something that was done to the service, by a run that the policy or a person approved (`by`).

    `outcome` is `done`, or what went wrong; `workers_followed` says how many of the wanted ones followed, and
    `replaced` has the process ids of workers that hung.
    """

    time: AwareDatetime
    run: Text = ""
    by: Text = ""
    action: Text
    why: Text = ""
    outcome: Text = ""
    before: dict[str, Any] = Field(default={})
    after: dict[str, Any] = Field(default={})
    workers_followed: Text = ""
    replaced: tuple[int, ...] = ()

    @field_validator("before", "after", mode="before")
    @classmethod
    def _todays_names(cls, state: Any) -> Any:
        return renamed(state) if isinstance(state, dict) else state

    @property
    def what(self) -> str:
        """Return the action in words, with what it changed.

        >>> moment = "2026-11-25T03:00:00Z"
        >>> Action(time=moment, action="set_state", before={"workers": 1, "version": "v1"},
        ...        after={"workers": 3, "version": "v1"}, outcome="done").what
        'workers 1 → 3'
        >>> Action(time=moment, action="set_state", outcome="done",
        ...        before={"input_fixes": {}}, after={"input_fixes": {"fill": {"a": 0.1}}}).what
        'turned on: fills missing values of 1 feature'
        """
        changes = [
            _change(name, self.before.get(name), value)
            for name, value in self.after.items()
            if value != self.before.get(name)
        ]
        kind = self.action.replace("_", " ")
        text = kind if not changes else ", ".join(changes) if kind == "set state" else f"{kind}: {', '.join(changes)}"
        if self.replaced:
            text += f"; {len(self.replaced)} hung workers replaced"
        return printable(text if self.outcome in ("", "done") else f"{text} ({self.outcome})")


def _change(name: str, before: Any, after: Any) -> str:
    if name != "input_fixes":
        return f"{name.replace('_', ' ')} {before} → {after}"
    return f"turned on: {_fixes(after)}" if after else f"turned off: {_fixes(before)}"


def _fixes(value: Any) -> str:
    try:
        return InputFixes.model_validate(value).summary
    except pydantic.ValidationError:  # a record of an older or newer service
        return str(value)


class History(Part):
    """All of it; `made` says how it came to be, `missing` names missing data.

    `time_scale` shortened the windows of all objectives, for a demonstration. `is_over` says that the alert had ended
    and nothing was left to run or to decide: such a history stays as it is.
    """

    format: Literal["lepton-incident-history/1"]
    id: Text
    service: Text
    alert: Alert
    jobs: tuple[Job, ...] = ()
    actions: tuple[Action, ...] = ()
    promise: Promise | None = None
    frozen: AwareDatetime
    made: Text = ""
    missing: tuple[Text, ...] = ()
    time_scale: float = Field(default=1, gt=0)
    cost_per_minute: float | None = None
    currency: Text = ""
    is_over: bool = False

    @property
    def onset(self) -> pd.Timestamp | None:
        """Return when the incident began, as its diagnosis dates it; None where none does."""
        said = self.diagnosed.get("onset")
        return utc(said) if isinstance(said, str) else None

    @property
    def diagnosis(self) -> Job | None:
        """Return the run of the alert's runbook that counts: the first that named a cause, or else the last one."""
        looks = [job for job in self.jobs if job.kind == "alert"]
        telling = [job for job in looks if job.status == "succeeded" and _results(job).get("cause") != "unknown"]
        return next(iter(telling or looks[::-1]), None)

    @property
    def diagnosed(self) -> dict[str, Any]:
        """Return what that run recorded, by name; nothing where there was none."""
        return _results(self.diagnosis)


def _results(job: Job | None) -> dict[str, Any]:
    return {name: fact.value for name, fact in job.run.results.items()} if job and job.run else {}


def read_history(path: Path | str) -> History:
    """Read a history.

    Raises
    ------
    InputError
        When there is no such file, it is no JSON object, or a field is missing or not what it must be.
    """
    path = Path(path)
    try:
        return History.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: not readable ({error.strerror})") from error
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        given = printable(repr(first["input"]), 80)
        raise InputError(f"{path}: {place} = {given}: {first['msg']}") from error


def utc(moment: Any) -> pd.Timestamp:
    """Return a time in UTC; one without a zone is taken for UTC.

    >>> utc("2026-11-25 03:00:00").isoformat(), utc("2026-11-25T05:00:00+02:00").isoformat()
    ('2026-11-25T03:00:00+00:00', '2026-11-25T03:00:00+00:00')
    """
    time = pd.Timestamp(moment)
    return time.tz_localize("UTC") if time.tzinfo is None else time.tz_convert("UTC")
