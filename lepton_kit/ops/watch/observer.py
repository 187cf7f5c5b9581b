"""Looks at the services: are they up and ready, what is left of their error budgets, which embedded alerts fire.

Where the source is a folder, the services are scraped into it here, and objectives are evaluated here. Of several
processes that watch one project, one does so.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from lepton_kit.ops.declared import readiness, service_address
from lepton_kit.ops.watch.evidence import FOLDER, is_address, source_of
from lepton_kit.ops.watch.intake import Intake
from lepton_kit.ops.watch.objectives import (
    NotMeasured,
    declared_objectives,
    not_measured,
    own_series,
    without_service,
)
from lepton_kit.ops.watch.queue import EMBEDDED, MOST_OPEN, Incident, Queue
from lepton_kit.ops.watch.silences import Silences
from lepton_kit.ops.watch.webhook import Alert
from lepton_kit.project.settings import Settings
from lepton_kit.telemetry.declaration import Declaration

if TYPE_CHECKING:  # pandas: not for a project without services
    from lepton_kit.telemetry.alerts import AlertEvaluator
    from lepton_kit.telemetry.burn_rates import Memory, Status
    from lepton_kit.telemetry.scrape import Scraper
    from lepton_kit.telemetry.selectors import Source
    from lepton_kit.telemetry.store import Store

logger = logging.getLogger("lepton.watch")
EVALUATION_S, BUDGETS_S = 30.0, 60.0
"""Seconds between two evaluations of the alerts, and of the budgets; `time_scale` shortens the first."""
ANSWER_S = 5.0  # an answer of a server may take; what is slower counts as none, so that other objectives do not wait


@dataclass(frozen=True)
class Budget:
    """An objective and the part of its error budget that is left; None where nothing was counted.

    `is_measured` says whether it is, up to the present.
    """

    objective: str
    title: str
    target: float
    left: float | None
    is_measured: bool


@dataclass(frozen=True)
class ServiceState:
    """What was last seen of a service."""

    name: str
    model: str
    address: str | None = None
    is_up: bool = False
    is_ready: bool = False
    version: str | None = None
    problem: str = "not looked at yet"
    looked: float | None = None
    budgets: tuple[Budget, ...] = ()


class Observer:
    """The thread that looks, every `scrape_interval` seconds, and keeps what it saw last.

    `troubles` are, by the step that met them, what is not as it must be, and why; `not_measured` are the objectives
    that nothing is known of.

    Raises InputError when objectives cannot be read.
    """

    def __init__(self, settings: Settings, project: Path, queue: Queue, intake: Intake) -> None:
        self._settings, self._project, self._queue, self._intake = settings, project, queue, intake
        self.services = {name: ServiceState(name, one.registered or name) for name, one in settings.services.items()}
        self.troubles: dict[str, Mapping[str, str]] = {}
        self.not_measured: tuple[NotMeasured, ...] = ()
        self._is_leading = False
        declared = declared_objectives(settings, project) if settings.services else []
        self._unwatched = without_service(declared, settings)
        self._objectives = own_series([one for one in declared if one.service in settings.services], settings)
        is_folder = not is_address(settings.watch.source)
        chosen = settings.watch.embedded_alerts
        self._scrapes, self._evaluates = is_folder, is_folder if chosen is None else chosen
        self._source: Source | None = None
        self._store: Store | None = None
        self._scraper: Scraper | None = None
        self._evaluator: AlertEvaluator | None = None
        self._memory: Memory | None = None
        self._targets: dict[str, str] = {}
        asked = settings.watch.alertmanager
        self._silences = Silences(asked, queue, intake) if asked else None
        self._lock: TextIO | None = None
        self._evaluated = self._budgeted = float("-inf")
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="observer", daemon=True)

    @property
    def problems(self) -> dict[str, str]:
        """Return all troubles, by what they concern."""
        return {what: why for found in list(self.troubles.values()) for what, why in found.items()}

    def start(self) -> None:
        """Begin to look."""
        if self._settings.services or self._silences:
            self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(timeout=10)
        if self._store is not None:
            self._store.close()

    def _loop(self) -> None:
        interval = self._settings.watch.scrape_interval
        next_time = time.monotonic()
        while not self._stopping.is_set():
            self.look()
            next_time = max(next_time + interval, time.monotonic())
            self._stopping.wait(next_time - time.monotonic())

    def look(self) -> None:
        """Look once at everything that is due."""
        now = time.monotonic()
        with self._problem_noted("services"):
            self._look_at_services()
        if self._silences is not None:
            with self._problem_noted("silences"):
                self._silences.look()
        with self._problem_noted("telemetry"):
            if self._leads() and self._scrapes:
                self._scrape()
        if self._is_leading and self._evaluates:
            if now - self._evaluated >= self._pause(EVALUATION_S):
                self._evaluated = now
                with self._problem_noted("embedded alerts"):
                    self._evaluate()
        elif now - self._budgeted >= self._pause(BUDGETS_S):
            self._budgeted = now
            with self._problem_noted("error budgets"):
                self._look_at_budgets()

    def _pause(self, seconds: float) -> float:
        return max(1.0, seconds / self._settings.watch.time_scale)

    @contextlib.contextmanager
    def _problem_noted(self, what: str) -> Iterator[None]:
        """Keep for the status page what could not be done; the next look tries again."""
        try:
            yield
        except Exception as error:  # whatever it is: to watch the rest matters more
            self.note_troubles(what, {what: f"{type(error).__name__}: {error}"})
        else:
            self.note_troubles(what, {})

    def note_troubles(self, step: str, found: Mapping[str, str]) -> None:
        """Keep what a step met, in place of what it met last; what is new is logged."""
        before = self.troubles.get(step, {})
        for what in found.keys() - before.keys():
            logger.warning("%s: %s", what, found[what])
        self.troubles[step] = found

    def _leads(self) -> bool:
        """Say whether this process is the one that scrapes and evaluates for this project."""
        if self._lock is None:
            (self._project / FOLDER).mkdir(exist_ok=True)
            self._lock = (self._project / FOLDER / ".observer").open("a")
        if not self._is_leading:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._is_leading = True
        return self._is_leading

    def _look_at_services(self) -> None:
        for name, service in self._settings.services.items():
            state = _look_at(name, service, self._project)
            self.services[name] = replace(state, budgets=self.services[name].budgets)

    def _scrape(self) -> None:
        from lepton_kit.telemetry.scrape import Scraper
        from lepton_kit.telemetry.store import Store

        self._targets.clear()
        self._targets.update({name: state.address for name, state in self.services.items() if state.address})
        if self._scraper is None:
            self._source = self._store = Store(self._project / self._settings.watch.source)
            self._scraper = Scraper(self._store, self._targets, self._settings.watch.scrape_interval)
        scraped = self._scraper.scrape_once()
        self.note_troubles("scrape", {f"metrics of {one.job}": one.problem for one in scraped if one.problem})

    def _evaluate(self) -> None:
        from lepton_kit.telemetry.alerts import AlertEvaluator

        if self._evaluator is None:
            self._evaluator = AlertEvaluator(self._objectives, self._opened(), self._settings.watch.time_scale)
        now = time.time()
        found = [Alert.model_validate(alert) for alert in self._evaluator.evaluate(now)]
        self._note_budgets(self._evaluator.statuses)
        firing = self._queue.incidents(MOST_OPEN, status="firing", origin=EMBEDDED)
        if changed := embedded_changes(found, firing, now, self._evaluator.unjudged()):
            self._intake.submit(changed, EMBEDDED).result(timeout=30)

    def _look_at_budgets(self) -> None:
        """Look at the budgets where the alerts are not evaluated here."""
        from lepton_kit.telemetry.alerts import evaluate_all
        from lepton_kit.telemetry.burn_rates import Memory

        source = self._opened()
        self._memory = self._memory or Memory(source)
        scale, now = self._settings.watch.time_scale, time.time()
        self._note_budgets(evaluate_all(self._objectives, source, now, scale, self._memory))

    def _note_budgets(self, statuses: Sequence[Status]) -> None:
        from lepton_kit.telemetry.prometheus import warnings_of

        missing = [*self._unwatched, *not_measured(statuses)]
        faults = {f"objective {one.objective} of {one.service}": one.detail for one in missing if one.is_fault}
        self.note_troubles("objectives", faults)
        warned = {f"warning for {chosen}": "; ".join(said) for chosen, said in warnings_of(self._source).items()}
        self.note_troubles("warnings", warned)
        for name, state in list(self.services.items()):
            mine = [status for status in statuses if status.objective.service == name]
            self.services[name] = replace(state, budgets=tuple(map(_budget, mine)))
        self.not_measured = tuple(missing)  # last: who asks again after it finds the rest

    def _opened(self) -> Source:
        if self._source is None:
            self._source = source_of(self._settings, self._project, ANSWER_S)
        return self._source


def embedded_changes(
    found: Sequence[Alert], firing: Sequence[Incident], now: float, unjudged: Collection[str] = ()
) -> list[Alert]:
    """Return the alerts that have begun or ended, by what the evaluator says now and what is known to fire.

    An alert that fires goes on being the same one, also where the evaluator was started anew and says a later start.
    Of those that `unjudged` names by their fingerprints nothing is known: they do not end by that.
    """
    known = {incident.fingerprint: incident for incident in firing}
    current = {alert.fingerprint for alert in found if alert.status == "firing"}
    begun = [alert for alert in found if alert.status == "firing" and alert.fingerprint not in known]
    ends = {alert.fingerprint: alert.ends_at for alert in found if alert.status == "resolved"}
    ended = []
    for fingerprint, incident in known.items():
        if fingerprint not in current and fingerprint not in unjudged:
            end = ends.get(fingerprint) or datetime.fromtimestamp(now, UTC)
            told = {**incident.alert, "status": "resolved", "endsAt": end}
            ended.append(Alert.model_validate(told))
    return begun + ended


def _budget(status: Status) -> Budget:
    one = status.objective
    return Budget(one.name, one.title, one.target, status.budget_left, status.unmeasured is None)


def _look_at(name: str, service: Declaration, project: Path) -> ServiceState:
    address = service_address(name, service, project)
    state = ServiceState(name, service.registered or name, address, looked=time.time(), problem="not running")
    if address is None:
        return state
    found = readiness(address, service)
    return replace(
        state, is_up=found.is_up, is_ready=found.is_ready, version=found.version or None, problem=found.problem
    )
