"""Plants known faults in a table, and scores how well the rules of `cleaning` find and repair them."""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from lepton_kit.data.cleaning import Rule, touched_rows
from lepton_kit.errors import InputError
from subjects.prices import cleaning, quality
from subjects.prices.trading_days import missing_days

SLOT, MARGIN = 8, 10
"""Rows that one fault has to itself, and rows left alone at both ends: faults must not hide each other."""

STALE_ROWS = 3

Plant = Callable[[pd.DataFrame, float, np.random.Generator], tuple[pd.DataFrame, list[float]]]
"""Takes the table, the label of a row and a generator; returns the faulty table and the labels of the faulty rows.

Labels are positions in the original table; a row put between two others gets a label between theirs."""


@dataclass(frozen=True)
class Fault:
    """One kind of fault: how to plant it, the rule that answers it, and the columns it needs."""

    kind: str
    plant: Plant
    rule: Rule | None
    needs: frozenset[str] = frozenset({"close"})


@dataclass(frozen=True)
class Planted:
    """A table with faults, what was planted (`kind`, `row`, `date`; row -1: the row is gone), and the table before."""

    frame: pd.DataFrame
    truth: pd.DataFrame
    original: pd.DataFrame


def lose_a_day(frame: pd.DataFrame, row: float, rng: np.random.Generator) -> tuple[pd.DataFrame, list[float]]:
    """Take a row out."""
    return frame.drop(index=row), [row]


def move_down(frame: pd.DataFrame, row: float, rng: np.random.Generator) -> tuple[pd.DataFrame, list[float]]:
    """Move a row below the two that follow it."""
    return frame.rename(index={row: row + 2.5}), [row + 2.5]


def repeat_exactly(frame: pd.DataFrame, row: float, rng: np.random.Generator) -> tuple[pd.DataFrame, list[float]]:
    """Deliver a row twice."""
    return _inserted(frame, frame.loc[[row]], row + 0.5)


def precede_by_a_draft(frame: pd.DataFrame, row: float, rng: np.random.Generator) -> tuple[pd.DataFrame, list[float]]:
    """Put a preliminary row of the same date, up to 1 % off, above the final one."""
    draft = frame.loc[[row]].copy()
    draft[_prices(frame)] *= 1 + rng.uniform(0.001, 0.01)
    return _inserted(frame, draft, row - 0.5)


def empty_a_cell(frame: pd.DataFrame, row: float, rng: np.random.Generator) -> tuple[pd.DataFrame, list[float]]:
    """Leave out one price, or the volume."""
    columns = [column for column in quality.MEASURES if column in frame.columns]
    return _changed(frame, row, {str(rng.choice(columns)): np.nan})


def swap_high_and_low(frame: pd.DataFrame, row: float, rng: np.random.Generator) -> tuple[pd.DataFrame, list[float]]:
    """Swap the day's high and low."""
    return _changed(frame, row, {"high": _at(frame, row, "low") - 0.01, "low": _at(frame, row, "high") + 0.01})


def close_above_high(frame: pd.DataFrame, row: float, rng: np.random.Generator) -> tuple[pd.DataFrame, list[float]]:
    """Raise the close above the day's high by up to 2 %."""
    return _changed(frame, row, {"close": _at(frame, row, "high") * (1 + rng.uniform(0.001, 0.02))})


def negate_volume(frame: pd.DataFrame, row: float, rng: np.random.Generator) -> tuple[pd.DataFrame, list[float]]:
    """Turn the sign of the volume."""
    return _changed(frame, row, {"volume": -_at(frame, row, "volume") - 1})


def zero_the_close(frame: pd.DataFrame, row: float, rng: np.random.Generator) -> tuple[pd.DataFrame, list[float]]:
    """Write a close of zero."""
    return _changed(frame, row, {"close": 0.0})


def stand_still(frame: pd.DataFrame, row: float, rng: np.random.Generator) -> tuple[pd.DataFrame, list[float]]:
    """Repeat a row's values over the three days that follow."""
    rows = [row + 1 + step for step in range(STALE_ROWS)]
    faulty = frame.copy()
    for column in frame.columns.drop("date"):
        faulty.loc[rows, column] = _at(frame, row, column)
    return faulty, rows


def spike_for_a_day(frame: pd.DataFrame, row: float, rng: np.random.Generator) -> tuple[pd.DataFrame, list[float]]:
    """Multiply or divide one day's prices by 1.2 to 2: sometimes too little to be told from a wild market."""
    factor = rng.uniform(1.2, 2.0) ** rng.choice([-1, 1])
    return _changed(frame, row, {column: _at(frame, row, column) * factor for column in _prices(frame)})


