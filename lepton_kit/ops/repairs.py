"""Carries out a remedy's plan: rehearsed on what a recording says, or on a running service with its recovery judged.

A repair begins with the state that the service had. What the plan asks for is done, and the objectives of the service
are looked at while it goes on. Where the indicator that alerted became worse than during the incident, or another
objective worse than it was up to the repair, the state before is brought back.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd

from lepton_kit.diagnosis.capture import capture
from lepton_kit.diagnosis.postmortem import joined
from lepton_kit.diagnosis.recovery import (
    Ratio,
    Recovery,
    SideEffect,
    Verdict,
    judge_recovery,
    objective_of,
    side_effect,
    sli_ratio,
)
from lepton_kit.diagnosis.remedies import Operator
from lepton_kit.diagnosis.repair_capacity import Measured, Smaller, smaller_of
from lepton_kit.errors import InputError, LeptonError
from lepton_kit.models.forecasters import Forecaster
from lepton_kit.models.retraining import Retrained, retrain
from lepton_kit.models.training import Examples
from lepton_kit.ops.load import running_address
from lepton_kit.ops.operator import ServiceOperator
from lepton_kit.project.declarations import declared
from lepton_kit.serving.following import is_listening
from lepton_kit.telemetry.recordings import Promise, Recording
from lepton_kit.telemetry.scrape import Scraper
from lepton_kit.telemetry.slo import Objective
from lepton_kit.telemetry.store import Store

LOOKS = 5
"""Looks at the objectives while the service is observed, the last one at the end."""

WORSE_LOOKS = 2
"""Looks in a row that must find it worse before the end for the repair to be taken back at once."""

LONGEST_SCRAPE = 1.0

Act = Callable[[Operator], Sequence[str]]
"""Carries out a plan through an operator, and says what was done."""


@dataclass(frozen=True)
class Judged:
    """What became of the indicator that alerted, and of the other objectives.

    `harmed` are those that the repair made worse, and that it may not cost.
    """

    recovery: Recovery
    effects: tuple[SideEffect, ...] = ()
    harmed: tuple[SideEffect, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """What became of the service: `worse` as well where another objective was harmed."""
        return "worse" if self.harmed else self.recovery.verdict

    @property
    def reason(self) -> str:
        """Why that is the verdict."""
        harm = [f"{one.objective.title} fell by {-one.change[1]:.1%} or more" for one in self.harmed]
        return "; ".join([*harm, self.recovery.reason])


@dataclass(frozen=True)
class Repaired:
    """What a repair did and what became of it.

    `looks` has a row per look at the indicator: `seconds` since the repair, `share`, `low`, `high`, `events` and
    `verdict`. `after` is what was captured after the repair, or given for a rehearsal.
    """

    action: str
    applied: bool
    judged: Judged
    rolled_back: bool
    looks: pd.DataFrame
    after: Recording | None

    @property
    def recovery(self) -> Recovery:
        """What became of the indicator that alerted."""
        return self.judged.recovery


@dataclass(frozen=True)
class Trouble:
    """An incident as a repair sees it: its recording, since when, and the objective whose alert led here.

    `others` are the other objectives of the service. The repair may make worse those that `may_cost` names, with the
    service's name before them or without, where the one that alerted recovers.
    """

    recording: Recording
    onset: pd.Timestamp
    objective: Objective
    others: tuple[Objective, ...] = ()
    may_cost: tuple[str, ...] = ()
    before: Ratio = field(init=False)
    during: Ratio = field(init=False)
    latest: Ratio = field(init=False)
    """The indicator that alerted in the later half of the incident."""

    def __post_init__(self) -> None:
        before, during = self._periods(self.objective)
        object.__setattr__(self, "before", before)
        object.__setattr__(self, "during", during)
        end = pd.Timestamp(self.recording.incident.window.end)
        latest = sli_ratio(self.recording, self.objective, self.onset + (end - self.onset) / 2, end)
        object.__setattr__(self, "latest", latest)

    @classmethod
    def among(
        cls, recording: Recording, onset: pd.Timestamp, objectives: Sequence[Objective], may_cost: Sequence[str] = ()
    ) -> Trouble:
        """Return the incident with the objective that alerted and the others of its service."""
        alerted = objective_of(recording, objectives)
        others = [one for one in objectives if one.service == alerted.service and one.name != alerted.name]
        return cls(recording, onset, alerted, tuple(others), tuple(may_cost))

    def judged(self, after: Ratio, until: Ratio | None = None) -> Recovery:
        """Return what became of the indicator; `until` is what it was right before the repair, where that is known."""
        latest = until if until is not None and until.total >= self.objective.minimum else self.latest
        return judge_recovery(self.before, self.during, after, self.objective.target, self.objective.minimum, latest)

    def judge(
        self, after: Recording, start: pd.Timestamp, end: pd.Timestamp, until: Mapping[str, Ratio] | None = None
    ) -> Judged:
        """Return what became of all objectives from `start` to `end` of a later recording.

        Parameters
        ----------
        after, start, end
            What followed on the repair.
        until
            Indicators right before the repair, by the objective's name; those of the incident where they are unknown.
        """
        recovery = self.judged(sli_ratio(after, self.objective, start, end), (until or {}).get(self.objective.name))
        effects = []
        for one in self.others:
            before, during = self._periods(one)
            known = (until or {}).get(one.name, Ratio(0, 0))
            latest = known if known.total >= one.minimum else during
            effects.append(side_effect(one, before, latest, sli_ratio(after, one, start, end)))
        excused = recovery.verdict == "recovered"
        harmed = [one for one in effects if one.is_worse and not (excused and self.costs(one.objective))]
        return Judged(recovery, tuple(effects), tuple(harmed))

    def costs(self, other: Objective) -> bool:
        """Whether the repair may make another objective worse."""
        return bool({other.name, other.name.removeprefix(f"{other.service}-")} & set(self.may_cost))

    def _periods(self, objective: Objective) -> tuple[Ratio, Ratio]:
        window = self.recording.incident.window
        start, end = pd.Timestamp(window.start), pd.Timestamp(window.end)
        return (
            sli_ratio(self.recording, objective, start, self.onset),
            sli_ratio(self.recording, objective, self.onset, end),
        )


def objectives_table(trouble: Trouble, judged: Judged) -> pd.DataFrame:
    """Return a row per objective of the service, the one that alerted first.

    Returns
    -------
    DataFrame
        `objective`, `target`, the shares `before`, `until_repair` (during the incident, for the one that alerted) and
        `after`, the ends of the interval of the change since, and the `verdict`.
    """
    first = judged.recovery
    rows = [
        (trouble.objective.title, first.objective, first.before.share, first.during.share, first.after.share,
         *first.gain, f"alerted: {first.verdict}"),
        *((one.objective.title, one.objective.target, one.before.share, one.until.share, one.after.share, *one.change,
           _words(one, judged)) for one in judged.effects),
    ]  # fmt: skip
    columns = ["objective", "target", "before", "until_repair", "after", "change_low", "change_high", "verdict"]
    return pd.DataFrame(rows, columns=columns)


def _words(one: SideEffect, judged: Judged) -> str:
    if not one.is_judged:
        return "too few"
    if one.is_worse:
        return "worse" if one in judged.harmed else "worse, as it may"
    return "still missed" if one.is_missed else "not worse"


def still_missed(trouble: Trouble, judged: Judged) -> list[str]:
    """Return the names of the objectives that are missed after the repair: of the others those that are for certain."""
    alerted = [] if judged.recovery.verdict == "recovered" else [trouble.objective.name]
    return alerted + [one.objective.name for one in judged.effects if one.is_missed]


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
    if after is None:
        return Repaired(action, False, Judged(trouble.judged(Ratio(0, 0))), False, _looks([]), after)
    judged = trouble.judge(after, *_followed(trouble, after))
    return Repaired(action, False, judged, False, _looks([]), after)


def what_followed(trouble: Trouble, after: Recording) -> Ratio:
    """Return the indicator in a later recording, from where the incident's own recording ends."""
    return sli_ratio(after, trouble.objective, *_followed(trouble, after))


