"""Evidence of the rows: what they promise, one promise at a time, and what the service itself counted of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from lepton_kit.diagnosis.case import Case
from lepton_kit.diagnosis.evidence.base import (
    NEEDS,
    Evidence,
    NotCheckedError,
    answer,
    evidence,
    need_rows,
    onset_in,
    scrapes_of,
    share_rose,
    split,
)
from lepton_kit.diagnosis.onset import OUT_OF_ORDER
from lepton_kit.diagnosis.rows import BREACHES, unit_factor, unit_factors
from lepton_kit.telemetry.health import growth


@evidence(needs=("requests.features",))
def contract(case: Case) -> Evidence:
    """Answer whether more inputs than before break their contract: `broken` or `kept`."""
    before, during = case.breaches.loc[case.before.index], case.breaches.loc[case.during.index]
    need_rows(case, before, during, "requests")
    _need_readable(case)
    rise = during.mean() - before.mean()
    worst = str(rise.idxmax())
    unknown = "" if len(case.recording.reference) else "; ranges not known, as there are no reference rows"
    if case.recording.incident.declaration.time_series and not case.requests["actual"].notna().any():
        unknown += "; repeats not judged, as there are no known actuals"

    def told(was: float, since: float) -> str:
        if rise[worst] <= 0:
            return f"no promise is broken more often than before{unknown}"
        return f"largest rise: {worst} ({BREACHES[worst]}), from {was:.1%} to {since:.1%} of rows{unknown}"

    return share_rose(case, case.breaches[worst], case.criteria.broken_share, told, ("broken", "kept"))


def _need_readable(case: Case) -> None:
    if case.unreadable:
        raise NotCheckedError(case.unreadable)


# --- one promise at a time --------------------------------------------------------------------------------------------


@evidence(needs=("requests.features",))
def missing_values(case: Case) -> Evidence:
    """Answer whether more rows than before lack a value: `more` or `no more`."""
    _need_readable(case)
    return _breach(case, "missing")


@evidence(needs=("requests.features",))
def stale_values(case: Case) -> Evidence:
    """Answer whether rows repeat each other as they did not before: `more` or `no more`.

    Where rows follow on each other, those count that repeat the last ones though new ones were due. Elsewhere it is
    looked for one row that took the place of others, as a feed sends it that stands still: it comes more often, and
    others more seldom, while as many come in all.
    """
    if not case.recording.incident.declaration.time_series:
        return _one_row(case)
    if lacking := NEEDS["requests.target"].lacking(case):
        raise NotCheckedError(lacking)
    return _breach(case, "stale")


TAKEN, AS_MANY = 0.1, 1.25
"""Least share of all that one row must have taken, and how many times as many rows as before are still as many."""


def _one_row(case: Case) -> Evidence:
    rows = case.inputs.join(case.categories)
    code = pd.Series(pd.util.hash_pandas_object(rows, index=False).to_numpy(), index=rows.index)
    hits = code == code.loc[case.during.index].mode().iloc[0] if len(case.during) else code == 0
    found = share_rose(
        case, hits, TAKEN,
        lambda before, since: f"the row that came most often since made up {before:.1%} before and {since:.1%} since",
        ("more", "no more"),
    )  # fmt: skip
    if found.finding != "more":
        return found
    window, onset = case.recording.incident.window, case.onset
    seconds = {"before": (onset - window.start).total_seconds(), "since": (window.end - onset).total_seconds()}
    sides = {"before": hits.loc[case.before.index], "since": hits.loc[case.during.index]}
    came = {name: len(side) / max(1.0, seconds[name]) for name, side in sides.items()}
    others = {name: (~side).sum() / max(1.0, seconds[name]) for name, side in sides.items()}
    has_taken_over = others["since"] <= (1 - found.effect / 2) * others["before"]
    if has_taken_over and came["since"] <= AS_MANY * came["before"]:
        return found
    return replace(found, finding="no more", summary=f"{found.summary}, beside the others", onset=None)


@evidence(needs=("requests.features",))
def duplicated_requests(case: Case) -> Evidence:
    """Answer whether more requests than before were answered already: `more` or `no more`."""
    return _breach(case, "duplicated")


def _breach(case: Case, breach: str) -> Evidence:
    return share_rose(
        case, case.breaches[breach], case.criteria.broken_share,
        lambda before, since: f"{BREACHES[breach]}: {before:.1%} of rows before and {since:.1%} since",
        ("more", "no more"),
    )  # fmt: skip


@evidence(needs=("requests.features",))
def units(case: Case) -> Evidence:
    """Answer whether features came in another unit, and by which factor: `another unit` or `same unit`.

    A service that asks about other things since the onset changes sizes too: the training rows decide.
    """
    before, during = (case.anew(case.inputs.loc[side.index]) for side in (case.before, case.during))
    need_rows(case, before, during, "distinct rows of inputs")
    told, odd = unit_factors(before, during)
    learnt = case.recording.reference.select_dtypes("number")
    factors = {
        name: factor for name, factor in told.items() if name not in learnt or unit_factor(learnt[name], odd[name])
    }
    summary = f"{len(factors)} of {during.shape[1]} features changed by a factor between units"
    if not factors:
        return answer("same unit", summary, 1.0, "×")
    listed = ", ".join(f"{name} × {factor:g}" for name, factor in list(factors.items())[:5])
    largest = max(factors.values(), key=lambda factor: abs(np.log(factor)))
    return answer("another unit", f"{summary}: {listed} (in {len(odd)} of {len(during)} rows)", largest, "×")


@evidence(needs=("requests.features",), time_series=True)
def relations(case: Case) -> Evidence:
    """Answer whether rows still follow on each other as they always did: `broken` or `kept`.

    What always agrees between a row and the one before it is read from the recording's first rows (`following`). No
    market breaks it, but a feed does that is stale, swaps columns, counts in another unit, or whose actuals are wrong.
    """
    if case.following.empty:
        raise NotCheckedError("no value agrees with one of the row before it")
    return share_rose(
        case, ~case.following.astype(bool), OUT_OF_ORDER,
        lambda before, since: f"{1 - before:.0%} of the rows before and {1 - since:.0%} since follow on another one, "
        "in all values that agreed at first",
        ("broken", "kept"), "distinct requests",
    )  # fmt: skip


# --- what the service itself counted of its inputs --------------------------------------------------------------------


@evidence(needs=("signals.newest_data",))
def freshness(case: Case) -> Evidence:
    """Answer whether the newest data grew old: `stale` or `fresh`.

    The age is the time of a scrape less that of the newest data behind any request (`as_of`).
    """
    newest = case.recording.samples("newest_data").groupby("time")["value"].max()
    newest = newest[newest > 0]
    if newest.empty:
        raise NotCheckedError("no request told the time of its newest data")
    now = pd.DatetimeIndex(newest.index).as_unit("us").asi8 / 1e6
    ages = pd.Series(now - newest.to_numpy(float), newest.index)
    before, during = scrapes_of(case, ages)
    stopped = float(split(newest, case.onset)[1].diff().iloc[1:].eq(0).mean())
    summary = (
        f"the newest data were {before.median():.3g} s old before, {during.median():.3g} s since, and stood still in "
        f"{stopped:.0%} of the scrapes since"
    )
    is_stale = stopped >= STANDING
    onset = onset_in(ages, case) if is_stale else None
    return answer("stale" if is_stale else "fresh", summary, stopped, "share of scrapes", onset=onset)


STANDING = 0.5


@evidence(needs=("signals.input_problems", "signals.input_rows"))
def input_problems(case: Case) -> Evidence:
    """Answer which values the service counted more of in a row: `missing`, `unseen`, `out of range`, or `no more`.

    Its range is that of its model's scaler: rows of another unit leave it, and so do sound ones where the scaler is
    wrong.
    """
    counted, rows = (case.recording.samples(role) for role in ("input_problems", "input_rows"))
    asked = growth(rows)
    rates = {problem: _rates(growth(counted, problem=problem), asked, case) for problem in COUNTED_PROBLEMS}
    worst = max(rates, key=lambda problem: rates[problem][1] - rates[problem][0])
    was, since = rates[worst]
    told = worst.replace("_", " ")
    summary = f"largest rise: {told}, from {was:.2g} to {since:.2g} values a row"
    finding = told if since - was >= case.criteria.broken_share else "no more"
    return answer(finding, summary, since - was, "values a row")


COUNTED_PROBLEMS = ("missing", "unseen", "out_of_range")


def _rates(grown: pd.Series, asked: pd.Series, case: Case) -> tuple[float, float]:
    """Return how many values were counted for each row, before the onset and since."""
    grown, asked = grown.align(asked, join="right", fill_value=0.0)
    is_before = asked.index < case.onset
    return _per(grown[is_before], asked[is_before]), _per(grown[~is_before], asked[~is_before])


def _per(counted: pd.Series, rows: pd.Series) -> float:
    total = float(rows.sum())
    return float(counted.sum()) / total if total else 0.0
