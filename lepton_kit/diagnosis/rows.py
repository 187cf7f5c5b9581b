"""The rows of a recording: which promises their inputs break, what always agrees between them, and in which unit.

Inputs made of a series repeat each other, and the actuals, one row later: the return of yesterday is the actual of the
row before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd

from lepton_kit.data.quality import ALLOWED_RANGES, allowed_range
from lepton_kit.telemetry.recordings import Recording, feature_columns

BREACHES = {
    "missing": "a feature is missing or not finite",
    "stale": "a feature that always changes repeats its last value, though the actual is a new one",
    "duplicated": "the request id was answered before",
    "out_of_range": f"a feature lies over {ALLOWED_RANGES:g} ranges outside the training rows' range, or is a category "
    "that they do not have",
}


def is_whole(recording: Recording) -> np.ndarray:
    """Tell for each request whether it has a number in every numeric feature but those that training rows may lack."""
    features = recording.features(recording.requests)
    optional = [name for name in features if name in recording.reference and recording.reference[name].isna().any()]
    values, may_lack = features.drop(columns=optional).to_numpy(float), features[optional].to_numpy(float)
    whole: np.ndarray = np.isfinite(values).all(axis=1) & ~np.isinf(may_lack).any(axis=1)
    return whole


def contract_breaches(recording: Recording) -> pd.DataFrame:
    """Tell for every request which promises its inputs break: `missing`, `stale`, `duplicated`, `out_of_range`.

    Without reference rows the range is unknown and nothing is out of it; which features always change is then read
    from the requests themselves. A repeated value is stale only where the actuals tell that a new one was due: several
    requests on one day's features are not. An id counts as duplicated where it was answered before: to ask again after
    a refusal or a failure is right. A request that was refused for the load, or failed, may have left no inputs in the
    log, which says nothing of them.
    """
    features = recording.features(recording.requests).reset_index(drop=True)
    categories = recording.categories(recording.requests).reset_index(drop=True)
    learnt = recording.reference.select_dtypes("number")
    reference = learnt[[column for column in features if column in learnt]]
    sample = reference if len(reference) else features
    changing = [column for column in sample if sample[column].nunique() > len(sample) / 2]
    allowed = allowed_range(reference)
    known = features[list(reference.columns)]
    status = recording.requests["status"].reset_index(drop=True)
    answered, ids = status.lt(400) | status.isna(), recording.requests["request_id"].reset_index(drop=True)
    may_lack = [name for name in categories if name in recording.reference and recording.reference[name].isna().any()]
    is_lacking = ~is_whole(recording) | categories.drop(columns=may_lack).isna().any(axis=1)
    is_empty = features.isna().all(axis=1) & categories.isna().all(axis=1)
    is_unknown = is_empty & status.ge(400) & status.ne(422)
    return pd.DataFrame(
        {
            "missing": is_lacking & ~is_unknown,
            "stale": (features[changing].diff() == 0).any(axis=1) & is_new_period(recording).to_numpy(),
            "duplicated": ids[answered].duplicated().reindex(features.index, fill_value=False),
            "out_of_range": (known.lt(allowed["low"]) | known.gt(allowed["high"])).any(axis=1)
            | unseen_categories(categories, recording.reference).any(axis=1),
        },
        index=recording.requests.index,
    )


def unseen_categories(categories: pd.DataFrame, reference: pd.DataFrame) -> pd.DataFrame:
    """Tell of each text whether the training rows have none like it, where they hold each of theirs twice on average.

    >>> came, learnt = pd.DataFrame({"region": ["north", "nort"]}), pd.DataFrame({"region": ["north", "south"] * 4})
    >>> unseen_categories(came, learnt)["region"].tolist()
    [False, True]
    """
    texts = reference.select_dtypes(exclude="number")
    known = {name: texts[name].dropna().unique() for name in categories if name in texts}
    closed = [name for name, values in known.items() if 2 * len(values) <= texts[name].count()]
    return pd.DataFrame(
        {name: categories[name].notna() & ~categories[name].isin(known[name]) for name in closed},
        index=categories.index, dtype=bool,
    )  # fmt: skip


def is_new_period(recording: Recording) -> pd.Series:
    """Tell for each request whether its actual, or the time of it, is another than that of the last known before it.

    Where the actual is not known yet, or rows do not follow on each other, nothing tells that new inputs were due.
    """
    requests = recording.requests
    new = pd.Series(False, index=requests.index)
    if not recording.incident.declaration.time_series:
        return new
    for column in requests.columns.intersection(["actual", "actual_time"]):
        known, last = requests[column], requests[column].ffill().shift()
        new |= known.notna() & last.notna() & (known != last)
    return new


def actuals_by_period(requests: pd.DataFrame) -> pd.Series:
    """Return the known actuals in order of time, one for each period however many requests asked for it.

    Requests for two periods may alternate, so rows of one actual (and time of it, and inputs) are one period wherever
    they stand.

    >>> actuals_by_period(pd.DataFrame({"actual": [0.1, 0.2, 0.1, 0.2, np.nan, 0.3]})).tolist()
    [0.1, 0.2, 0.3]
    """
    known = requests.dropna(subset=["actual"])
    told = [*known.columns.intersection(["actual", "actual_time"]), *feature_columns(known)]
    one_each: pd.Series = known.drop_duplicates(told)["actual"]
    return one_each


RELATED = 0.9
"""Two columns are related where the one's value is the other's of the row before in this share of the rows."""

LOOK_BACK = 20
"""The row that another one follows is looked for among this many rows before it: several series may take turns."""

UNMISTAKABLE, LOOK_AROUND = 3, 100
"""This many values that agree at once are no chance: the followed row may then lie this many judged rows before or
after, as a busy service takes rows out of order, with those of a crowd between them."""

MOST_ALIKE, MOST_STAYING = 0.1, 0.5
"""A column varies where two of its values are alike with this probability at most, and this share of them at most stays
from one row to the next."""

FIRST, FEWEST = 0.25, 20
"""The relations are learnt from this part of the rows, the first ones, if they are as many at least."""


def following(table: pd.DataFrame) -> pd.Series:
    """Tell for each row whether it follows on another one in all values that agreed at first.

    `table` holds inputs and `actual`, in order of time. Rows that repeat a recent one in all are left out: they are
    asked again. Those whose actual is not known, where others are, may be followed, but are not judged: a flood of
    requests reports none. Empty where no values agree, or too few rows decide.

    >>> today = pd.Series(np.arange(100.0))
    >>> table = pd.DataFrame({"yesterday": today.shift().where(today < 80, -1.0), "actual": today})
    >>> kept = following(table)
    >>> int((~kept).sum()), int(kept.idxmin())
    (20, 80)
    """
    rows = asked_anew(table)
    judged = rows[rows["actual"].notna()] if rows["actual"].notna().any() else rows
    first = judged.head(int(FIRST * len(judged)))
    if len(first) < FEWEST:
        return pd.Series(dtype=bool)
    shares = agreement(first)
    known = list(shares.index[shares >= RELATED])
    position = np.cumsum(rows.index.isin(judged.index))
    return follows(rows, known, position)[judged.index] if known else pd.Series(dtype=bool)


def asked_anew(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that differ from the `LOOK_BACK` rows before: a repeated request repeats all values.

    >>> asked_anew(pd.DataFrame({"a": [1, 1, 2, 1, 3], "b": [0, 0, 0, 0, 0]}))["a"].tolist()
    [1, 2, 3]
    """
    code = pd.Series(pd.util.hash_pandas_object(table, index=False).to_numpy())
    rows_since_last = pd.Series(np.arange(len(table))).groupby(code).diff()
    return table[~(rows_since_last <= LOOK_BACK).to_numpy()]


