"""Schedules of lepton.toml: cron expressions, each due time handled once, also after sleep or downtime."""

from __future__ import annotations

import logging
import time
import zoneinfo
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.cron import CronTrigger

from lepton_kit.errors import InputError
from lepton_kit.ops.watch.queue import Queue, Start
from lepton_kit.ops.watch.routing import check_literals, read_runbook
from lepton_kit.runs.settings import Schedule, Settings

logger = logging.getLogger("lepton.watch")
LOOK_S = 30
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
        self._plans = {name: _checked(name, one, project) for name, one in settings.schedules.items()}
        self._scheduler = BackgroundScheduler(timezone=UTC)

    def start(self) -> None:
        """Handle what was missed, and from now on what becomes due."""
        for name, (trigger, _) in self._plans.items():
            self.handle(name)
            self._scheduler.add_job(
                self._handle_or_warn, trigger, [name], id=name, coalesce=True, misfire_grace_time=None, max_instances=1
            )
        # While a machine sleeps its timers stand still: so often the clock is looked at all the same.
        self._scheduler.add_job(self._handle_all, "interval", seconds=LOOK_S, coalesce=True, misfire_grace_time=None)
        self._scheduler.start()

    def stop(self) -> None:
        """Handle nothing more."""
        if self._scheduler.running:
            self._scheduler.shutdown()

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

    def _handle_all(self) -> None:
        for name in self._plans:
            self._handle_or_warn(name)

    def _handle_or_warn(self, name: str) -> None:
        try:
            self.handle(name)
        except InputError as error:  # such as a full disk: the next due time finds it was missed
            logger.warning("schedule %s: %s", name, error)


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


def cron_trigger(expression: str, timezone: str) -> CronTrigger:
    """Read a cron expression of five fields as cron does: 0 and 7 are Sunday.

    Raises
    ------
    InputError
        When it is none, or names both days of the month and of the week (cron means "or" by that, APScheduler "and").

    Examples
    --------
    >>> cron_trigger("0 6 * * 1-5", "UTC")
    <CronTrigger (month='*', day='*', day_of_week='mon,tue,wed,thu,fri', hour='6', minute='0', timezone='UTC')>
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
        return CronTrigger.from_crontab(" ".join(fields), zone)
    except ValueError as error:
        raise InputError(f"cron {expression!r}: {error}") from error


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


def _checked(name: str, schedule: Schedule, project: Path) -> tuple[CronTrigger, Start]:
    origin = f"lepton.toml, schedules.{name}"
    notebook, parameters = read_runbook(schedule.notebook, origin, project)
    check_literals(parameters, schedule.parameters, {}, notebook, origin)
    try:
        trigger = cron_trigger(schedule.cron, schedule.timezone)
    except InputError as error:
        raise InputError(f"{origin}: {error}") from error
    return trigger, Start(notebook, dict(schedule.parameters))
