"""Carries out a remedy's plan: rehearsed on what a recording says, or on a running service with its recovery judged.

A repair begins with the state that the service had. What the plan asks for is done, the indicator that alerted is
looked at while the service goes on, and where it became worse than during the incident, the state before is brought
back.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd

from lepton_kit.diagnosis.capture import capture
from lepton_kit.diagnosis.recovery import Ratio, Recovery, judge_recovery, sli_ratio
from lepton_kit.diagnosis.remedies import Operator
from lepton_kit.diagnosis.repair_capacity import Measured, Smaller, smaller_of
from lepton_kit.errors import InputError, LeptonError
from lepton_kit.models.forecasters import Forecaster
from lepton_kit.models.retraining import Retrained, retrain
from lepton_kit.models.training import Examples
from lepton_kit.ops.load import running_address
from lepton_kit.ops.operator import ServiceOperator
from lepton_kit.telemetry.recordings import Recording
from lepton_kit.telemetry.scrape import Scraper
from lepton_kit.telemetry.slo import Objective
from lepton_kit.telemetry.store import Store

LOOKS = 5
"""Looks at the indicator while the service is observed, the last one at the end."""

WORSE_LOOKS = 2
"""Looks in a row that must find it worse before the end for the repair to be taken back at once."""

LONGEST_SCRAPE = 1.0

Act = Callable[[Operator], Sequence[str]]
"""Carries out a plan through an operator, and says what was done."""


@dataclass(frozen=True)
class Repaired:
    """What a repair did and what became of it.

    `looks` has a row per look at the indicator: `seconds` since the repair, `share`, `low`, `high`, `events` and
    `verdict`. `after` is what was captured after the repair, or given for a rehearsal.
    """

    action: str
    applied: bool
    recovery: Recovery
    rolled_back: bool
    looks: pd.DataFrame
    after: Recording | None


@dataclass(frozen=True)
class Trouble:
    """An incident as a repair sees it: its recording, since when, and the objective whose alert led here."""

    recording: Recording
    onset: pd.Timestamp
    objective: Objective
    before: Ratio = field(init=False)
    during: Ratio = field(init=False)

    def __post_init__(self) -> None:
        window = self.recording.incident.window
        start, end = pd.Timestamp(window.start), pd.Timestamp(window.end)
        object.__setattr__(self, "before", sli_ratio(self.recording, self.objective, start, self.onset))
        object.__setattr__(self, "during", sli_ratio(self.recording, self.objective, self.onset, end))

    def judged(self, after: Ratio) -> Recovery:
        """Return what became of the indicator."""
        return judge_recovery(self.before, self.during, after, self.objective.target, self.objective.minimum)


def rehearse(action: str, trouble: Trouble, after: Recording | None) -> Repaired:
    """Judge what followed on an incident by its recording; nothing is done to any service.

    Parameters
    ----------
    action
        What the plan would do.
    trouble
        The incident.
    after
        A recording of what followed, such as a drill makes; None judges nothing.
    """
    ratio = Ratio(0, 0) if after is None else what_followed(trouble, after)
    return Repaired(action, False, trouble.judged(ratio), False, _looks([]), after)


def what_followed(trouble: Trouble, after: Recording) -> Ratio:
    """Return the indicator in a later recording, from where the incident's own recording ends."""
    began = max(pd.Timestamp(after.incident.window.start), pd.Timestamp(trouble.recording.incident.window.end))
    return sli_ratio(after, trouble.objective, began, pd.Timestamp(after.incident.window.end))