def agreement(table: pd.DataFrame) -> pd.Series:
    """Return in which share of the rows each value is that of a column in the row before, by both names.

    Values agree to six digits. A column that does not vary agrees with whatever it is compared with, which says
    nothing: its shares are 0.

    >>> prices = pd.DataFrame({"today": [1.0, 2.0, 3.0, 4.0], "yesterday": [0.0, 1.0, 2.0, 3.0], "unit": 1.0})
    >>> shares = agreement(prices)
    >>> float(shares[("yesterday", "today")]), float(shares[("unit", "unit")])
    (1.0, 0.0)
    """
    names = pd.MultiIndex.from_product([table.columns, table.columns])
    values = _six_digits(table.to_numpy(float))
    finite = np.isfinite(values)
    told, known = (_in_lines(side, varying(table)) for side in (values[1:], values[:-1]))
    same = told.merge(known, on=["row", "value"])  # as long as the values that agree are many: linear in the columns
    counts = np.zeros((table.shape[1], table.shape[1]))
    np.add.at(counts, (same["column_x"].to_numpy(), same["column_y"].to_numpy()), 1)
    both = finite[1:].T.astype(float) @ finite[:-1].astype(float)
    return pd.Series((counts / np.maximum(both, 1)).ravel(), index=names)


def varying(table: pd.DataFrame) -> np.ndarray:
    """Tell of each column whether its values are seldom alike, nor stay as they are, so that agreement is no chance.

    Days that are asked about in turns come again and again; what tells is that few others have their value.

    >>> rows = {"price": [1.0, 2.0, 3.0] * 9, "is_open": [1.0, 1.0, 0.0] * 9, "unit": 1.0, "hour": np.arange(27) // 3}
    >>> varying(pd.DataFrame(rows).assign(day=np.arange(27) % 12)).tolist()
    [False, False, False, False, True]
    """
    return np.array([_is_varying(values) for _, values in table.items()], dtype=bool)


