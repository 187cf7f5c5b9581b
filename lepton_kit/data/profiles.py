"""The profile of a table, a few kilobytes that stand for it: what drift is measured against.

A number is counted in ten bins that the reference fills equally and in two beyond its range, anything else by its most
frequent values. Another table, however large, is counted in the same bins, chunk by chunk, and the two counts are
compared by the population stability index (PSI). A column has moved when its index is larger than what matters **and**
than what chance shows.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lepton_kit.errors import InputError
from lepton_kit.files import read_object, write_atomically

FORMAT = "lepton profile 1"
BINS, MOST_VALUES = 10, 50
MOST_SAMPLED = 100_000
"""Rows, evenly taken, whose quantiles are the edges of the bins; the counts are those of all rows."""

DISTINCT = 0.5
"""A column of anything but numbers is an id or free text where more than this share of its values is distinct."""

LEAST_NAMED = 20
"""Of many values a rarer one is counted with all others: those that chance made frequent fall back the next time."""

LEAST_EXPECTED = 5
"""Bins in which fewer rows of the smaller table are to be expected are joined (Cochran, Biometrics 10, 1954)."""

SMALLEST_SHARE = 1e-4
"""An empty bin counts as this share of the rows, so that the population stability index stays finite."""

PSI, ALPHA = 0.1, 0.01
"""From this index on a population is said to have changed; and how often chance alone may say so of a whole table."""

TOO_SMALL = 50_000
"""Rows below which a second thread costs more than it saves."""

DRIFT_COLUMNS = [
    "kind", "psi", "limit", "moved", "mean_shift", "spread_ratio", "missing_before", "missing", "most_moved",
]  # fmt: skip


@dataclass(frozen=True)
class Column:
    """What is counted of one column.

    Of a number, `bins` are ascending edges, `counts` the values up to each and above the last, and the moments those of
    its finite values. Of a category, `bins` are values as text, and the last count is that of all others. `missing`
    counts empty and infinite cells.
    """

    kind: str
    bins: tuple[float, ...] | tuple[str, ...]
    counts: tuple[int, ...]
    missing: int
    mean: float = float("nan")
    sd: float = float("nan")

    @property
    def known(self) -> int:
        """Return the number of values that are not missing."""
        return sum(self.counts)

    def __add__(self, other: Column) -> Column:
        """Return the column of both tables, one below the other; both have the same bins."""
        counts = tuple(a + b for a, b in zip(self.counts, other.counts, strict=True))
        missing, (n, m) = self.missing + other.missing, (self.known, other.known)
        if self.kind == "category" or not n or not m:
            moments = other if not n else self
            return Column(self.kind, self.bins, counts, missing, moments.mean, moments.sd)
        apart = other.mean - self.mean  # Chan, Golub and LeVeque, "Updating formulae", 1979
        square = n * self.sd**2 + m * other.sd**2 + apart**2 * n * m / (n + m)
        mean = self.mean + apart * m / (n + m)
        return Column(self.kind, self.bins, counts, missing, mean, float(np.sqrt(square / (n + m))))


@dataclass(frozen=True)
class Profile:
    """A table's rows, columns, and which of its columns are in none of them, and why."""

    rows: int
    columns: Mapping[str, Column]
    left_out: Mapping[str, str] = field(default_factory=dict)

    def count(self, table: pd.DataFrame) -> Profile:
        """Return the profile of another table (or a chunk of one) in the bins of this one.

        A column that this profile does not hold, or that is of another kind, is left out and named.
        """
        known = {str(name): name for name in table}
        both = [name for name in self.columns if name in known]
        with ThreadPoolExecutor(2) as threads:  # numpy works without the lock
            work = threads.map if len(table) >= TOO_SMALL else map
            found = list(work(lambda one: _count(table[known[one]], self.columns[one]), both))
        counted = dict(zip(both, found, strict=True))
        left_out = {name: "not in the current table" for name in self.columns if name not in known}
        left_out |= {name: self.left_out.get(name, "not in the reference") for name in known if name not in counted}
        left_out |= {name: one for name, one in counted.items() if isinstance(one, str)}
        columns = {name: one for name, one in counted.items() if isinstance(one, Column)}
        return Profile(len(table), columns, left_out)

    def __add__(self, other: Profile) -> Profile:
        """Return the profile of both tables, counted in the same bins; a column that one lacks is in neither."""
        shared = {name: one + other.columns[name] for name, one in self.columns.items() if name in other.columns}
        return Profile(self.rows + other.rows, shared, {**self.left_out, **other.left_out})

    def without(self, names: Collection[str], told: Callable[[str], str]) -> Profile:
        """Return the profile without some columns, and with what may be told of each value of a category."""
        kept = {
            name: one if one.kind == "number" else replace(one, bins=tuple(told(str(value)) for value in one.bins))
            for name, one in self.columns.items()
            if name not in names
        }
        return Profile(self.rows, kept, {name: why for name, why in self.left_out.items() if name not in names})

    def save(self, path: Path) -> None:
        """Write the profile as JSON, whole or not at all."""
        columns = {name: asdict(one) for name, one in self.columns.items()}
        content = {"format": FORMAT, "rows": self.rows, "columns": columns, "left_out": dict(self.left_out)}
        write_atomically(Path(path), json.dumps(content, indent=1) + "\n")