def repair(act: Act, operator: ServiceOperator, trouble: Trouble, observe_seconds: float, folder: Path) -> Repaired:
    """Carry out a plan on a running service, observe it, judge its recovery, and undo what made it worse.

    Parameters
    ----------
    act
        Carries out the plan.
    operator
        The service's.
    trouble
        The incident.
    observe_seconds
        How long the service is observed.
    folder
        Where the recording of what followed is written.

    Raises
    ------
    InputError
        When `observe_seconds` is not from 1 s to a day, or the plan cannot be carried out.
    LeptonError
        When the workers do not follow.
    """
    if not 1 <= observe_seconds <= 86400:
        raise InputError(f"observe_seconds = {observe_seconds!r}: must be from 1 s to a day")
    held = operator.state()
    try:
        done = act(operator)
        looks, after = observe(operator, trouble, observe_seconds, folder)
    except BaseException as error:
        if operator.state() != held:
            operator.set_state(held, f"undone: the repair was stopped by {type(error).__name__}")
        raise
    recovery = trouble.judged(sli_ratio(after, trouble.objective, *_window(after)))
    rolled_back = recovery.verdict == "worse" and operator.state() != held
    if rolled_back:
        operator.set_state(held, f"undone, as {trouble.objective.title} became worse: {recovery.reason}")
    return Repaired("; ".join(done) or "nothing to do", bool(done), recovery, rolled_back, looks, after)


def observe(
    operator: ServiceOperator, trouble: Trouble, seconds: float, folder: Path
) -> tuple[pd.DataFrame, Recording]:
    """Look at the indicator while the service goes on; end early where it is worse at two looks in a row.

    Returns
    -------
    tuple
        The looks, as `Repaired` has them, and what was captured at the last one.
    """
    began, looks = time.time(), []
    with tempfile.TemporaryDirectory() as place:
        store = Store(Path(place) / "telemetry")
        address = {operator.folder.name: running_address(operator.folder)}
        scraper = Scraper(store, address, interval=min(LONGEST_SCRAPE, seconds / (4 * LOOKS)))
        for number in range(1, LOOKS + 1):
            _scrape_until(scraper, began + seconds * number / LOOKS)
            now = capture(operator.folder, store, operator.registry.root, began, time.time(), folder)
            judged = trouble.judged(sli_ratio(now, trouble.objective, *_window(now)))
            looks.append((time.time() - began, judged))
            if len(looks) >= WORSE_LOOKS and all(one.verdict == "worse" for _, one in looks[-WORSE_LOOKS:]):
                break
    return _looks(looks), now


def _scrape_until(scraper: Scraper, end: float) -> None:
    scraper.scrape_once()
    while time.time() < end:
        time.sleep(min(scraper.interval, max(0.0, end - time.time())))
        scraper.scrape_once()


def _window(recording: Recording) -> tuple[pd.Timestamp, pd.Timestamp]:
    window = recording.incident.window
    return pd.Timestamp(window.start), pd.Timestamp(window.end)


def _looks(looks: Sequence[tuple[float, Recovery]]) -> pd.DataFrame:
    rows = [(s, one.after.share, *one.after.interval, one.after.total, one.verdict) for s, one in looks]
    return pd.DataFrame(rows, columns=["seconds", "share", "low", "high", "events", "verdict"])


def retrained(
    rows: Examples, present: Mapping[str, Forecaster], trials: int, seed: int
) -> tuple[Retrained | None, str]:
    """Tune and train a candidate on recent rows and let the gate judge it; say why where that cannot be done.

    Parameters
    ----------
    rows
        As `lepton_kit.diagnosis.repair_data.rows_to_learn_from` gives them.
    present
        The versions that it must beat.
    trials
        Settings that are tried beside the present ones.
    seed
        Fixes every random number.
    """
    try:
        made = retrain(rows, present, trials=trials, seed=seed)
    except LeptonError as error:  # too few rows, or every trial diverged: what answers stays
        return None, f"not retrained: {error}"
    return made, "; ".join(made.decision.reasons)


def promote(operator: ServiceOperator, made: Retrained) -> str:
    """Register a candidate that passed the gate, let the service answer with it, and return its version."""
    if not made.decision.promote:
        raise InputError(f"the gate refuses the candidate: {'; '.join(made.decision.reasons)}")
    version = made.save(operator.registry, operator.config.model, operator.run_id)
    operator.set_state(replace(operator.state(), version=version), f"passed the gate: {made.decision.reasons[0]}")
    return version


def compressed_version(operator: ServiceOperator, measured: Measured) -> Smaller | None:
    """Return the compressed version that may take the present one's place, and how long it would need; None without."""
    model, version = operator.config.model, operator.state().version
    found = operator.registry.compressed(model, version)
    return smaller_of(found, operator.registry.card(model, found), measured) if found else None