def _followed(trouble: Trouble, after: Recording) -> tuple[pd.Timestamp, pd.Timestamp]:
    start, end = _window(after)
    return max(start, pd.Timestamp(trouble.recording.incident.window.end)), end


def repair(act: Act, operator: ServiceOperator, trouble: Trouble, observe_seconds: float, folder: Path) -> Repaired:
    """Carry out a plan on a running service, observe it, judge what became of it, and undo what made it worse.

    What cannot be undone, such as a feed that was restarted, is not blamed for what became of other objectives.

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
        When the workers do not follow, or the service ends meanwhile. The state before is brought back then.
    """
    if not 1 <= observe_seconds <= 86400:
        raise InputError(f"observe_seconds = {observe_seconds!r}: must be from 1 s to a day")
    held = operator.state()
    with _scraper(operator, observe_seconds) as scraper:
        until = _until_now(operator, trouble, scraper)
        try:
            done = act(operator)
            observed = trouble if operator.state() != held else replace(trouble, others=())
            looks, after = observe(operator, observed, observe_seconds, folder, scraper, until)
        except BaseException as error:
            if operator.state() != held:
                operator.bring_back(held, f"undone: the repair was stopped by {type(error).__name__}")
            raise
    judged = trouble.judge(after, *_window(after), until)
    is_undoable = operator.state() != held
    judged = judged if is_undoable else replace(judged, harmed=())
    rolled_back = judged.verdict == "worse" and is_undoable
    if rolled_back:
        operator.bring_back(held, f"undone, as it became worse: {judged.reason}")
    return Repaired("; ".join(done) or "nothing to do", bool(done), judged, rolled_back, looks, after)


