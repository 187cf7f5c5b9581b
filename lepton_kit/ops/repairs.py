"""Carries out a remedy's plan: rehearsed on what a recording says, or on a running service with its recovery judged.

A repair begins with the state that the service had. What the plan asks for is done, and the objectives of the service
are looked at while it goes on. Where the indicator that alerted became worse than during the incident, or another
objective worse than it was up to the repair, the earlier state is restored.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import pandas as pd

from lepton_kit.diagnosis.capture import capture
from lepton_kit.diagnosis.means import Means, Way
from lepton_kit.diagnosis.plans import Operator, Plan
from lepton_kit.diagnosis.postmortem import joined
from lepton_kit.diagnosis.recovery import (
    Ratio,
    Recovery,
    SideEffect,
    Verdict,
    judge_recovery,
    objective_of,
    sli_ratio,
)
from lepton_kit.errors import InputError, LeptonError
from lepton_kit.models.forecasters import load_forecaster
from lepton_kit.models.retraining import Retrained, retrain
from lepton_kit.models.training import Examples
from lepton_kit.ops.declared import OWN_WAYS
from lepton_kit.ops.service_operator import ServiceOperator
from lepton_kit.ops.watch.evidence import is_address
from lepton_kit.project.settings import read_settings
from lepton_kit.telemetry.prometheus import open_source
from lepton_kit.telemetry.recordings import Promise, Recording
from lepton_kit.telemetry.scrape import Scraper
from lepton_kit.telemetry.selectors import Source
from lepton_kit.telemetry.slo import Objective
from lepton_kit.telemetry.store import Store

LOOKS = 5
"""Looks at the objectives while the service is observed, the last one at the end."""

WORSE_LOOKS = 2
"""Looks in a row that must find it worse before the end for the repair to be taken back at once."""

LONGEST_SCRAPE_S = 1.0
"""Seconds between two scrapes at most."""

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
    `verdict`. `after` is what was captured after the repair, or given for a rehearsal. `by_hand` is what is left to a
    person, and `lasting` says why what was done cannot be undone.
    """

    action: str
    applied: bool
    judged: Judged
    rolled_back: bool
    looks: pd.DataFrame
    after: Recording | None
    by_hand: tuple[str, ...] = ()
    lasting: str = ""

    @property
    def verdict(self) -> Verdict | Literal["not repaired"]:
        """What became of the service: `not repaired` where all that the plan asks for is left to a person."""
        return "not repaired" if self.by_hand and not self.applied and self.after is None else self.judged.verdict

    @property
    def told(self) -> str:
        """What was done, or would be, and what is left to a person."""
        left = "".join(f" {one}." for one in self.by_hand).replace(" no ", " No ")
        if self.verdict == "not repaired":
            return f"Nothing was done.{left}"
        taken = " It was rolled back." if self.rolled_back else f" {self.lasting}." if self.lasting else ""
        return f"{'Done' if self.applied else 'Rehearsed'}: {self.action}.{taken}{left}"

    @property
    def reason(self) -> str:
        """Why that is the verdict."""
        return "; ".join(self.by_hand) if self.verdict == "not repaired" else self.judged.reason

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
        """Return the incident with the objective that alerted and the others of its service.

        Where none of its service is given, they are those that the recording keeps.
        """
        if not any(one.service == recording.incident.service for one in objectives):
            objectives = [one.objective() for one in recording.incident.promises]
        alerted = objective_of(recording, objectives)
        others = [one for one in objectives if one.service == alerted.service and one.name != alerted.name]
        return cls(recording, onset, alerted, tuple(others), tuple(may_cost))

    @property
    def promised(self) -> tuple[Objective, ...]:
        """All objectives, the one that alerted first."""
        return self.objective, *self.others

    def judged(self, after: Ratio, until: Ratio | None = None) -> Recovery:
        """Return what became of the indicator; `until` is what it was right before the repair, where that is known."""
        latest = until if until is not None and until.total >= self.objective.minimum else self.latest
        return judge_recovery(self.before, self.during, after, self.objective.target, self.objective.minimum, latest)

    def judge(
        self, after: Recording, start: pd.Timestamp, end: pd.Timestamp, until: Mapping[str, Ratio] | None = None
    ) -> Judged:
        """Return what became of all objectives from `start` to `end` of a later recording.

        `until` holds the indicators right before the repair, by the objective's name; else those of the incident count.
        """
        recovery = self.judged(sli_ratio(after, self.objective, start, end), (until or {}).get(self.objective.name))
        effects = []
        for one in self.others:
            before, during = self._periods(one)
            known = (until or {}).get(one.name, Ratio(0, 0))
            latest = known if known.total >= one.minimum else during
            effects.append(SideEffect(one, before, latest, sli_ratio(after, one, start, end)))
        excused = recovery.verdict == "recovered"
        harmed = [one for one in effects if one.is_worse and not (excused and self.costs(one.objective))]
        return Judged(recovery, tuple(effects), tuple(harmed))

    def followed(self, after: Recording) -> Judged:
        """Return what became of all objectives in a later recording, from where the incident's own ends."""
        start, end = _window(after)
        return self.judge(after, max(start, pd.Timestamp(self.recording.incident.window.end)), end)

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
        return "worse" if one in judged.harmed else "worse, allowed by may_cost"
    return "still missed" if one.is_missed else "not worse"


