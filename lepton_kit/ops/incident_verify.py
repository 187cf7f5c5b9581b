"""Whether what an incident's page says can be derived again: its runs are repeated, and each statement is compared.

A run is repeated from its own notebook, parameters and inputs. The bytes of all of them are checked first: where a
recording is not what was diagnosed, nothing of that run is derived.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lepton_kit.diagnosis.history import History
from lepton_kit.errors import InputError
from lepton_kit.ops.watch.history import history_of
from lepton_kit.ops.watch.queue import Incident, Queue
from lepton_kit.project.settings import read_settings
from lepton_kit.reports.publish import reports_folder
from lepton_kit.runs.manifest import FILE, Manifest
from lepton_kit.runs.repeat import Listener, ResultPair, verify

Verdict = Literal["same", "different", "not derivable"]


@dataclass(frozen=True)
class Source:
    """Where a statement is recorded: the run, its result's name, and the files that it was made from, with SHA-256."""

    run: str
    key: str
    files: Mapping[str, str | None]


@dataclass(frozen=True)
class Statement:
    """What an incident's page says, and what became of it: `why` says why it could not be derived.

    `is_of_failed_run` says that nothing came of repeating its run: that failed, or what it read is not the same bytes.
    """

    name: str
    verdict: Verdict
    recorded: Any
    derived: Any
    why: str
    source: Source
    is_of_failed_run: bool = False


def verify_incident(incident: Incident, queue: Queue, project: Path, on_event: Listener = None) -> list[Statement]:
    """Repeat the diagnosis and the postmortem of an incident, and compare every statement that they recorded.

    What a repair did and what the alert said happened once: these are listed as not derivable.
    """
    history = history_of(incident, queue, read_settings(project), project)
    found: list[Statement] = []
    for run_id in _repeatable(history, queue, project):
        found += _of_run(run_id, project, on_event)
    for job in history.jobs:
        if job.kind == "remedy" and job.run:
            found += _once(job.run.run_id, {name: one.value for name, one in job.run.results.items()}, REPAIRED)
    alert = {"alert begins": history.alert.starts_at, "alert ends": history.alert.ends_at}
    return found + _once("", {name: str(time) for name, time in alert.items() if time}, ALERTED)


REPAIRED = "what a repair did to the service happened once"
ALERTED = "the ledger's record of the alert: nothing else holds it"


def _repeatable(history: History, queue: Queue, project: Path) -> list[str]:
    """Return the run of the diagnosis that counts, and the one that the page shows, or the last postmortem."""
    told = history.diagnosis
    page = reports_folder(project) / "incidents" / history.id / FILE
    looks = queue.jobs(1, incident=history.id, kind="postmortem", state="ended", status="succeeded")
    shown = json.loads(page.read_bytes())["run_id"] if page.is_file() else looks[0].run_id if looks else None
    return list(dict.fromkeys([*([told.run.run_id] if told and told.run else []), *([shown] if shown else [])]))


def _of_run(run_id: str, project: Path, on_event: Listener) -> Iterator[Statement]:
    try:
        run = Manifest.load(project / "runs" / run_id / FILE)
    except InputError as error:
        yield _failed(run_id, str(error))
        return
    files = {one.ref: one.sha256 for one in run.inputs}
    try:
        again = verify(run, project, on_event)
    except InputError as error:  # not the bytes that it read, or it never succeeded
        for name, one in run.results.items():
            yield Statement(name, "not derivable", one.value, None, str(error), Source(run_id, name, files), True)
        if not run.results:
            yield _failed(run_id, str(error))
        return
    failed = "" if again.repeated.status == "succeeded" else f"its repetition {again.repeated.run_id} did not succeed"
    if failed and not run.results:
        yield _failed(run_id, failed)
    for pair in again.results:
        if pair.before is not None:  # what the page does not say is not compared
            yield _compared(pair, failed, Source(run_id, pair.name, files))


def _failed(run_id: str, why: str) -> Statement:
    return Statement(run_id, "not derivable", None, None, why, Source(run_id, "", {}), is_of_failed_run=True)


def _compared(pair: ResultPair, failed: str, source: Source) -> Statement:
    before, after = (None if one is None else one.value for one in (pair.before, pair.after))
    if pair.verdict == "same":
        return Statement(pair.name, "same", before, after, failed, source, bool(failed))
    if pair.verdict == "not compared" or (failed and pair.after is None):
        why = failed or "the notebook records it without comparison: it differs from run to run"
        return Statement(pair.name, "not derivable", before, after, why, source, bool(failed))
    return Statement(pair.name, "different", before, after, "; ".join(pair.differences), source, bool(failed))


def _once(run_id: str, values: Mapping[str, Any], why: str) -> list[Statement]:
    return [
        Statement(name, "not derivable", value, None, why, Source(run_id, name, {})) for name, value in values.items()
    ]


def holds(statements: list[Statement]) -> bool:
    """Whether something could be derived again, nothing of it is different, and every run could be repeated."""
    verdicts = {one.verdict for one in statements}
    return "same" in verdicts and "different" not in verdicts and not any(one.is_of_failed_run for one in statements)