def undo_a_split(frame: pd.DataFrame, row: float, rng: np.random.Generator) -> tuple[pd.DataFrame, list[float]]:
    """Multiply all earlier prices by 2, 3 or 4 and divide their volumes: a split that nobody adjusted for."""
    ratio = float(rng.choice([2, 3, 4]))
    faulty, earlier = frame.copy(), frame["date"] < frame.at[row, "date"]
    faulty.loc[earlier, _prices(frame)] *= ratio
    if "volume" in frame.columns:
        faulty.loc[earlier, "volume"] = (frame.loc[earlier, "volume"] / ratio).round()
    return faulty, [row]


RANGE = frozenset({"high", "low", "close"})
FAULTS = (
    Fault("lost day", lose_a_day, None),
    Fault("row moved down", move_down, cleaning.sort_by_date),
    Fault("row delivered twice", repeat_exactly, cleaning.drop_exact_duplicates),
    Fault("draft before the final row", precede_by_a_draft, cleaning.drop_repeated_dates),
    Fault("empty cell", empty_a_cell, cleaning.drop_missing_prices),
    Fault("high and low swapped", swap_high_and_low, cleaning.drop_impossible_rows, RANGE),
    Fault("close above high", close_above_high, cleaning.drop_impossible_rows, RANGE),
    Fault("volume below zero", negate_volume, cleaning.drop_impossible_rows, frozenset({"volume"})),
    Fault("close of zero", zero_the_close, cleaning.drop_impossible_rows),
    Fault("feed stood still", stand_still, cleaning.drop_stale_repeats),
    Fault("spike for a day", spike_for_a_day, cleaning.drop_reverted_spikes),
    Fault("split not adjusted for", undo_a_split, cleaning.correct_splits),
)

CALENDAR = "(check) missing days"
"""Stands in the scores where no rule answers: a lost day is reported and never filled."""


def plant_faults(frame: pd.DataFrame, seed: int, count: int) -> Planted:
    """Plant `count` faults of each kind that the table's columns allow, at random places that do not overlap.

    Parameters
    ----------
    frame
        A clean table, so that every fault in the result is a known one.
    seed
        The same seed plants the same faults.
    count
        Faults of each kind; 0 plants none.

    Raises
    ------
    InputError
        When the table is too short to hold them apart.

    Examples
    --------
    >>> days = pd.bdate_range("2020-01-01", periods=120)
    >>> frame = pd.DataFrame({"date": days, "close": 50 + np.sin(np.arange(120.0))})
    >>> planted = plant_faults(frame, seed=1, count=1)
    >>> planted.truth["kind"].nunique(), len(planted.frame)
    (9, 121)
    """
    original = frame.reset_index(drop=True)
    faults = [fault for fault in FAULTS if fault.needs <= set(frame.columns)]
    rng = np.random.default_rng(seed)
    rows = _places(len(frame), count, len(faults), rng)
    faulty, found = original.set_index(original.index.astype(float)), []
    for fault, row in zip(faults * count, rows, strict=True):
        faulty, labels = fault.plant(faulty, row, rng)
        found += [(fault.kind, label) for label in labels]
    faulty = faulty.sort_index()
    return Planted(faulty.reset_index(drop=True), _truth(found, faulty, original), original)


def score_rules(planted: Planted, rules: tuple[Rule, ...] = cleaning.RULES) -> pd.DataFrame:
    """Run the rules over a planted table and compare the rows that each touches with those that were planted for it.

    A rule that rewrites a whole stretch (`correct_splits`) is judged by the days on which its stretches end.

    Returns
    -------
    DataFrame
        One row per rule, and one for the calendar check: `rule`, `planted` (rows), `found`, `correct` (of those found),
        `precision`, `recall` (shares; NaN where nothing was found, or planted).

    Examples
    --------
    >>> days = pd.bdate_range("2020-01-01", periods=120)
    >>> frame = pd.DataFrame({"date": days, "close": 50 + np.sin(np.arange(120.0))})
    >>> scores = score_rules(plant_faults(frame, seed=1, count=1)).set_index("rule")
    >>> scores.loc["drop_stale_repeats"].tolist()
    [3.0, 3.0, 3.0, 1.0, 1.0]
    """
    lines = [_score(name, _planted_for(name, planted.truth), hits) for name, hits in _hits(planted, rules).items()]
    return pd.DataFrame(lines, columns=["rule", "planted", "found", "correct", "precision", "recall"])