def still_missed(trouble: Trouble, judged: Judged) -> list[str]:
    """Return the names of the objectives that are missed after the repair: of the others those that are for certain."""
    alerted = [] if judged.recovery.verdict == "recovered" else [trouble.objective.name]
    return alerted + [one.objective.name for one in judged.effects if one.is_missed]


def rehearse(plan: Plan, ways: Collection[Way], trouble: Trouble, after: Recording | None) -> Repaired:
    """Judge what followed on an incident by its recording; nothing is done to any service.

    `ways` are what the service can do of the plan; without a recording of what followed, nothing is judged.
    """
    means = plan.means(ways)
    judged = trouble.followed(after) if after else Judged(trouble.judged(Ratio(0, 0)))
    return Repaired(plan.action, False, judged, False, _looks([]), after, means.by_hand, _lasting(means))


def _lasting(means: Means) -> str:
    return f"{', '.join(means.lasting)} cannot be undone" if means.lasting else ""


def ways_recorded(recording: Recording) -> Collection[Way]:
    """Return what could be done to a recorded service; all of one whose recording says nothing of its actions."""
    return recording.incident.declaration.actions or OWN_WAYS | {"restart_feed"}


def repair(plan: Plan, operator: ServiceOperator, trouble: Trouble, observe_seconds: float, folder: Path) -> Repaired:
    """Carry out a plan on a service, observe it, judge what became of it, and undo what made it worse.

    Where the service can do nothing of the plan, nothing is done, and it says what a person does. What cannot be
    undone, such as a feed that was restarted, is not blamed for what became of other objectives. The recording of what
    followed is written into `folder`.

    Raises
    ------
    InputError
        When `observe_seconds` is not from 1 s to a day, or the plan cannot be carried out.
    LeptonError
        When an action fails, or the service ends meanwhile. The earlier state is restored then.
    """
    if not 1 <= observe_seconds <= 86400:
        raise InputError(f"observe_seconds = {observe_seconds!r}: must be from 1 s to a day")
    means = plan.means(operator.ways)
    if means.by_hand and not means.ways:
        return rehearse(plan, operator.ways, trouble, None)
    done = act_on(plan.carry_out, operator, trouble, observe_seconds, folder)
    return replace(done, by_hand=means.by_hand)


def act_on(act: Act, operator: ServiceOperator, trouble: Trouble, observe_seconds: float, folder: Path) -> Repaired:
    """Do something to a service, observe it, judge what became of it, and undo what made it worse; as `repair` says."""
    held = operator.state()
    with _telemetry_of(operator, observe_seconds / (4 * LOOKS)) as telemetry:
        until = _until_now(operator, trouble, telemetry)
        try:
            done = act(operator)
            observed = trouble if operator.state() != held else replace(trouble, others=())
            looks, after = observe(operator, observed, observe_seconds, folder, telemetry, until)
        except BaseException as error:
            if operator.state() != held and not operator.cannot_reach(held):
                operator.bring_back(held, f"undone: the repair was stopped by {type(error).__name__}")
            raise
    judged = trouble.judge(after, *_window(after), until)
    is_changed = operator.state() != held
    judged = judged if is_changed else replace(judged, harmed=())
    stuck = operator.cannot_reach(held) if is_changed else ""
    rolled_back = judged.verdict == "worse" and is_changed and not stuck
    if rolled_back:
        operator.bring_back(held, f"rolled back because it got worse: {judged.reason}")
    said = "; ".join(done) or "nothing to do"
    return Repaired(said, bool(done), judged, rolled_back, looks, after, lasting=stuck)