def _is_varying(values: pd.Series) -> bool:
    known = values.dropna()
    counts, rows = known.value_counts(), len(known)
    if rows < 2:
        return False
    alike = (counts * (counts - 1)).sum() / (rows * (rows - 1))
    return bool(alike <= MOST_ALIKE and (known.to_numpy()[1:] == known.to_numpy()[:-1]).mean() <= MOST_STAYING)


def _in_lines(values: np.ndarray, chosen: np.ndarray) -> pd.DataFrame:
    """Return the finite values of the chosen columns, a line each: `row`, `column`, `value`."""
    row, column = np.nonzero(np.isfinite(values) & chosen)
    return pd.DataFrame({"row": row, "column": column, "value": values[row, column]})


def follows(table: pd.DataFrame, known: list[tuple[str, str]], position: np.ndarray | None = None) -> pd.Series:
    """Tell for each row whether all pairs of columns agree in it and one of the `LOOK_BACK` rows before it.

    Where the pairs are `UNMISTAKABLE`, one that is at most `LOOK_AROUND` positions away will do; the positions are
    those of the rows in the table, unless given. A value that is missing agrees with all, if another one of the rows
    before agrees.

    >>> rows = pd.DataFrame({"today": [1.0, 2.0, 3.0, 9.0], "yesterday": [0.0, 1.0, 2.0, 7.0]})
    >>> follows(rows, [("yesterday", "today")]).tolist()
    [True, True, True, False]
    """
    own, earlier = (
        table[[pair[0] for pair in known]].to_numpy(float),
        table[[pair[1] for pair in known]].to_numpy(float),
    )
    found = _held_nearby(own, earlier, np.arange(len(table)) if position is None else position)
    found[:1] = True  # nothing is before the first row
    for lag in range(1, min(LOOK_BACK, len(table) - 1) + 1):
        now, last = own[lag:], earlier[:-lag]
        same = _is_same(now, last)
        found[lag:] |= (same | np.isnan(now) | np.isnan(last)).all(axis=1) & same.any(axis=1)
    return pd.Series(found, index=table.index)