def profile_of(table: pd.DataFrame) -> Profile:
    """Return the profile of a table: the reference that others are compared with.

    Examples
    --------
    >>> made = profile_of(pd.DataFrame({"age": range(100), "town": ["Bern", "Rome"] * 50}))
    >>> made.columns["age"].counts
    (0, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 0)
    >>> made.columns["town"].bins, made.columns["town"].counts
    (('Bern', 'Rome'), (50, 50, 0))
    """
    return bins_of(table.iloc[:: max(1, -(-len(table) // MOST_SAMPLED))]).count(table)


def bins_of(sample: pd.DataFrame) -> Profile:
    """Return a profile without any rows, with the bins that a sample of a table asks for."""
    asked = {str(name): _bins(sample[name]) for name in sample}
    columns = {name: one for name, one in asked.items() if isinstance(one, Column)}
    return Profile(0, columns, {name: one for name, one in asked.items() if isinstance(one, str)})


def read_profile(path: Path) -> Profile:
    """Read a profile that `Profile.save` wrote.

    Raises
    ------
    InputError
        When the file is damaged, is no profile, or of a format that this version does not know.
    """
    content = read_object(path, "make the profile again")
    if content.get("format") != FORMAT:
        raise InputError(f"{path}: format = {content.get('format')!r}: must be {FORMAT!r}, as a profile of a table has")
    try:
        columns = {str(name): _column(one) for name, one in content["columns"].items()}
        left_out = {str(name): str(why) for name, why in content["left_out"].items()}
        return Profile(int(content["rows"]), columns, left_out)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: is no whole profile ({error}); make it again") from error


def drift_table(
    reference: Profile | pd.DataFrame,
    current: Profile | pd.DataFrame | Iterable[pd.DataFrame],
    psi: float = PSI,
    alpha: float = ALPHA,
) -> pd.DataFrame:
    """Compare every column of a table with a reference, and say which moved.

    A column has moved when its PSI is at least `psi`, and larger than chance shows in samples of this size. Without any
    drift, PSI / (1/n + 1/m) follows χ² with one degree of freedom less than there are bins (Yurdakul and Naranjo,
    Journal of Risk Model Validation 14(4), 2020); `alpha`, divided by the number of columns, gives the limit. So a
    million rows do not make each difference count, and two hundred rows do not make noise count.

    Parameters
    ----------
    current
        A table, its chunks one after another, or what the reference's `count` gave of it.

    Returns
    -------
    DataFrame
        Index `column`, the largest PSI first: `kind` (`number`, `category`), `psi`, its `limit`, `moved`; of numbers
        `mean_shift` (standard deviations of the reference) and `spread_ratio` (of the standard deviations); the
        share of cells that were `missing_before` and are `missing`; and of a category that value whose share changed
        `most_moved`. `attrs["left_out"]` says of each other column why it was not compared, `attrs["rows"]` how
        many rows either side has.

    Raises
    ------
    InputError
        When `psi` or `alpha` is out of range, or no column can be compared.

    Examples
    --------
    >>> calm = pd.DataFrame({"load": np.linspace(0, 1, 200), "region": ["north", "south"] * 100})
    >>> drift_table(profile_of(calm), calm.assign(load=2 * calm["load"]))[["psi", "moved"]].round(2).values.tolist()
    [[2.98, True], [0.0, False]]
    """
    if not (psi > 0 and 0 < alpha < 1):
        raise InputError(f"psi = {psi:g}, alpha = {alpha:g}: psi must be above 0, alpha between 0 and 1")
    profile = profile_of(reference) if isinstance(reference, pd.DataFrame) else reference
    now = current if isinstance(current, Profile) else _counted(profile, current)
    if profile.columns and not now.columns and now.rows:
        raise InputError(f"the current table has none of the reference's columns {', '.join(profile.columns)[:300]}")
    is_alike = {name: profile.columns[name].known and one.known + one.missing for name, one in now.columns.items()}
    names = [name for name, known in is_alike.items() if known]
    share = alpha / max(len(names), 1)
    rows = {name: _compare(profile.columns[name], now.columns[name], psi, share) for name in names}
    table = pd.DataFrame.from_dict(rows, orient="index", columns=DRIFT_COLUMNS).rename_axis("column")
    table = table.astype({"moved": bool}).sort_values("psi", ascending=False, kind="stable")
    empty = {name: "no value to compare" for name, known in is_alike.items() if not known}
    table.attrs |= {"left_out": {**now.left_out, **empty}, "rows": {"reference": profile.rows, "current": now.rows}}
    return table


def _counted(profile: Profile, current: pd.DataFrame | Iterable[pd.DataFrame]) -> Profile:
    parts = map(profile.count, [current] if isinstance(current, pd.DataFrame) else current)
    made = next(parts, None)
    if made is None:
        raise InputError("the current table has no rows")
    return sum(parts, start=made)


def index_of_shares(reference: np.ndarray, current: np.ndarray) -> float:
    """Return the population stability index of the shares of bins: Σ (c − r) ln(c / r)."""
    r, c = (np.maximum(share, SMALLEST_SHARE) for share in (reference, current))
    return float(np.sum((c - r) * np.log(c / r)))


def ratio(value: float, scale: float, nothing: float) -> float:
    """Divide; where both are 0 nothing moved, where only the scale is, the movement has no bound."""
    if scale > 0:
        return value / scale
    return nothing if value == 0 else float(np.copysign(np.inf, value))


def _kind(values: pd.Series) -> str | None:
    kind = values.dtype
    if isinstance(kind, pd.CategoricalDtype) or pd.api.types.is_bool_dtype(kind):
        return "category"
    if pd.api.types.is_numeric_dtype(kind) and not pd.api.types.is_complex_dtype(kind):
        return "number"
    return "category" if pd.api.types.is_string_dtype(kind) or pd.api.types.is_object_dtype(kind) else None


def _bins(sample: pd.Series) -> Column | str:
    """Return a column without counts, or why there is none."""
    kind = _kind(sample)
    if kind is None:
        return f"{sample.dtype}: neither numbers nor categories" + (
            "; times move on by themselves" if pd.api.types.is_datetime64_any_dtype(sample) else ""
        )
    if kind == "number":
        known = _finite(sample)
        if not len(known):
            return "no finite value"
        edges = np.quantile(known, np.linspace(0, 1, BINS + 1))
        lowest, highest = np.nextafter(edges[0], -np.inf), edges[-1]  # what lies beyond has bins of its own,
        tied = np.nextafter(edges[1:][edges[1:] == edges[:-1]], -np.inf)  # and so has a value that comes often
        edges = np.unique([lowest, *edges[1:-1], *tied, highest])
        return Column(kind, tuple(edges.tolist()), (0,) * (len(edges) + 1), 0)
    counts = _value_counts(sample)
    if counts.empty:
        return "no value"
    if len(counts) > max(MOST_VALUES, DISTINCT * counts.sum()):
        return f"{len(counts)} distinct values among {counts.sum()}: an id or free text"
    is_named = counts >= LEAST_NAMED if len(counts) > BINS else counts > 0
    values = tuple(counts.index[is_named][:MOST_VALUES])
    if not values:
        return f"{len(counts)} distinct values among {counts.sum()}: none comes {LEAST_NAMED} times"
    return Column(kind, values, (0,) * (len(values) + 1), 0)


def _count(values: pd.Series, like: Column) -> Column | str:
    """Return a column counted in the bins of another one, or why it cannot be."""
    if like.kind == "number" and pd.api.types.is_bool_dtype(values):
        values = values.astype(float)
    if _kind(values) != like.kind:
        if values.isna().all():
            return Column(like.kind, like.bins, (0,) * len(like.counts), len(values))
        return f"a {like.kind} in the reference and {values.dtype} now"
    if like.kind == "number":
        known = _finite(values)
        up_to = [0, *(int(np.count_nonzero(known <= edge)) for edge in like.bins), len(known)]
        with np.errstate(over="ignore"):
            moments = (float(known.mean()), float(known.std())) if len(known) else (np.nan, np.nan)
        return Column(like.kind, like.bins, tuple(np.diff(up_to).tolist()), len(values) - len(known), *moments)
    counts = _value_counts(values)
    named, total = counts.reindex(list(like.bins), fill_value=0).tolist(), int(counts.sum())
    return Column(like.kind, like.bins, (*named, total - sum(named)), len(values) - total)


def _finite(values: pd.Series) -> np.ndarray:
    numbers = values.to_numpy(dtype=float, na_value=np.nan)
    is_finite = np.isfinite(numbers)
    return numbers if is_finite.all() else numbers[is_finite]


def _value_counts(values: pd.Series) -> pd.Series:
    """Return how often each value comes, as text, the most frequent first."""
    counts = values.value_counts()
    counts = pd.Series(counts.to_numpy(dtype=int), counts.index.astype(str).astype(object))
    counts = counts[counts > 0]
    return counts if counts.index.is_unique else counts.groupby(level=0).sum().sort_values(ascending=False)


def _compare(before: Column, now: Column, psi: float, alpha: float) -> tuple[object, ...]:
    """Return the row of a column in the drift table."""
    from scipy.special import chdtri  # what only keeps a profile needs no scipy

    r, c = shared_bins(before, now)
    n, m = r.sum(), c.sum()
    index = index_of_shares(np.maximum(r, 0.5) / n, np.maximum(c, 0.5) / m)  # an empty bin: half a row or more
    by_chance = (1 / n + 1 / m) * chdtri(len(r) - 1, alpha) if len(r) > 1 else np.inf
    limit = max(psi, float(by_chance))
    is_number = before.kind == "number"
    shift = ratio(now.mean - before.mean, before.sd, nothing=0.0) if is_number else np.nan
    spread = ratio(now.sd, before.sd, nothing=1.0) if is_number else np.nan
    missing = [one.missing / max(one.known + one.missing, 1) for one in (before, now)]
    return before.kind, index, limit, index >= limit, shift, spread, *missing, _most_moved(before, now)


def shared_bins(before: Column, now: Column) -> tuple[np.ndarray, np.ndarray]:
    """Return the counts of both, of bins joined with their neighbours until each may be expected to be filled.

    What to expect the reference says, but for a bin that the current table fills far beyond it: bins that followed the
    current table's noise would show it as drift. What is missing is a bin of its own, unless there is hardly any.
    """
    counts = np.array([[*one.counts, one.missing] for one in (before, now)], dtype=float)
    sizes = counts.sum(axis=1)
    by_reference, by_current = counts / sizes[:, None] * sizes.min()
    expected = np.where(by_current >= 4 * by_reference + 2 * LEAST_EXPECTED, by_current, by_reference)
    *known, missing = expected
    starts, filled = [0], 0.0
    for place, one in enumerate(known, start=1):
        filled += one
        if filled >= LEAST_EXPECTED and sum(known[place:]) >= LEAST_EXPECTED:
            starts.append(place)
            filled = 0.0
    joined = np.add.reduceat(counts[:, :-1], starts, axis=1)
    if missing >= LEAST_EXPECTED or not now.known:
        joined = np.concatenate([joined, counts[:, -1:]], axis=1)
    return joined[0], joined[1]


def _most_moved(before: Column, now: Column) -> str | None:
    if before.kind == "number" or not now.known:
        return None
    moves = np.abs(np.array(now.counts) / now.known - np.array(before.counts) / before.known)
    return str([*before.bins, OTHERS][int(moves.argmax())])


OTHERS = "(all others)"


def _column(content: Mapping[str, Any]) -> Column:
    """Read a column; ValueError where its numbers contradict each other."""
    kind, bins, counts = content["kind"], tuple(content["bins"]), tuple(map(int, content["counts"]))
    kinds = {"number": float, "category": str}
    if kind not in kinds or len(counts) != len(bins) + 1 or min(counts) < 0:
        raise ValueError(f"a {kind!r} of {len(bins)} bins has the counts {counts[:3]}")
    if not all(isinstance(one, kinds[kind]) for one in bins):
        raise ValueError(f"a {kind} has the bins {bins[:3]}")
    return Column(kind, bins, counts, int(content["missing"]), float(content["mean"]), float(content["sd"]))