def _until_now(operator: ServiceOperator, trouble: Trouble, telemetry: Telemetry) -> dict[str, Ratio]:
    """Return the indicators of all objectives from the end of the recording to this moment.

    A second fault may have gone on meanwhile, which is not to be blamed on the repair. Only series that the recording
    holds are counted, as what a counter grew by is known of no other.
    """
    recorded = trouble.recording
    start = recorded.metrics["time"].max() if len(recorded.metrics) else pd.Timestamp(recorded.incident.window.end)
    if not (telemetry.look() and start.timestamp() < time.time()):
        return {}
    with tempfile.TemporaryDirectory() as place:
        now = _captured(operator, telemetry, trouble.promised, start.timestamp(), Path(place) / "now")
    known = now.metrics.merge(recorded.metrics[["metric", "labels"]].drop_duplicates(), on=["metric", "labels"])
    whole = joined(recorded, replace(now, metrics=known))
    end = pd.Timestamp(now.incident.window.end)
    return {one.name: sli_ratio(whole, one, start, end) for one in trouble.promised}


def observe(
    operator: ServiceOperator,
    trouble: Trouble,
    seconds: float,
    folder: Path,
    telemetry: Telemetry,
    until: Mapping[str, Ratio],
) -> tuple[pd.DataFrame, Recording]:
    """Look at the objectives while the service goes on; end early where it is worse at two looks in a row.

    Returns the looks, as `Repaired` has them, and what was captured at the last one. Raises LeptonError when the
    service does not answer any more.
    """
    began: float = time.time()
    looks: list[tuple[float, Judged]] = []
    for number in range(1, LOOKS + 1):
        telemetry.look_until(began + seconds * number / LOOKS)
        if not operator.is_up():
            raise LeptonError(
                f"service {operator.name!r}: ended while it was observed, {time.time() - began:.0f} s after the repair"
            )
        now = _captured(operator, telemetry, trouble.promised, began, folder)
        looks.append((time.time() - began, trouble.judge(now, *_window(now), until)))
        if len(looks) >= WORSE_LOOKS and all(_is_clear_harm(trouble, one) for _, one in looks[-WORSE_LOOKS:]):
            break
    return _looks(looks), now


@dataclass(frozen=True)
class Telemetry:
    """Where the samples of a service are while it is observed; what is not scraped by others is scraped here."""

    source: Source
    interval: float
    scraper: Scraper | None = None

    def look(self) -> bool:
        """Take the samples of this moment, and say whether the service gave them."""
        return all(one.up for one in self.scraper.scrape_once()) if self.scraper else True

    def look_until(self, end: float) -> None:
        """Take samples until a time (Unix, seconds)."""
        self.look()
        while time.time() < end:
            time.sleep(min(self.interval, max(0.0, end - time.time())))
            self.look()


@contextlib.contextmanager
def _telemetry_of(operator: ServiceOperator, seconds: float) -> Iterator[Telemetry]:
    """Give the samples of a service: a server's, where the project has one, or scraped into a store of its own.

    Those are scraped at this interval (s), and at least each second.
    """
    where, interval = read_settings(operator.project).watch.source, min(LONGEST_SCRAPE_S, seconds)
    if is_address(where) or operator.address is None:
        yield Telemetry(open_source(where, operator.project), interval)
        return
    with tempfile.TemporaryDirectory() as place:
        store = Store(Path(place) / "telemetry")
        yield Telemetry(store, interval, Scraper(store, {operator.name: operator.address}, interval=interval))


def _captured(
    operator: ServiceOperator, telemetry: Telemetry, objectives: Sequence[Objective], start: float, folder: Path
) -> Recording:
    """Freeze what the service did since a time."""
    declaration = operator.declaration
    if telemetry.scraper:  # what is scraped here carries the service's name, and no labels of another source
        declaration = declaration.model_copy(update={"match": {}})
    promises, source = [Promise.of(one) for one in objectives], telemetry.source
    project, key = operator.project, read_settings(operator.project).capture.key
    return capture(operator.name, declaration, project, source, start, time.time(), folder, (), promises, key)


def _is_clear_harm(trouble: Trouble, judged: Judged) -> bool:
    """Whether no later recovery would excuse it."""
    return judged.recovery.verdict == "worse" or any(not trouble.costs(one.objective) for one in judged.harmed)


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
    rows: Examples, recording: Recording, versions: Collection[str], trials: int, seed: int
) -> tuple[Retrained | None, str]:
    """Tune and train a candidate on recent rows and let the gate judge it; return the reason where that is impossible.

    The rows are those of `lepton_kit.diagnosis.repair_data.rows_to_learn_from`; `versions` are those that the candidate
    must beat, and `trials` is how many settings are tried beside the present ones; `seed` fixes which, and the
    training.
    """
    try:
        present = {name: load_forecaster(recording.models[name]) for name in versions}
        made = retrain(rows, present, trials=trials, seed=seed)
    except LeptonError as error:  # no forecaster of the kit, too few rows, every trial diverged: what answers stays
        return None, f"not retrained: {error}"
    return made, "; ".join(made.decision.reasons)