@contextlib.contextmanager
def _scraper(operator: ServiceOperator, seconds: float) -> Iterator[Scraper]:
    """Give a scraper of the service, with a store of its own."""
    address = {operator.folder.name: running_address(operator.folder)}
    with tempfile.TemporaryDirectory() as place:
        store = Store(Path(place) / "telemetry")
        yield Scraper(store, address, interval=min(LONGEST_SCRAPE, seconds / (4 * LOOKS)))


def _until_now(operator: ServiceOperator, trouble: Trouble, scraper: Scraper) -> dict[str, Ratio]:
    """Return the indicators of all objectives from the end of the recording to this moment.

    A second fault may have gone on meanwhile, which is not to be blamed on the repair. Only series that the recording
    holds are counted, as what a counter grew by is known of no other.
    """
    recorded = trouble.recording
    start = recorded.metrics["time"].max() if len(recorded.metrics) else pd.Timestamp(recorded.incident.window.end)
    answers = all(one.up for one in scraper.scrape_once())
    if not (answers and start.timestamp() < time.time()):
        return {}
    with tempfile.TemporaryDirectory() as place:
        now = _captured(operator, trouble, scraper, start.timestamp(), Path(place) / "now")
    known = now.metrics.merge(recorded.metrics[["metric", "labels"]].drop_duplicates(), on=["metric", "labels"])
    whole = joined(recorded, replace(now, metrics=known))
    end = pd.Timestamp(now.incident.window.end)
    return {one.name: sli_ratio(whole, one, start, end) for one in (trouble.objective, *trouble.others)}


def observe(
    operator: ServiceOperator,
    trouble: Trouble,
    seconds: float,
    folder: Path,
    scraper: Scraper,
    until: Mapping[str, Ratio],
) -> tuple[pd.DataFrame, Recording]:
    """Look at the objectives while the service goes on; end early where it is worse at two looks in a row.

    Returns
    -------
    tuple
        The looks, as `Repaired` has them, and what was captured at the last one.

    Raises
    ------
    LeptonError
        When nothing listens at the service's address any more.
    """
    began: float = time.time()
    looks: list[tuple[float, Judged]] = []
    for number in range(1, LOOKS + 1):
        _scrape_until(scraper, began + seconds * number / LOOKS)
        if not is_listening(operator.folder):
            raise LeptonError(
                f"service {operator.folder.name!r}: ended while it was observed, {time.time() - began:.0f} s after the "
                "repair"
            )
        now = _captured(operator, trouble, scraper, began, folder)
        looks.append((time.time() - began, trouble.judge(now, *_window(now), until)))
        if len(looks) >= WORSE_LOOKS and all(_is_clear_harm(trouble, one) for _, one in looks[-WORSE_LOOKS:]):
            break
    return _looks(looks), now


def _captured(operator: ServiceOperator, trouble: Trouble, scraper: Scraper, start: float, folder: Path) -> Recording:
    """Freeze what the service did from `start` until now."""
    name, project = operator.folder.name, operator.folder.parents[1]
    promises = [Promise.of(one) for one in (trouble.objective, *trouble.others)]
    return capture(name, declared(project, name), project, scraper.store, start, time.time(), folder, promises=promises)


def _is_clear_harm(trouble: Trouble, judged: Judged) -> bool:
    """Whether no later recovery would excuse it."""
    return judged.recovery.verdict == "worse" or any(not trouble.costs(one.objective) for one in judged.harmed)


def _scrape_until(scraper: Scraper, end: float) -> None:
    scraper.scrape_once()
    while time.time() < end:
        time.sleep(min(scraper.interval, max(0.0, end - time.time())))
        scraper.scrape_once()


def _window(recording: Recording) -> tuple[pd.Timestamp, pd.Timestamp]:
    window = recording.incident.window
    return pd.Timestamp(window.start), pd.Timestamp(window.end)


def _looks(looks: Sequence[tuple[float, Judged]]) -> pd.DataFrame:
    rows = [
        (seconds, one.recovery.after.share, *one.recovery.after.interval, one.recovery.after.total, one.verdict)
        for seconds, one in looks
    ]
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
