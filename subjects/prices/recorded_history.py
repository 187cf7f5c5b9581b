"""Records a repaired incident for the postmortem: `python -m subjects.prices.recorded_history FOLDER` (minutes).

`stale-feed-repaired` is a real service under real load whose feed sticks: `lepton watch` sees an objective's alert,
freezes the evidence, runs the diagnosis, proposes the repair of the data and waits; this program approves it in place
of a person, the repair's runbook has the feed restarted, the alert ends, and the history is frozen. Nothing in it is
written by hand but the judgement; the prices are real, and the fault of the feed is made.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import httpx
from prometheus_client.parser import text_string_to_metric_families

from lepton_kit.diagnosis.history import read_history
from lepton_kit.errors import LeptonError
from lepton_kit.files import write_atomically
from lepton_kit.models.registry import Registry
from lepton_kit.ops.services import start_service
from lepton_kit.ops.watch.approvals import make_decision
from lepton_kit.ops.watch.evidence import recording_folder
from lepton_kit.ops.watch.history import HISTORY, JUDGEMENT, incident_folder
from lepton_kit.ops.watch.queue import Incident, Queue
from lepton_kit.runs.project import find_project
from lepton_kit.telemetry.recordings import Recording, read_recording, write_recording
from subjects.prices.recorded_services import train_versions
from subjects.prices.sources import read_prices

NAME, SERVICE = "stale-feed-repaired", "goog"
TIME_SCALE, FRESH_S, RATE = 600, 10.0, 12.0
FAULT, FAULT_AFTER_S, WITHIN_S = "stale-feed", 40.0, 300.0
STOPPED, BACK = "feed-restart-asked", "feed-is-back"
BY = "subjects.prices.recorded_history, in place of a person"
MADE = (
    f"recorded by `python -m subjects.prices.recorded_history`: a real service under {RATE:g} requests a second, its "
    f"feed made to stick after {FAULT_AFTER_S:g} s, watched with all windows {TIME_SCALE} times shorter; a program "
    "approved the repair, and restarted the feed when the repair asked for it"
)
SETTINGS = f"""
[services.{SERVICE}]
model = "{SERVICE}"
actions.restart_feed = ["sh", "-c", "touch {STOPPED}; until [ -e {BACK} ]; do sleep 0.1; done"]

[watch]
time_scale = {TIME_SCALE}
scrape_interval = 1
report = false

[remedies.data]
runbook = "runbooks/repair-data.ipynb"
policy = "ask"
parameters = {{ observe_seconds = 30.0 }}

[postmortem]
runbook = "runbooks/postmortem.ipynb"
"""
ALERT = '[alerts.Goog{}BudgetBurn]\nrunbook = "runbooks/incident-diagnosis.ipynb"\n'
OBJECTIVES = ("Coverage", "Freshness")
_T = TypeVar("_T")


def record(folder: Path, kit: Path) -> Path:
    """Record into `folder/stale-feed-repaired`, with the runbooks of the project `kit`, and return that."""
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        project = _project(Path(scratch) / "project", kit)
        service = start_service(project, SERVICE, workers=1, fresh_for=FRESH_S)
        stack.callback(service.stop)
        stack.enter_context(_running(project, "watch", "--port", "0"))
        queue = Queue(project)
        with _load(project, "--fault", FAULT, "--fault-after", str(FAULT_AFTER_S)):
            repair = _awaited(queue.waiting, "no repair was proposed")[0]
            queue.decide(repair.job, make_decision(True, BY, "lepton approve", "approved in order to record this"))
            _awaited((project / STOPPED).exists, "the repair did not restart the feed")
        asked = _asked(service.address)
        with _load(project):
            _awaited(lambda: _asked(service.address) > asked + RATE, "the feed did not come back")
            (project / BACK).touch()
            _awaited(lambda: _looked_back(queue, repair.incident), "the incident was not looked back on")
        incident = queue.incident(repair.incident)
        assert incident is not None
        return _kept(incident, project, folder / NAME)


def _project(project: Path, kit: Path) -> Path:
    for part in ("runbooks", "slo"):
        shutil.copytree(kit / part, project / part)
    alerts = "\n".join(map(ALERT.format, OBJECTIVES))
    (project / "lepton.toml").write_text(SETTINGS + alerts, encoding="utf-8")
    train_versions(read_prices("sample:goog")[["date", "close"]], Registry(project / "models"))
    return project


@contextlib.contextmanager
def _running(project: Path, *words: str) -> Iterator[None]:
    """Run a command of the kit in the project until the end of what stands below this."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LEPTON_")}
    with (project / f"{words[0]}.log").open("a") as log:
        command = [sys.executable, "-m", "lepton_kit.cli", *words]
        process = subprocess.Popen(command, cwd=project, env=kept, stdout=log, stderr=log)
    try:
        yield
    finally:
        process.terminate()
        process.wait(90)


def _load(project: Path, *fault: str) -> contextlib.AbstractContextManager[None]:
    seconds = str(FAULT_AFTER_S + 2 * WITHIN_S)
    return _running(project, "replay", SERVICE, "--for", seconds, "--rate", str(RATE), "--feedback-after", "1", *fault)


def _awaited(question: Callable[[], _T], otherwise: str) -> _T:
    deadline = time.monotonic() + WITHIN_S
    while time.monotonic() < deadline:
        if answer := question():
            return answer
        time.sleep(0.2)
    raise LeptonError(f"{otherwise} within {WITHIN_S:g} s")


def _asked(address: str) -> float:
    """Return how many forecasts a service was asked for."""
    families = text_string_to_metric_families(httpx.get(f"{address}/metrics", timeout=10, trust_env=False).text)
    samples = (sample for family in families for sample in family.samples)
    return sum(one.value for one in samples if one.name == "lepton_predict_requests_total")


def _looked_back(queue: Queue, incident: str) -> bool:
    return any(job.kind == "postmortem" and job.state == "ended" for job in queue.jobs(incident=incident))


def _kept(incident: Incident, project: Path, folder: Path) -> Path:
    """Copy what the incident left; the history says how it came to be, and nothing of this machine."""
    folder.mkdir(parents=True, exist_ok=True)
    left = incident_folder(incident, project)
    history = read_history(left / HISTORY).model_copy(update={"made": MADE})
    write_atomically(folder / HISTORY, history.model_dump_json(indent=1) + "\n")
    if not (folder / JUDGEMENT).exists():
        shutil.copy(left / JUDGEMENT, folder / JUDGEMENT)
    truth = {"cause": "data", "what": "the feed repeats one day's row until it is restarted"}
    recorded, after = (
        read_recording(recording_folder(project, part)) for part in (incident.id, f"{incident.id}-recovery")
    )
    write_recording(_without(recorded, "logs"), folder / "recording", truth)
    write_recording(_without(after, "logs", "reference", "models"), folder / "after", truth)
    return folder


def _without(recording: Recording, *parts: str) -> Recording:
    """Return a recording without some parts, which says so: they are large, and no postmortem reads them."""
    empty = Recording(recording.incident)
    provenance = recording.incident.provenance
    said = (*provenance.derived, f"left out, to keep it small: {', '.join(parts)}")
    incident = recording.incident.model_copy(update={"provenance": provenance.model_copy(update={"derived": said})})
    return replace(recording, incident=incident, **{part: getattr(empty, part) for part in parts})


if __name__ == "__main__":
    print(record(Path(sys.argv[1]), find_project()))
