"""What is wrong with a table of any kind: one finder per fault, and one report that names and counts them.

A finder takes a table and its contract and returns a boolean mask over the rows. The cleaning rules use the same
finders, so that what is reported is what is repaired. Rules about time apply only where rows have one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd

from lepton_kit.data.contracts import SPLIT, Contract

Finder = Callable[[pd.DataFrame, Contract], pd.Series]

TO_SIGMA, OUTLIER = 1.4826, 3.5
"""Median absolute deviation to standard deviation, and the outlier's z-score: Iglewicz and Hoaglin (1993), p. 11."""

POWERS = (1, 2, 3)
"""A column in another unit is 10, 100 or 1000 times too large or too small."""

STRETCH, OF_STRETCH = 5, 4
"""Neighbouring rows that make a stretch, and how many of them are in the other unit; a single row is an outlier."""

SAME_SCALE = 0.25
"""Decades of robust deviation above which a factor of ten cannot be told from the column's own spread."""

APART = 0.2
"""Decades of nothing that lie between the column's own values and those in another unit."""

LONG_GAP, GAP_SHARE = 3.0, 0.95
"""A gap is longer than this many usual steps (the median), where nearly all steps are usual."""

ALLOWED_RANGES = 3.0
"""An input further outside the training rows' range than this many of its widths is in another unit, not a market."""

SCARCE, ONE_TO_ONE = 10, 0.999
"""Fewest rows of a class; and how alike a feature and the target may be before it is taken for it."""


# --- types, holes, repeats ------------------------------------------------------------------------------------------


def find_wrong_types(table: pd.DataFrame, contract: Contract) -> pd.Series:
    """Find rows with a value that its role does not allow: text for a number, a time that is none.

    >>> find_wrong_types(pd.DataFrame({"age": [31, "n/a"]}), Contract(numbers=("age",))).tolist()
    [False, True]
    """
    wrong = _none(table)
    for name in _numbers(table, contract):
        wrong |= as_number(table[name]).isna() & table[name].notna()
    if contract.time:
        wrong |= as_time(table[contract.time]).isna() & table[contract.time].notna()
    return wrong


def find_missing_values(table: pd.DataFrame, contract: Contract) -> pd.Series:
    """Find rows that lack a value which a model needs: a feature, the target or the time.

    >>> find_missing_values(pd.DataFrame({"age": [31, None]}), Contract(numbers=("age",))).tolist()
    [False, True]
    """
    needed = [name for name in (*contract.features, contract.target, contract.time) if name]
    blank: pd.Series = table[needed].apply(lambda cells: cells.isna() | cells.map(_is_blank)).any(axis=1)
    return blank


def find_exact_duplicates(table: pd.DataFrame, contract: Contract) -> pd.Series:
    """Find rows that repeat an earlier one in every column.

    >>> find_exact_duplicates(pd.DataFrame({"age": [31, 31]}), Contract(numbers=("age",))).tolist()
    [False, True]
    """
    return table.duplicated()


def find_repeated_ids(table: pd.DataFrame, contract: Contract) -> pd.Series:
    """Find rows whose id comes again further down with other values: the later is taken as the correction.

    >>> find_repeated_ids(pd.DataFrame({"id": [7, 7], "age": [31, 32]}), Contract(numbers=("age",), id="id")).tolist()
    [True, False]
    """
    if contract.id is None:
        return _none(table)
    distinct = table[~table.duplicated()]
    return distinct.duplicated(contract.id, keep="last").reindex(table.index, fill_value=False)


def find_near_duplicates(table: pd.DataFrame, contract: Contract) -> pd.Series:
    """Find rows whose features repeat an earlier row's but for the last digits, or the case of letters.

    >>> table = pd.DataFrame({"weight": [71.20001, 71.2, 80.0], "town": ["Bern", " bern", "Bern"]})
    >>> find_near_duplicates(table, Contract(numbers=("weight",), categories=("town",))).tolist()
    [False, True, False]
    """
    coarse = pd.DataFrame(index=table.index)
    for name in contract.numbers:
        coarse[name] = as_number(table[name]).map(lambda value: float(f"{value:.4g}"))
    for name in (*contract.categories, *contract.texts):
        coarse[name] = table[name].astype("string").str.strip().str.casefold()
    exact = table[list(coarse)].duplicated(keep=False)
    return coarse.duplicated() & ~exact


