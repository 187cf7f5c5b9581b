"""Schedules of lepton.toml: cron expressions, each due time handled once, also after sleep or downtime."""

from __future__ import annotations

import logging
import threading
import time
import zoneinfo
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path

from apscheduler.triggers.cron import CronTrigger

from lepton_kit.errors import InputError
from lepton_kit.ops.watch.queue import Queue, Start
from lepton_kit.ops.watch.routing import RECORDING, check_literals, read_runbook
from lepton_kit.project.settings import Schedule, Settings

logger = logging.getLogger("lepton.watch")
LOOK_S = 30.0
"""The clock is looked at so often whatever it said last: it may be put back or forward, and stands still in sleep."""
DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")


class Schedules:
    """The schedules of a project.

    Each due time has an idempotency key, and the last one handled is kept in the ledger. So a process that wakes, or
    starts, finds what it missed, and queues one run for the latest of it; two processes do not both do so.

    Raises
    ------
    InputError
        When an expression, a time zone, a notebook or a parameter is not what is needed.
    """

    def __init__(self, settings: Settings, project: Path, queue: Queue, on_work: Callable[[], None]) -> None:
        self._queue, self._on_work = queue, on_work
        self._plans = {name: _checked(name, one, settings, project) for name, one in settings.schedules.items()}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="schedules", daemon=True)

    def start(self) -> None:
        """Handle what was missed, and from now on what becomes due."""
        for name in self._plans:
            self.handle(name)
        if self._plans:
            self._thread.start()

    def stop(self) -> None:
        """Handle nothing more."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    def handle(self, name: str) -> float | None:
        """Queue the run that is due, if any; return the time it was due (Unix seconds)."""
        trigger, start = self._plans[name]
        due = self._queue.handle_schedule(name, start, lambda handled: latest_due(trigger, handled, time.time()))
        if due is not None:
            self._on_work()
        return due

    def next_times(self) -> dict[str, datetime | None]:
        """Return when each schedule is due next."""
        now = datetime.now(UTC)
        return {name: trigger.get_next_fire_time(None, now) for name, (trigger, _) in self._plans.items()}

    def notebook(self, name: str) -> str:
        """Return what a schedule runs."""
        return self._plans[name][1].notebook

    def _loop(self) -> None:
        """Handle each schedule when it is due; the waits are counted by a clock that nobody sets."""
        while not self._stopping.is_set():
            for name in self._plans:
                self._handle_or_warn(name)
            times = [due.timestamp() for due in self.next_times().values() if due is not None]
            self._stopping.wait(min(max(min(times, default=float("inf")) - time.time(), 0.01), LOOK_S))

    def _handle_or_warn(self, name: str) -> None:
        try:
            self.handle(name)
        except InputError as error:  # such as a full disk: the next due time finds it was missed
            logger.warning("schedule %s: %s", name, error)


class Cron(CronTrigger):  # type: ignore[misc] # the library has no types
    """A cron expression in a time zone whose clocks are changed.

    A time of day that a change repeats is due the first time it comes; one that it leaves out is due as if the clock
    had gone on. With every hour (`*`) it is due at each such minute that really comes, as cron does it.
    """

    CHANGE = timedelta(hours=3)  # how near a change may be to matter

    @cached_property
    def _wall(self) -> CronTrigger:
        """The expression as a clock without a zone shows it."""
        wall = CronTrigger(timezone=UTC)
        wall.fields = self.fields
        return wall

    @cached_property
    def _is_hourly(self) -> bool:
        return any(field.name == "hour" and str(field) in ("*", "*/1") for field in self.fields)

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime | None:
        """Return when it is due next, from `now` on; the last time it was due makes no difference."""
        near = (now.astimezone(UTC) + one for one in (-self.CHANGE, self.CHANGE))
        is_changed = len({moment.astimezone(self.timezone).utcoffset() for moment in near}) > 1
        begin = now.astimezone(self.timezone).replace(tzinfo=UTC, fold=0)
        found: list[datetime] = []
        for wall in self._walls(begin - self.CHANGE if is_changed else begin):
            if found and (not is_changed or wall > begin + self.CHANGE):
                break
            found += [moment for moment in self._moments(wall) if moment >= now]
        return min(found, key=datetime.timestamp, default=None)

    def _walls(self, after: datetime) -> Iterator[datetime]:
        """Return the times that match, as a clock shows them, from one on."""
        found = self._wall.get_next_fire_time(None, after)
        while found is not None:
            yield found
            found = self._wall.get_next_fire_time(None, found + timedelta(microseconds=1))

    def _moments(self, wall: datetime) -> list[datetime]:
        """Return when clocks of the zone show a time: once, or twice, or never and all the same once."""
        first, second = (wall.replace(tzinfo=self.timezone, fold=fold) for fold in (0, 1))
        if not self._is_hourly:
            return [first]
        is_shown = first.astimezone(UTC).astimezone(self.timezone).replace(tzinfo=UTC, fold=0) == wall
        return [first, second] if is_shown else []


def latest_due(trigger: CronTrigger, after: float, now: float) -> float | None:
    """Return the latest due time in the span from `after` (excluded) to `now` (included), in Unix seconds; or None.

    Examples
    --------
    >>> latest_due(cron_trigger("*/5 * * * *", "UTC"), 0.0, 1000.0)
    900.0
    """
    for span in (3600.0, 86400.0, 32 * 86400.0, float("inf")):  # near times first: each step finds few due times
        start = max(after, now - span)
        found, due = None, _next(trigger, start)
        while due is not None and due <= now:
            found, due = due, _next(trigger, due)
        if found is not None or start == after:
            return found
    return None


def _next(trigger: CronTrigger, after: float) -> float | None:
    moment = datetime.fromtimestamp(after, UTC) + timedelta(microseconds=1)
    found = trigger.get_next_fire_time(None, moment)
    return None if found is None else float(found.timestamp())


def cron_trigger(expression: str, timezone: str) -> Cron:
    """Read a cron expression of five fields as cron does: 0 and 7 are Sunday.

    Raises
    ------
    InputError
        When it is none, is never due, or names both days of the month and of the week (cron means "or" by that,
        APScheduler "and").

    Examples
    --------
    >>> cron_trigger("0 6 * * 1-5", "UTC")
    <Cron (month='*', day='*', day_of_week='mon,tue,wed,thu,fri', hour='6', minute='0', timezone='UTC')>
    """
    try:
        zone = zoneinfo.ZoneInfo(timezone)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise InputError(f"timezone {timezone!r}: not known; write one such as 'UTC' or 'Europe/Berlin'") from error
    fields = expression.split()
    if len(fields) != 5:
        raise InputError(f"cron {expression!r}: must have five fields: minute, hour, day, month, day of week")
    if fields[2] != "*" and fields[4] != "*":
        raise InputError(f"cron {expression!r}: give days of the month or days of the week, not both")
    try:
        fields[4] = ",".join(_weekdays(part) for part in fields[4].lower().split(","))
        trigger: Cron = Cron.from_crontab(" ".join(fields), zone)
    except ValueError as error:
        raise InputError(f"cron {expression!r}: {error}") from error
    if trigger.get_next_fire_time(None, datetime(2000, 1, 1, tzinfo=UTC)) is None:
        raise InputError(f"cron {expression!r}: is never due: no month that it names has such a day")
    return trigger


def _weekdays(part: str) -> str:
    """Return a part of the field of weekdays by names: APScheduler counts from Monday, cron from Sunday."""
    span, _, step = part.partition("/")
    if span == "*" and not step:
        return "*"
    first, dash, last = span.partition("-")
    start, end = (0, 6) if span == "*" else (_weekday(first), _weekday(last) if dash else _weekday(first))
    if end < start:
        raise ValueError(f"weekdays {span!r}: the last lies before the first")
    if step and (not step.isdecimal() or int(step) == 0):
        raise ValueError(f"weekdays {part!r}: the step must be a number above 0")
    chosen = range(start, (6 if step and not dash else end) + 1, int(step or 1))
    return ",".join(dict.fromkeys(DAYS[day % 7] for day in chosen))


def _weekday(text: str) -> int:
    if text in DAYS:
        return DAYS.index(text)
    if text.isdecimal() and int(text) <= 7:
        return int(text)
    raise ValueError(f"weekday {text!r}: must be 0 to 7 (0 and 7 are Sunday) or sun to sat")


def _checked(name: str, schedule: Schedule, settings: Settings, project: Path) -> tuple[Cron, Start]:
    origin = f"lepton.toml, schedules.{name}"
    notebook, parameters = read_runbook(schedule.notebook, origin, project)
    check_literals(parameters, schedule.parameters, {}, notebook, origin)
    needs_recording = RECORDING in {parameter.name for parameter in parameters or []} - schedule.parameters.keys()
    if needs_recording and schedule.service not in settings.services:
        known = ", ".join(settings.services) or "none"
        raise InputError(
            f"{origin}: service = {schedule.service!r}: {notebook} needs a recording, so it must be one of "
            f"[services] (there are: {known})"
        )
    try:
        trigger = cron_trigger(schedule.cron, schedule.timezone)
    except InputError as error:
        raise InputError(f"{origin}: {error}") from error
    return trigger, Start(notebook, dict(schedule.parameters))
