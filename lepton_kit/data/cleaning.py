"""Repairs a table of any kind: one pure function per rule, applied in order until nothing changes, with a log of why.

To add a rule, write one function (table and contract in, table out; its docstring's first line is the log's reason)
and name it in `RULES`. Values are dropped or put into one unit, never invented; what is only unlikely stays.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd

from lepton_kit.data import quality
from lepton_kit.data.contracts import Contract
from lepton_kit.errors import InputError, LeptonError

Rule = Callable[[pd.DataFrame], pd.DataFrame]
MOST_PASSES = 20


@dataclass(frozen=True)
class Cleaned:
    """A clean table, and the log: `rule`, `rows_in`, `rows_out`, `changed` (dropped, moved, rewritten), `why`."""

    frame: pd.DataFrame
    log: pd.DataFrame


def sort_by_time(table: pd.DataFrame, contract: Contract) -> pd.DataFrame:
    """Sort by time, whatever the order of arrival; rows of one time keep the order in which they came."""
    if contract.time is None:
        return table
    return table.sort_values(contract.time, kind="stable", key=quality.as_time)


def to_declared_types(table: pd.DataFrame, contract: Contract) -> pd.DataFrame:
    """Read numbers and times as such; a cell that is none becomes empty, so that the next rule counts its row.

    >>> to_declared_types(pd.DataFrame({"age": ["31", "n/a"]}), Contract(numbers=("age",)))["age"].tolist()
    [31.0, nan]
    """
    made = table.copy()
    for name in (*contract.numbers, *([contract.target] if contract.target and not contract.is_class else [])):
        made[name] = quality.as_number(table[name])
    for name in contract.categories:
        made[name] = table[name].astype("string").str.strip().astype(object).where(table[name].notna(), None)
    if contract.time:
        made[contract.time] = quality.as_time(table[contract.time])
    return made


def drop_exact_duplicates(table: pd.DataFrame, contract: Contract) -> pd.DataFrame:
    """Drop a row that was delivered before; it says nothing new."""
    return table[~quality.find_exact_duplicates(table, contract)]


def drop_missing_values(table: pd.DataFrame, contract: Contract) -> pd.DataFrame:
    """Drop a row with an empty cell that a model needs: a value invented for it would be learned as if it were real."""
    return table[~quality.find_missing_values(table, contract)]


def drop_impossible_rows(table: pd.DataFrame, contract: Contract) -> pd.DataFrame:
    """Drop a row that cannot be true (infinite, a placeholder, a time to come): none of it can be trusted."""
    return table[~quality.find_impossible_values(table, contract)]


def drop_repeated_ids(table: pd.DataFrame, contract: Contract) -> pd.DataFrame:
    """Keep the last of several rows of one id, or of one time where rows follow on each other."""
    return table[~(quality.find_repeated_ids(table, contract) | quality.find_repeated_times(table, contract))]


def drop_stale_rows(table: pd.DataFrame, contract: Contract) -> pd.DataFrame:
    """Drop rows that only repeat the one before, where rows follow on each other: the feed stood still."""
    return table[~quality.find_stale_rows(table, contract)]


def correct_units(table: pd.DataFrame, contract: Contract) -> pd.DataFrame:
    """Bring a stretch of a column that is in another unit, by a power of ten, back into the column's own.

    >>> weights = pd.Series([70.0, 71.0, 69.0] * 10); weights[10:20] *= 1000
    >>> corrected = correct_units(pd.DataFrame({"weight": weights}), Contract(numbers=("weight",)))
    >>> corrected["weight"].round(6).unique().tolist()
    [70.0, 71.0, 69.0]
    """
    factors = quality.unit_factors(table, contract)
    columns = list(contract.numbers)
    return table.assign(**(table[columns] / factors)) if (factors != 1).to_numpy().any() else table


TableRule = Callable[[pd.DataFrame, Contract], pd.DataFrame]
RULES: tuple[TableRule, ...] = (
    to_declared_types,
    sort_by_time,
    drop_exact_duplicates,
    drop_missing_values,
    drop_impossible_rows,
    drop_repeated_ids,
    correct_units,
    drop_stale_rows,
)


def clean_by(contract: Contract, table: pd.DataFrame) -> Cleaned:
    """Clean a table of any kind against its contract; only the columns that play a role are left.

    Raises
    ------
    InputError
        When no row is left, or fewer than half of them: the columns that lack most cells are named.

    Examples
    --------
    >>> cleaned = clean_by(Contract(numbers=("age",)), pd.DataFrame({"age": ["31", "31", "n/a", "42", "38", "36"]}))
    >>> cleaned.log.loc[cleaned.log["changed"] > 0, ["rule", "changed"]].values.tolist()
    [['drop_exact_duplicates', 1], ['drop_missing_values', 1]]
    """
    typed = to_declared_types(table[list(contract.columns)].reset_index(drop=True), contract)
    made = clean(typed, tuple(_bound(rule, contract) for rule in RULES))
    if 2 * len(made.frame) < len(table):
        lacking = typed.isna().mean().sort_values(ascending=False).head(3)
        told = ", ".join(f"{name} ({share:.0%} empty)" for name, share in lacking.items() if share)
        raise InputError(
            f"cleaning left {len(made.frame)} of {len(table)} rows; most were dropped by "
            f"{made.log.sort_values('changed').iloc[-1]['rule']}: {told or 'no cell is empty'}; "
            "leave such a column out of columns.features, or correct the table"
        )
    return made


def clean(frame: pd.DataFrame, rules: tuple[Rule, ...]) -> Cleaned:
    """Apply every rule in order, again and again until a pass changes nothing; so cleaning twice changes nothing more.

    Returns
    -------
    Cleaned
        The table, rows numbered anew from 0, and the log: one line per rule, and one for each later change.

    Raises
    ------
    InputError
        When no row is left.

    Examples
    --------
    >>> drop = partial(drop_missing_values, contract=Contract(numbers=("x",)))
    >>> clean(pd.DataFrame({"x": [1.0, None]}), (drop,)).log[["rule", "rows_in", "rows_out"]].values.tolist()
    [['drop_missing_values', 2, 1]]
    """
    frame = frame.reset_index(drop=True)
    lines: list[dict[str, object]] = []
    for _ in range(MOST_PASSES):
        frame, applied = _one_pass(frame, rules)
        lines += [line for line in applied if line["changed"]] if lines else applied
        if not any(line["changed"] for line in applied):
            return Cleaned(frame.reset_index(drop=True), pd.DataFrame(lines))
    raise LeptonError(f"cleaning still changes rows after {MOST_PASSES} passes: two rules undo each other")


def touched_rows(before: pd.DataFrame, after: pd.DataFrame) -> pd.Index:
    """Return the index labels of the rows that a rule dropped, moved up, or rewrote.

    Examples
    --------
    >>> before = pd.DataFrame({"close": [1.0, 2.0, 3.0]})
    >>> touched_rows(before, before.drop(1).replace(3.0, 4.0)).tolist()
    [1, 2]
    """
    kept = before.loc[before.index.isin(after.index)]
    same_order = after.loc[kept.index]
    rewritten = ~((kept == same_order) | (kept.isna() & same_order.isna())).all(axis=1)
    position = pd.Series(after.index.get_indexer(kept.index), index=kept.index)
    moved_up = position < position.cummax()
    return before.index.difference(after.index).append(kept.index[rewritten | moved_up])


def reason(rule: Rule) -> str:
    """Return why a rule does what it does: the first line of its docstring.

    Examples
    --------
    >>> reason(partial(drop_exact_duplicates, contract=Contract()))
    'Drop a row that was delivered before; it says nothing new.'
    """
    return (_function(rule).__doc__ or "").strip().partition("\n")[0]


def _bound(rule: TableRule, contract: Contract) -> Rule:
    bound: Rule = partial(rule, contract=contract)  # type: ignore[call-arg]  # a Callable has no names
    return bound


def _function(rule: Rule) -> Any:
    return rule.func if isinstance(rule, partial) else rule


def _one_pass(frame: pd.DataFrame, rules: tuple[Rule, ...]) -> tuple[pd.DataFrame, list[dict[str, object]]]:
    lines: list[dict[str, object]] = []
    for rule in rules:
        before, frame = frame, rule(frame)
        if frame.empty:
            last = f"{_function(rule).__name__} dropped the last {len(before)} ({reason(rule)})"
            raise InputError(f"cleaning left no row: {last}")
        changed = len(touched_rows(before, frame))
        lines.append(
            {
                "rule": _function(rule).__name__,
                "rows_in": len(before),
                "rows_out": len(frame),
                "changed": changed,
                "why": reason(rule),
            }
        )
    return frame, lines