# --- values that cannot be, and values that are unlikely --------------------------------------------------------------


def find_impossible_values(table: pd.DataFrame, contract: Contract) -> pd.Series:
    """Find rows with an infinite number, a placeholder far outside of the column (such as −999), or a time to come.

    >>> ages = pd.DataFrame({"age": [31.0, 42.0, 38.0, -999.0, 45.0, float("inf")]})
    >>> find_impossible_values(ages, Contract(numbers=("age",))).tolist()
    [False, False, False, True, False, True]
    """
    wrong = _none(table)
    for name in _numbers(table, contract):
        values = as_number(table[name])
        wrong |= np.isinf(values) | _placeholders(values)
    if contract.time:
        wrong |= as_time(table[contract.time]) > pd.Timestamp.now(tz="UTC") + pd.Timedelta(days=1)
    return wrong


def find_unit_jumps(table: pd.DataFrame, contract: Contract) -> pd.Series:
    """Find rows of a stretch in which a column is in another unit, 10, 100 or 1000 times too large or too small.

    >>> weights = 70 + np.sin(np.arange(40.0)); weights[10:20] *= 1000
    >>> found = find_unit_jumps(pd.DataFrame({"weight": weights}), Contract(numbers=("weight",)))
    >>> np.flatnonzero(found).tolist() == list(range(10, 20))
    True
    """
    return (unit_factors(table, contract) != 1).any(axis=1)


def unit_factors(table: pd.DataFrame, contract: Contract) -> pd.DataFrame:
    """Return for each number of the features by how much it is too large: 1, or a power of ten (n, columns)."""
    factors = pd.DataFrame(1.0, index=table.index, columns=list(contract.numbers))
    ordered = table.index[_in_order(table, contract)]
    for name in contract.numbers:
        values = as_number(table[name]).loc[ordered]
        logs = np.log10(values.abs().where(values != 0).replace(np.inf, np.nan))
        away = logs - logs.median()
        spread = max(TO_SIGMA * float(away.abs().median()), 0.01)
        if not spread < SAME_SCALE or values.nunique() <= 2:
            continue
        for power in (*POWERS, *(-one for one in POWERS)):
            near = (away - power).abs() < min(3.5 * spread, 0.45)
            usual = away[away.abs() < 0.5 + 0.5 * (abs(power) > 1)].abs().max()
            if not away[near].abs().min() > usual + APART:
                continue  # the column's own values reach as far
            stretch = near.rolling(STRETCH, min_periods=STRETCH).sum() >= OF_STRETCH
            inside = stretch[::-1].rolling(STRETCH, min_periods=1).max()[::-1].astype(bool)
            factors.loc[near.index[near & inside], name] = 10.0**power
    return factors


def allowed_range(reference: pd.DataFrame) -> pd.DataFrame:
    """Return the least and the largest value that each feature may have, index: feature, columns `low` and `high`.

    Examples
    --------
    >>> allowed_range(pd.DataFrame({"return_0": [-0.1, 0.1]})).round(3).to_dict("index")
    {'return_0': {'low': -0.7, 'high': 0.7}}
    """
    low, high = reference.min(), reference.max()
    margin = ALLOWED_RANGES * (high - low)
    return pd.DataFrame({"low": low - margin, "high": high + margin})


def find_outliers(table: pd.DataFrame, contract: Contract) -> pd.Series:
    """Find rows with a number more than 3.5 robust deviations from the column's median; they are kept, and named.

    >>> ages = pd.DataFrame({"age": [31.0, 42.0, 38.0, 45.0, 36.0, 99.0]})
    >>> np.flatnonzero(find_outliers(ages, Contract(numbers=("age",)))).tolist()
    [5]
    """
    found = _none(table)
    for name in _numbers(table, contract):
        values = as_number(table[name])
        away = (values - values.median()).abs()
        found |= away > OUTLIER * TO_SIGMA * away.median() if away.median() > 0 else False
    return found


# --- time -------------------------------------------------------------------------------------------------------------


def find_out_of_order(table: pd.DataFrame, contract: Contract) -> pd.Series:
    """Find rows that come after a row of a later time."""
    if contract.time is None:
        return _none(table)
    times = as_time(table[contract.time])
    return times < times.cummax()