def _held_nearby(own: np.ndarray, other: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Tell for each row of `own` whether all its values, to six digits, are those of a row of `other` nearby."""
    if own.shape[1] < UNMISTAKABLE:
        return np.zeros(len(own), dtype=bool)
    told, known = (
        pd.DataFrame({"code": _codes(values), "position": position})[np.isfinite(values).all(axis=1)]
        for values in (own, other)
    )
    again = told.groupby("code")["position"].diff() <= LOOK_AROUND  # a feed that is stuck follows on one row for ever
    nearest = pd.merge_asof(
        told[~again].reset_index(),
        known.assign(found=True),
        on="position",
        by="code",
        direction="nearest",
        tolerance=LOOK_AROUND,
    )
    held = np.zeros(len(own), dtype=bool)
    held[nearest.loc[nearest["found"].notna(), "index"]] = True
    return held


def _codes(values: np.ndarray) -> np.ndarray:
    codes: np.ndarray = pd.util.hash_pandas_object(pd.DataFrame(_six_digits(values)), index=False).to_numpy()
    return codes


def _six_digits(values: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        size = 10.0 ** (5 - np.floor(np.log10(np.abs(values))))
        rounded: np.ndarray = np.where(np.isfinite(size), np.round(values * size) / size, values)
    return rounded


def _is_same(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    same: np.ndarray = np.abs(one - other) <= 1e-6 * np.abs(one) + 1e-12
    return same


UNITS = (60.0, 3600.0, *(10.0**power for power in range(1, 10)))
"""Factors between two units that are taken for one another."""

BOTH_WAYS = (*UNITS, *(1 / unit for unit in UNITS))

NEAR = 2.0
"""A change of the size by a factor between this many times less and more than one of `UNITS` is taken for that."""

LEAST_SPREAD = 0.6
"""Where some rows alone are looked at, they are spread at least so much as sound rows are, between quartiles on a scale
of logarithms: rows in another unit are spread alike, the largest or smallest of sound rows lie close together."""

LEAST_SHARE, LEAST_ROWS = 0.05, 10
"""Part of the rows is judged alone where it is at least this share of all, and this many rows."""


def unit_factors(sound: pd.DataFrame, since: pd.DataFrame) -> tuple[dict[str, float], pd.DataFrame]:
    """Return the factor of each feature that came in another unit than in sound rows, and the rows in which it did.

    All rows are compared, and where none of their features changed its unit those alone that lie beyond what sound rows
    showed: a feed may count some rows otherwise.

    >>> values = pd.DataFrame({"return_0": np.linspace(-0.02, 0.03, 60)})
    >>> unit_factors(values, 100 * values)[0], unit_factors(values, 3 * values)[0]
    ({'return_0': 100.0}, {})
    """
    names = [str(name) for name in since if name in sound]
    if min(len(sound), len(since)) < 2 * LEAST_ROWS or not names:
        return {}, since
    was, now = sound[names].abs(), since[names].abs()
    for odd, spread in (
        (pd.DataFrame(True, now.index, names), 0.0),
        (now > was.quantile(0.99), LEAST_SPREAD),
        (now < was.quantile(0.01), LEAST_SPREAD),
    ):
        moved = [name for name in names if odd[name].mean() >= LEAST_SHARE]
        rows = since[odd[moved].mean(axis=1) >= 0.5] if moved else since.head(0)
        factors = {
            name: unit_factor(sound[name], rows[name], least_spread=spread) for name in moved if len(rows) >= LEAST_ROWS
        }
        if found := {name: factor for name, factor in factors.items() if factor is not None}:
            usual = Counter(found.values()).most_common(1)[0][0]  # what may be of it as well is: 60 and 100 are near
            return {
                name: unit_factor(sound[name], rows[name], (usual,), spread) or own for name, own in found.items()
            }, rows
    return {}, since


def unit_factor(
    before: pd.Series, during: pd.Series, units: Sequence[float] = BOTH_WAYS, least_spread: float = 0.0
) -> float | None:
    """Return the factor between two units by which the size of a feature changed; None where it changed by none.

    All three quartiles of the absolute values must have changed by about that factor: a market moves them by far less
    than any of `UNITS`, and a feed that is stuck has but one value. Quartiles need no row to leave its range.

    >>> returns = pd.Series([0.01, -0.02, 0.015, -0.01])
    >>> unit_factor(returns, 100 * returns), unit_factor(returns, 3 * returns), unit_factor(returns, returns / 1000)
    (100.0, None, 0.001)
    """
    was, since = (side.abs().replace([0, np.inf], np.nan).quantile([0.25, 0.5, 0.75]) for side in (before, during))
    change = np.log((since / was).to_numpy())
    if not np.isfinite(change).all() or change[2] - change[0] < (least_spread - 1) * np.log(was[0.75] / was[0.25]):
        return None
    nearest = min(units, key=lambda unit: abs(change[1] - np.log(unit)))
    return None if (np.abs(change - np.log(nearest)) > np.log(NEAR)).any() else nearest
