"""Schedules of lepton.toml: cron expressions, each due time handled once, also after sleep or downtime."""

from __future__ import annotations

import logging
import threading
import time
import zoneinfo
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cronsim import CronSim, CronSimError

from lepton_kit.errors import InputError
from lepton_kit.ops.watch.jobs import Start
from lepton_kit.ops.watch.policy import RECORDING, checked_start
from lepton_kit.ops.watch.queue import Queue
from lepton_kit.project.settings import Schedule, Settings

logger = logging.getLogger("lepton.watch")
LOOK_S = 30.0
"""The clock is looked at so often whatever it said last: it may be put back or forward, and stands still in sleep."""


class Schedules:
    """The schedules of a project.

    Each due time has an idempotency key, and the last one handled is kept in the ledger. So a process that wakes, or
    starts, finds what it missed, and queues one run for the latest of it; two processes do not both do so.

    Raises InputError when an expression, a time zone, a notebook or a parameter is not what is needed.
    """

    def __init__(self, settings: Settings, project: Path, queue: Queue, on_work: Callable[[], None]) -> None:
        self._queue, self._on_work = queue, on_work
        self.plans = {name: checked_schedule(name, one, settings, project) for name, one in settings.schedules.items()}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="schedules", daemon=True)

    def start(self) -> None:
        """Handle what was missed, and from now on what becomes due."""
        for name in self.plans:
            self.handle(name)
        if self.plans:
            self._thread.start()

    def stop(self) -> None:
        """Handle nothing more."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    def handle(self, name: str) -> float | None:
        """Queue the run that is due, if any; return the time it was due (Unix seconds)."""
        cron, start = self.plans[name]
        due = self._queue.handle_schedule(name, start, cron.latest_due)
        if due is not None:
            self._on_work()
        return due

    def next_times(self) -> dict[str, datetime]:
        """Return when each schedule is due next."""
        now = datetime.now(UTC)
        return {name: cron.next_due(now) for name, (cron, _) in self.plans.items()}

    def notebook(self, name: str) -> str:
        """Return what a schedule runs."""
        return self.plans[name][1].notebook

    def _loop(self) -> None:
        """Handle each schedule when it is due; the waits are counted by a clock that nobody sets."""
        while not self._stopping.is_set():
            for name in self.plans:
                self._handle_or_warn(name)
            times = [due.timestamp() for due in self.next_times().values()]
            self._stopping.wait(min(max(min(times, default=float("inf")) - time.time(), 0.01), LOOK_S))

    def _handle_or_warn(self, name: str) -> None:
        try:
            self.handle(name)
        except InputError as error:  # such as a full disk: the next due time finds it was missed
            logger.warning("schedule %s: %s", name, error)


@dataclass(frozen=True)
class Cron:
    """A cron expression of five fields in a time zone, as Debian's cron takes it: 0 and 7 are Sunday.

    A time of day that a change of clocks repeats is due the first time it comes; one that it leaves out, when they
    have changed. With every hour (`*`) it is due at each such minute that really comes.

    Raises InputError when there is no such zone, or the expression is none or never due.

    Examples
    --------
    >>> Cron("*/5 * * * *").latest_due(0.0, 1000.0)
    900.0
    """

    expression: str
    timezone: str = "UTC"

    def __post_init__(self) -> None:
        try:
            zone = zoneinfo.ZoneInfo(self.timezone)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
            said = f"timezone {self.timezone!r}: not known; write one such as 'UTC' or 'Europe/Berlin'"
            raise InputError(said) from error
        try:
            if len(self.expression.split()) != 5:
                raise CronSimError("must have five fields: minute, hour, day, month, day of week")
            next(CronSim(self.expression, datetime(2000, 1, 1, tzinfo=zone)))
        except (CronSimError, StopIteration) as error:
            raise InputError(f"cron {self.expression!r}: {str(error) or 'is never due'}") from error

    def next_due(self, after: datetime) -> datetime:
        """Return the first due time after a time."""
        found: datetime = next(CronSim(self.expression, after.astimezone(zoneinfo.ZoneInfo(self.timezone))))
        return found

    def latest_due(self, after: float, now: float) -> float | None:
        """Return the latest due time from `after` (excluded) to `now` (included), in Unix seconds; None without."""
        minute = datetime.fromtimestamp(now // 60 * 60 + 60, zoneinfo.ZoneInfo(self.timezone))
        found: float = next(CronSim(self.expression, minute, reverse=True)).timestamp()
        return found if found > after else None


def checked_schedule(name: str, schedule: Schedule, settings: Settings, project: Path) -> tuple[Cron, Start]:
    """Return when a schedule is due, and what it runs; an InputError names the setting that is wrong."""
    origin = f"lepton.toml, schedules.{name}"
    start, parameters = checked_start(schedule.notebook, schedule.parameters, origin, project)
    needs_recording = RECORDING in {parameter.name for parameter in parameters or []} - schedule.parameters.keys()
    if needs_recording and schedule.service not in settings.services:
        known = ", ".join(settings.services) or "none"
        raise InputError(
            f"{origin}: service = {schedule.service!r}: {start.notebook} needs a recording, so it must be one of "
            f"[services] (there are: {known})"
        )
    try:
        cron = Cron(schedule.cron, schedule.timezone)
    except InputError as error:
        raise InputError(f"{origin}: {error}") from error
    return cron, start