def find_repeated_times(table: pd.DataFrame, contract: Contract) -> pd.Series:
    """Find rows whose time comes again further down, where rows follow on each other."""
    if contract.time is None or not contract.time_series:
        return _none(table)
    return table.duplicated(contract.time, keep="last") & ~table.duplicated(keep=False)


def find_gaps(table: pd.DataFrame, contract: Contract) -> pd.Series:
    """Find rows after a gap: a step far above the usual one, where the rows are otherwise evenly spaced.

    >>> days = pd.date_range("2024-01-01", periods=60).delete(slice(3, 19))
    >>> contract = Contract(numbers=("x",), time="day", time_series=True)
    >>> np.flatnonzero(find_gaps(pd.DataFrame({"day": days, "x": 1.0}), contract)).tolist()
    [3]
    """
    if contract.time is None or not contract.time_series:
        return _none(table)
    steps = as_time(table[contract.time]).sort_values().diff().dt.total_seconds()
    usual = steps[steps > 0].median()
    is_long = steps > LONG_GAP * usual
    return is_long.reindex(table.index, fill_value=False) if is_long.mean() < 1 - GAP_SHARE else _none(table)


def find_stale_rows(table: pd.DataFrame, contract: Contract) -> pd.Series:
    """Find rows that only repeat the features of the row before them in time: a feed that stood still."""
    if contract.time is None or not contract.time_series:
        return _none(table)
    ordered = table.loc[table.index[_in_order(table, contract)], list(contract.features)]
    same = (ordered == ordered.shift()).all(axis=1)
    return same.reindex(table.index)


# --- leakage and balance ----------------------------------------------------------------------------------------------


def find_shared_rows(table: pd.DataFrame, contract: Contract) -> pd.Series:
    """Find rows of a later part whose id or features stand in an earlier part too: it has been seen already.

    >>> table = pd.DataFrame({"x": [1.0, 2.0, 1.0], "split": ["train", "train", "test"]})
    >>> find_shared_rows(table, Contract(numbers=("x",))).tolist()
    [False, False, True]
    """
    shared = _none(table)
    if SPLIT not in table.columns:
        return shared
    keys: list[Sequence[str]] = [contract.features, *([[contract.id]] if contract.id else [])]
    parts = [part for part in ("train", "validation", "test") if (table[SPLIT] == part).any()]
    for names in map(list, keys):
        rows = pd.util.hash_pandas_object(table[names].astype("string"), index=False)
        for place, (_, later) in enumerate(pairwise(parts), 1):
            seen = rows[table[SPLIT].isin(parts[:place])]
            shared |= (table[SPLIT] == later) & rows.isin(seen)
    return shared


def target_like(table: pd.DataFrame, contract: Contract) -> list[str]:
    """Return the features that tell the target by themselves: equal to it, or one to one with it.

    >>> table = pd.DataFrame({"x": [1.0, 2.0, 1.5, 0.5], "answer": [3, 9, 3, 9], "y": [0, 1, 0, 1]})
    >>> target_like(table, Contract(numbers=("x", "answer"), target="y", is_class=True))
    ['answer']
    """
    if contract.target is None or table[contract.target].nunique() < 2:
        return []
    target, found = table[contract.target], []
    for name in contract.features:
        known = pd.DataFrame({"feature": table[name], "target": target}).dropna()
        if contract.is_class or name in contract.categories:
            few = 2 <= known["feature"].nunique() <= min(2 * target.nunique(), len(known) / 2)
            is_told = bool(few and (known.groupby("feature")["target"].nunique() == 1).all())
        else:
            alike = as_number(known["feature"]).corr(as_number(known["target"]), method="spearman")
            is_told = bool(abs(alike) > ONE_TO_ONE)
        if is_told:
            found.append(name)
    return found


def class_balance(table: pd.DataFrame, contract: Contract) -> pd.DataFrame:
    """Return how often each class comes: `class`, `rows`, `share`, and whether it is `scarce` (fewer than 10 rows)."""
    counts = table[contract.target].value_counts().sort_index()
    made = pd.DataFrame({"class": counts.index.astype(str), "rows": counts.to_numpy()})
    return made.assign(share=made["rows"] / max(len(table), 1), scarce=made["rows"] < SCARCE)


# --- the report -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Check:
    """One line of the report: what is looked for, how, what a hit means, and whether it needs a time."""

    name: str
    find: Finder
    meaning: str
    needs_time: bool = False


