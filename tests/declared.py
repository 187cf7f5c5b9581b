"""Incidents of declared services with real processes: the service, those who ask it, a proxy, and what is scraped."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from helpers import PATIENCE_S, copy_folders
from monitors import free_port

from lepton_kit.diagnosis.capture import capture
from lepton_kit.ops.faults import Fault, find_fault
from lepton_kit.ops.live_drills import Declared, declared
from lepton_kit.project.begin import begin
from lepton_kit.project.settings import read_settings
from lepton_kit.telemetry.alerts import AlertEvaluator
from lepton_kit.telemetry.recordings import Promise, Recording
from lepton_kit.telemetry.scrape import Scraper
from lepton_kit.telemetry.slo import read_objectives
from lepton_kit.telemetry.store import Store

TIME_SCALE = 300


def hurried(declaration: Path) -> None:
    """Let the service that a file declares listen on a port that is free, and scoring be asked twice as often: as many
    answers are judged in half the time.
    """
    written = re.sub(r"\b8[23]00\b", str(free_port()), declaration.read_text())
    declaration.write_text(written.replace('"--rate", "6"', '"--rate", "12"'))


def subject_project(project: Path, name: str) -> Path:
    """Make a project that has one of the subjects."""
    project.mkdir(parents=True, exist_ok=True)
    copy_folders(project, "subjects")
    (project / "lepton.toml").write_text("")
    hurried(project / "subjects" / name / "declaration.toml")
    return project


def example_stage(project: Path, name: str, fault: Fault) -> Declared:
    """Begin a project with one of the examples, as `lepton init --example` does."""
    begin(project, example=name)
    hurried(project / "lepton.toml")
    return Declared(project, fault, name, read_settings(project).services[name])


def judged(stage: Declared) -> int:
    """Return how many answers of a service were judged."""
    assert stage.declaration.labels is not None
    path = stage.project / str(stage.declaration.labels.path)
    return path.read_text().count("\n") if path.exists() else 0


@dataclasses.dataclass
class Course:
    """One service that runs, is asked and is watched."""

    stage: Declared
    store: Store
    scraper: Scraper
    evaluator: AlertEvaluator
    began: float = dataclasses.field(default_factory=time.time)
    injected: float = 0.0
    judged_before: int = 0
    fired: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    def watch(self, until: Callable[[], Any], seconds: float = PATIENCE_S) -> Any:
        """Scrape and evaluate until something is so, and return it."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.scraper.scrape_once()
            self.fired += [one for one in self.evaluator.evaluate(time.time()) if one["status"] == "firing"]
            if found := until():
                return found
            time.sleep(0.4)
        raise AssertionError(f"did not come within {seconds} s; alerts: {self.alerts}")

    def healthy(self, count: int) -> None:
        """Let the service be asked until so many answers were judged."""
        self.watch(lambda: self.judged >= count)

    def scrapes(self, count: int) -> None:
        """Let it go on until it was scraped so many times more."""
        left = iter(range(count))
        self.watch(lambda: next(left, None) is None)

    def inject(self) -> None:
        """Let the fault begin."""
        self.fired.clear()
        self.injected, self.judged_before = time.time(), self.judged
        self.stage.inject()

    def judged_since(self, count: int) -> None:
        """Wait until so many answers were judged since the fault began, however slow the machine is."""
        self.watch(lambda: self.judged - self.judged_before >= count)

    @property
    def judged(self) -> int:
        """Return how many answers were judged."""
        return judged(self.stage)

    def captured(self, *alerts: dict[str, Any]) -> Recording:
        """Freeze what is known since the beginning, as `lepton watch` does."""
        project, name, declaration = self.stage.project, self.stage.name, self.stage.declaration
        promises = [Promise.of(one, TIME_SCALE) for one in self.evaluator.objectives]
        folder, now = project / "incidents" / f"{time.time():.0f}", time.time()
        return capture(name, declaration, project, self.store, self.began, now, folder, alerts, promises)

    @property
    def alerts(self) -> set[str]:
        """Return the names of the alerts that fired since the fault began."""
        return {one["labels"]["alertname"] for one in self.fired}

    def alert(self, name: str, seconds: float = PATIENCE_S) -> dict[str, Any]:
        """Wait for an alert by its name."""
        return self.watch(
            lambda: next((one for one in self.fired if one["labels"]["alertname"] == name), None), seconds
        )


@contextlib.contextmanager
def course(project: Path, name: str, fault: Fault | str) -> Iterator[Course]:
    """Run a subject with a fault that has not begun."""
    found = find_fault(fault, 3) if isinstance(fault, str) else fault
    stage = declared(subject_project(project, name), found, name)
    with stage.running() as address, stage.asked(), Store(stage.project / "telemetry") as store:
        objectives = [one.within({"job": name}) for one in read_objectives(project / stage.declaration.objectives)]
        evaluator = AlertEvaluator(objectives, store, TIME_SCALE)
        yield Course(stage, store, Scraper(store, {name: address}, 0.5, timeout=5), evaluator)