def mark_found(planted: Planted, rules: tuple[Rule, ...] = cleaning.RULES) -> pd.DataFrame:
    """Return what was planted with a column `found`: whether the rule for it touched its row.

    Examples
    --------
    >>> days = pd.bdate_range("2020-01-01", periods=120)
    >>> frame = pd.DataFrame({"date": days, "close": 50 + np.sin(np.arange(120.0))})
    >>> mark_found(plant_faults(frame, seed=1, count=1))["found"].tolist() == [True] * 11
    True
    """
    found = pd.Series(False, index=planted.truth.index)
    for name, hits in _hits(planted, rules).items():
        answered = _planted_for(name, planted.truth)
        found[answered.index] = answered.isin(hits)
    return planted.truth.assign(found=found)


def wrong_prices(frame: pd.DataFrame, original: pd.DataFrame) -> pd.DataFrame:
    """Return the rows whose prices are missing or not those of the same date in the original.

    Examples
    --------
    >>> original = pd.DataFrame({"date": pd.date_range("2024-01-01", periods=3), "close": [7.0, 7.1, 7.2]})
    >>> wrong_prices(original.replace(7.1, 71.0), original)["close"].tolist()
    [71.0]
    """
    prices = _prices(original)
    known = original.set_index("date").loc[frame["date"], prices].set_axis(frame.index)
    right = (frame[prices] / known - 1).abs() <= 1e-9
    return frame[~right.all(axis=1)]


def _places(rows: int, count: int, kinds: int, rng: np.random.Generator) -> list[float]:
    slots = np.arange(MARGIN, rows - MARGIN - SLOT, SLOT)
    most = len(slots) // kinds
    if not 0 <= count <= most:
        raise InputError(
            f"{count} planted faults of each of {kinds} kinds: a table of {rows} rows holds 0 to {most} of each "
            "without overlap"
        )
    return [float(row) + SLOT // 4 for row in rng.choice(slots, size=count * kinds, replace=False)]


def _truth(found: list[tuple[str, float]], faulty: pd.DataFrame, original: pd.DataFrame) -> pd.DataFrame:
    kinds, labels = [kind for kind, _ in found], [label for _, label in found]
    rows = faulty.index.get_indexer(pd.Index(labels, dtype=float))
    dates = [original["date"].iloc[round(label)] if row < 0 else faulty["date"].iloc[row]
             for label, row in zip(labels, rows, strict=True)]  # fmt: skip
    truth = pd.DataFrame(
        {"kind": pd.Series(kinds, dtype="str"), "row": rows, "date": pd.Series(dates, dtype="datetime64[us]")}
    )
    return truth.sort_values(["date", "row"]).reset_index(drop=True)


def _hits(planted: Planted, rules: tuple[Rule, ...]) -> dict[str, Set[Any]]:
    """Return the rows that each rule touches in its turn, and under `CALENDAR` the dates that planting made missing."""
    hits: dict[str, Set[Any]] = {}
    frame = planted.frame
    for rule in rules:
        before, frame = frame, rule(frame)
        touched = touched_rows(before, frame)
        hits[rule.__name__] = set(_stretch_ends(before, frame) if rule is cleaning.correct_splits else touched)
    hits[CALENDAR] = set(missing_days(planted.frame["date"])) - set(missing_days(planted.original["date"]))
    return hits


def _planted_for(name: str, truth: pd.DataFrame) -> pd.Series:
    """Return what a rule should find: rows, or for the calendar, which has no row to point at, dates."""
    kinds = [fault.kind for fault in FAULTS if name == (fault.rule.__name__ if fault.rule else CALENDAR)]
    return truth.loc[truth["kind"].isin(kinds), "date" if name == CALENDAR else "row"]


def _stretch_ends(before: pd.DataFrame, after: pd.DataFrame) -> pd.Index:
    """Return the rows at which the factor that a rule put on the close changes: the days of the splits it saw."""
    factor = (after["close"] / before["close"]).round(6)
    return before.index[(factor != factor.shift()) & factor.shift().notna()]


def _score(rule: str, planted: pd.Series, found: Set[Any]) -> tuple[str, int, int, int, float, float]:
    correct = int(planted.isin(found).sum())
    precision = correct / len(found) if found else float("nan")
    recall = correct / len(planted) if len(planted) else float("nan")
    return rule, len(planted), len(found), correct, precision, recall


def _inserted(frame: pd.DataFrame, rows: pd.DataFrame, label: float) -> tuple[pd.DataFrame, list[float]]:
    return pd.concat([frame, rows.set_axis([label])]), [label]


def _changed(frame: pd.DataFrame, row: float, values: dict[str, float]) -> tuple[pd.DataFrame, list[float]]:
    faulty = frame.copy()
    for column, value in values.items():
        faulty.at[row, column] = value
    return faulty, [row]


def _at(frame: pd.DataFrame, row: float, column: str) -> float:
    return float(frame[column].loc[row])


def _prices(frame: pd.DataFrame) -> list[str]:
    return [column for column in quality.PRICES if column in frame.columns]