CHECKS = (
    Check("wrong types", find_wrong_types, "a value that its role does not allow, such as text for a number"),
    Check("missing values", find_missing_values, "a cell is empty that a model needs; none is invented for it"),
    Check("exact duplicates", find_exact_duplicates, "the same row was delivered twice"),
    Check("repeated ids", find_repeated_ids, "one id with other values; the later is taken as a correction"),
    Check("impossible values", find_impossible_values, "infinite, a placeholder such as −999, or a time to come"),
    Check("unit jumps", find_unit_jumps, "a stretch of a column is 10, 100 or 1000 times too large or too small"),
    Check("outliers", find_outliers, "beyond 3.5 robust deviations of the column; kept, for most are true"),
    Check("near-duplicates", find_near_duplicates, "features repeat but for the last digits or the case; kept"),
    Check("shared between parts", find_shared_rows, "a row of a later part was seen in an earlier one"),
    Check("out of order", find_out_of_order, "a later time stands above it", needs_time=True),
    Check("repeated times", find_repeated_times, "two different rows of one time", needs_time=True),
    Check("gaps", find_gaps, "the row comes long after the one before it", needs_time=True),
    Check("stale rows", find_stale_rows, "the feed stood still and repeated the row before", needs_time=True),
)


def quality_report(table: pd.DataFrame, contract: Contract) -> pd.DataFrame:
    """Count each kind of fault in a table; nothing is changed.

    Returns
    -------
    DataFrame
        One row per check that applies: `check`, `rows` touched, their `share`, an `example` (the first), `meaning`.

    Examples
    --------
    >>> report = quality_report(pd.DataFrame({"age": [31, "n/a", 38]}), Contract(numbers=("age",)))
    >>> report.loc[report["rows"] > 0, ["check", "rows", "example"]].values.tolist()
    [['wrong types', 1, "row 2: age 'n/a'"]]
    """
    lines = []
    for check in CHECKS:
        if check.needs_time and contract.time is None:
            continue
        found = check.find(table, contract).to_numpy(dtype=bool)
        example = _example(table.iloc[int(found.argmax())], int(found.argmax()), contract) if found.any() else ""
        lines.append((check.name, int(found.sum()), float(found.mean()), example, check.meaning))
    return pd.DataFrame(lines, columns=["check", "rows", "share", "example", "meaning"])


# --- helpers ----------------------------------------------------------------------------------------------------------


def as_number(values: pd.Series) -> pd.Series:
    """Return cells as numbers, NaN where they are none."""
    return pd.to_numeric(values, errors="coerce").astype(float)


def as_time(values: pd.Series) -> pd.Series:
    """Return cells as times (UTC), NaT where they are none."""
    return pd.to_datetime(values, errors="coerce", utc=True)


def _placeholders(values: pd.Series) -> pd.Series:
    """Find numbers made of nines that lie outside of all other values by more than their whole range."""
    marked = values.abs().map(lambda one: np.isfinite(one) and one >= 99 and set(f"{one:.10g}") == {"9"})
    rest = values[~marked & np.isfinite(values)]
    if rest.empty or not marked.any():
        return pd.Series(False, index=values.index)
    width = max(float(rest.max() - rest.min()), 1e-12)
    far: pd.Series = marked & ((values > rest.max() + width) | (values < rest.min() - width))
    return far


def _example(row: pd.Series, position: int, contract: Contract) -> str:
    shown = [name for name in (contract.id, contract.time, *contract.features) if name][:3]
    return f"row {position + 1}: " + ", ".join(f"{name} {_plain(row[name])}" for name in shown)


def _is_blank(cell: object) -> bool:
    return isinstance(cell, str) and not cell.strip()


def _plain(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else repr(value) if isinstance(value, str) else str(value)


def _in_order(table: pd.DataFrame, contract: Contract) -> np.ndarray:
    times = as_time(table[contract.time]) if contract.time else None
    return np.arange(len(table)) if times is None else np.argsort(times.to_numpy(), kind="stable")


def _numbers(table: pd.DataFrame, contract: Contract) -> list[str]:
    is_number = contract.target is not None and not contract.is_class
    return [*contract.numbers, *([str(contract.target)] if is_number else [])]


def _none(table: pd.DataFrame) -> pd.Series:
    return pd.Series(False, index=table.index)
