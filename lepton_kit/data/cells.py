"""Which cells of a table are wrong, learnt from a few rows that a person looked through.

Each cell is described by how unlike it is to its column (its value, characters, format, size), and to what the other
cells of its row lead one to expect. No description names a column, so one forest learns from all columns at once: an
error that was seen in one is found in the others. Which rows to look through is asked for one at a time: first rows
whose cells are of kinds not seen yet (Mahdavi et al., Raha, SIGMOD 2019), then those the forest is least certain of.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from sklearn.cluster import MiniBatchKMeans
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import StandardScaler

from lepton_kit.errors import InputError

_TOKENS = (".", "?", "n/a", "na", "nan", "none", "null", "nil", "unknown", "empty", "missing")
_NUMBERS = ("-", "--", "-1", "-9", "-99", "-999", "9999", "99999", "1900-01-01", "01/01/1900", "1/1/1900", "1970-01-01")
DISGUISED = frozenset((*_TOKENS, *_NUMBERS))
"""What stands where a value is missing, in small letters."""

LIKELY = 0.5
"""A cell counts as wrong from this probability."""

KINDS = 10
"""As many kinds of cells of each column are looked for; half of the usual 20 rows go to seeing each once."""

DETERMINES, MOST_DISTINCT = 0.5, 0.95
"""A column determines another where it leaves half of the uncertainty; one of distinct values cannot."""

FINDINGS = ("row", "column", "value", "probability", "rule", "why", "proposal")


class Cells:
    """The cells of a table, described.

    Parameters
    ----------
    table
        Any table of at least two rows; values are compared as text, a missing one as an empty text. It takes time
        that grows with the rows and with the square of the columns: 1,000 rows of 20 columns take a second.

    Raises
    ------
    InputError
        When the table has fewer than two rows, or two columns of one name.
    """

    def __init__(self, table: pd.DataFrame) -> None:
        if len(table) < 2 or table.columns.has_duplicates or table.index.has_duplicates:
            shape = f"{len(table)} rows, columns {list(table.columns)[:8]}"
            raise InputError(f"table of {shape}: must have two rows or more, and each row and column a name of its own")
        self.table = table
        self._text = table.apply(lambda cells: cells.astype("string").fillna("").str.strip()).astype(object)
        codes = {name: pd.factorize(self._text[name])[0] for name in table.columns}
        described = [_Column(self._text[name], name, codes) for name in table.columns]
        self._columns = dict(zip(table.columns, described, strict=True))
        self._features = np.concatenate([one.features for one in described])  # column by column
        self._shape = len(table.columns), len(table)

    def next_row(self, labels: pd.DataFrame, seed: int = 0) -> Any:
        """Return the row (its label in the table's index) to look through next.

        Parameters
        ----------
        labels
            As `find` takes them; the first time without any row.
        """
        rows, wrong = self._checked(labels)
        left = np.setdiff1d(np.arange(self._shape[1]), rows)
        if not len(left):
            raise InputError(f"labels of all {self._shape[1]} rows are given: none is left to look through")
        if len(rows) < KINDS or not wrong.any() or wrong.all():
            seen = np.zeros((len(self._kinds), KINDS), dtype=bool)
            for kinds, each in zip(self._kinds, seen, strict=True):
                each[kinds[rows]] = True
            worth = sum((~each[kinds]).astype(float) for kinds, each in zip(self._kinds, seen, strict=True))
        else:
            unsure = 1 - np.abs(2 * self._probabilities(rows, wrong, 60, seed) - 1)
            worth = (unsure * np.where(wrong.any(axis=0), 1.0, 2.0)[:, None]).sum(axis=0)  # no error seen: ask there
        best = left[worth[left] == worth[left].max()]
        return self.table.index[np.random.default_rng([seed, len(rows)]).choice(best)]

    def find(self, labels: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
        """Return the cells that are likely wrong, likeliest first.

        Parameters
        ----------
        labels
            True where a cell is wrong: a row for each row of the table that was looked through, under its label in
            the table's index, and a column for each of the table's. Twenty rows are usual.

        Returns
        -------
        DataFrame
            `row` (the label), `column`, `value`, `probability`, `rule` and `why` (what speaks most against the cell),
            and `proposal`: the value that its row or column suggests, None where nothing does. Cells that were
            labelled as wrong are among them with probability 1, those labelled as right are not.

        Raises
        ------
        InputError
            When a label is of no row or column of the table, is no boolean, or a column has none; and when no labelled
            cell is wrong, or all are: then nothing can be learnt.
        """
        rows, wrong = self._checked(labels)
        if not wrong.any() or wrong.all():
            said = "none" if not wrong.any() else "all"
            raise InputError(f"labels of {len(rows)} rows: {said} of their cells are wrong: label more rows")
        likely = self._probabilities(rows, wrong, 300, seed)
        likely[:, rows] = wrong.T
        found = [
            (self.table.index[row], name, self.table[name].iloc[row], likely[place, row], *one.reason(row))
            for place, (name, one) in enumerate(self._columns.items())
            for row in np.flatnonzero(likely[place] >= LIKELY).tolist()
        ]
        made = pd.DataFrame(found, columns=list(FINDINGS)).astype({"value": object, "proposal": object})
        made["proposal"] = made["proposal"].where(made["proposal"].notna(), None)
        return made.sort_values("probability", ascending=False, kind="stable", ignore_index=True)

    @cached_property
    def _kinds(self) -> list[np.ndarray]:
        """Return the kind (0 to KINDS - 1) of each cell, column by column."""
        made = []
        for features in self._features.reshape(*self._shape, -1):
            distinct, which = np.unique(StandardScaler().fit_transform(features).round(4), axis=0, return_inverse=True)
            few = min(KINDS, len(distinct))
            made.append(MiniBatchKMeans(few, random_state=0, n_init=3).fit_predict(distinct)[which.ravel()])
        return made

    def _probabilities(self, rows: np.ndarray, wrong: np.ndarray, trees: int, seed: int) -> np.ndarray:
        """Return how likely each cell is wrong, (columns, rows), by what a forest learns from the labelled rows."""
        features = self._features.reshape(*self._shape, -1)
        forest = ExtraTreesClassifier(trees, class_weight="balanced_subsample", random_state=seed)
        forest.fit(features[:, rows].reshape(-1, features.shape[2]), wrong.T.ravel())
        likely: np.ndarray = forest.predict_proba(self._features)[:, 1].reshape(self._shape)
        return likely

    def _checked(self, labels: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """Return the places of the labelled rows, and their labels in the order of the table's columns."""
        for axis, given, known in (("row", labels.index, self.table.index), ("column", labels.columns, self._columns)):
            if unknown := [one for one in given if one not in known]:
                raise InputError(f"labels: {axis} {unknown[0]!r} is not in the table")
        if missing := [name for name in self._columns if name not in labels]:
            raise InputError(f"labels: column {missing[0]!r} is missing: each cell of a labelled row must be judged")
        chosen = labels[list(self._columns)]
        for name in chosen:
            for row, value in chosen[name].items():
                if not isinstance(value, bool | np.bool_):
                    raise InputError(f"labels: row {row!r}, column {name!r} = {value!r}: must be True or False")
        if labels.index.has_duplicates:
            raise InputError(f"labels: row {labels.index[labels.index.duplicated()][0]!r} is given twice")
        return self.table.index.get_indexer(labels.index), chosen.to_numpy(dtype=bool)


def repair(table: pd.DataFrame, findings: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return a copy of a table with the proposals of findings, and the log that `undo` takes them back by.

    The log has a row for each changed cell: `row`, `column`, `before`, `after` and `rule`. Findings without a proposal
    change nothing.
    """
    made = table.astype(object)
    names = {"value": "before", "proposal": "after"}
    log = findings[findings["proposal"].notna()].rename(columns=names)[["row", "column", "before", "after", "rule"]]
    for one in log.to_dict("records"):
        made.loc[one["row"], one["column"]] = one["after"]
    return made, log.reset_index(drop=True)


def undo(table: pd.DataFrame, log: pd.DataFrame) -> pd.DataFrame:
    """Return a copy of a repaired table in which the cells of a log, or of some of its rows, are as they were.

    Raises InputError where a cell no longer holds what the repair wrote: somebody changed it since.
    """
    made = table.copy()
    for one in log.to_dict("records"):
        row, column = one["row"], one["column"]
        if (now := made.loc[row, column]) != one["after"]:
            raise InputError(f"row {row!r}, column {column!r} = {now!r}: the repair wrote {one['after']!r}")
        made.loc[row, column] = one["before"]
    return made


class _Column:
    """The description of a column's cells: what is learnt from (`features`), and what can be said of each."""

    def __init__(self, cells: pd.Series, name: str, codes: dict[str, np.ndarray]) -> None:
        text = cells.to_numpy()
        self._values, self._codes, self._counts = np.unique(text, return_inverse=True, return_counts=True)
        of_values = np.column_stack([np.asarray(one, dtype=float) for one in self._describe_values()])
        of_rows, self._broken = self._describe_rows(name, codes)
        self.features = np.column_stack([of_values[self._codes], *of_rows])

    def reason(self, row: int) -> tuple[str, str, str | None]:
        """Return what speaks most against a cell: the rule, in words, and what should stand there."""
        code = self._codes[row]
        found = [(strength[code], rule, why(code), None) for rule, strength, why in self._hints]
        if self._near[code]:
            found.append((0.7 + 0.2 * self._near[code], "nearly another",
                          f"nearly {self._like[code]!r}, which is more frequent", self._like[code]))  # fmt: skip
        for determinant, share, expected, others in self._broken:
            should = self._values[expected[row]]
            why = f"of {others[row]} other rows with this {determinant} most have {should!r}"
            found.append((share[row], "dependency", why, should))
        found = sorted((one for one in found if one[0] > 0), key=lambda one: -one[0])
        proposal = next((one[3] for one in found if one[3]), None)
        if not found:
            return "like labelled errors", "alike in many respects to cells labelled as wrong; no single rule", proposal
        return *found[0][1:3], proposal

    def _describe_values(self) -> list[np.ndarray]:
        """Return the features of each distinct value, and keep what can be said against it and how strongly."""
        values, counts = self._values, self._counts
        share = counts / counts.sum()
        size = np.maximum([len(value) for value in values], 1)
        is_blank = np.array([not value for value in values])
        is_disguised = np.array([value.lower() in DISGUISED for value in values])
        formats = [_shares([_format(value, is_short) for value in values], counts) for is_short in (True, False)]
        (rare, _), (pairs, pair), (triples, _) = (self._rarest(length) for length in (1, 2, 3))
        kinds = [[sum(map(kind, value)) for value in values] / size for kind in (str.isascii, str.isdigit, str.isalpha)]
        is_number, far = self._far_out()
        self._near, self._like = self._nearest()
        self._hints: list[tuple[str, np.ndarray, Callable[[int], str]]] = [
            ("missing", 1.0 * is_blank, lambda at: "the cell is empty"),
            ("missing in disguise", 0.9 * is_disguised, lambda at: f"{values[at]!r} stands for a missing value"),
            ("number", (abs(far) > 3) * abs(far) / 25, lambda at: f"{far[at]:+.1f} quartile ranges from the median"),
            ("characters", 0.6 * (pairs < 0.01), lambda at: f"{pair[at]!r} stands in {pairs[at]:.2%} of the others"),
            ("format", 0.5 * (formats[0] < 0.05), lambda at: f"{formats[0][at]:.1%} of the column have such a format"),
            ("rare value", 0.2 * (share < 0.01), lambda at: f"{share[at]:.1%} of the column have it"),
        ]
        logs = map(np.log, (share, *formats, rare, pairs, triples))
        return [*logs, counts == 1, is_blank, is_disguised, size, *kinds, is_number, far, self._near]

    def _rarest(self, length: int) -> tuple[np.ndarray, list[str]]:
        """Return the share of other cells that hold a value's rarest run of characters, and that run."""
        parts = [
            {f" {value} "[i : i + length] for i in range(len(value) + 3 - length)} or {""} for value in self._values
        ]
        held: Counter[str] = Counter()
        for each, count in zip(parts, self._counts, strict=True):
            for part in each:
                held[part] += int(count)
        total = self._counts.sum()
        rare = [min(each, key=lambda part: (held[part], part)) for each in parts]
        shares = [(held[part] - count + 0.5) / total for part, count in zip(rare, self._counts, strict=True)]
        return np.array(shares), rare

    def _far_out(self) -> tuple[np.ndarray, np.ndarray]:
        """Say which values are numbers, and how many quartile ranges each lies from the median (at most 20)."""
        numbers = pd.to_numeric(pd.Series(self._values), errors="coerce").to_numpy(dtype=float)
        known = np.isfinite(numbers)
        far = np.zeros(len(numbers))
        if known.sum() > 3:
            low, middle, high = np.quantile(np.repeat(numbers[known], self._counts[known]), [0.25, 0.5, 0.75])
            far[known] = np.clip((numbers[known] - middle) / ((high - low) or 1.0), -20, 20)
        return known, far

    def _nearest(self) -> tuple[np.ndarray, list[str]]:
        """Return how alike a value is to another that is three times as frequent (0 to 1), and that one.

        Both have the same digits.
        """
        often = np.flatnonzero(self._counts >= 3)
        near, like = np.zeros(len(self._values)), [""] * len(self._values)
        if not len(often) or not any(self._values):
            return near, like
        digits = np.array([re.sub(r"\D", "", value) for value in self._values])  # another number or date is no slip
        parts = TfidfVectorizer(analyzer="char", ngram_range=(1, 3)).fit_transform(self._values)
        for first in range(0, len(near), 512):  # bounds the memory
            alike = (parts[first : first + 512] @ parts[often].T).toarray()
            alike[self._counts[often] < 3 * self._counts[first : first + 512, None]] = 0
            alike[digits[often] != digits[first : first + 512, None]] = 0
            best = alike.argmax(axis=1)
            near[first : first + 512] = alike[np.arange(len(best)), best]
            like[first : first + 512] = [str(self._values[one]) for one in often[best]]
        near[near < 0.5] = 0
        return near, like

    def _describe_rows(
        self, name: str, codes: dict[str, np.ndarray]
    ) -> tuple[list[np.ndarray], list[tuple[str, np.ndarray, np.ndarray, np.ndarray]]]:
        """Return how far the row's other cells speak against each cell: the features, and each column that does."""
        count = len(self._codes)
        against, agrees, said = [np.zeros(count)], [], []
        for determinant, others, same, expected, most in _dependencies(name, codes, self._codes):
            is_other = expected != self._codes
            share = np.where(others > 0, most / np.maximum(others, 1), 0.0)
            against.append(np.where(is_other, share, 0.0))
            agrees.append(np.where(others > 0, same / np.maximum(others, 1), 0.5))
            said.append((determinant, np.where(is_other & (share > 0.5), share, 0.0), expected, others))
        agreed = agrees or [np.full(count, 0.5)]
        return [np.max(against, 0), np.mean(against, 0), np.min(agreed, 0), np.mean(agreed, 0)], said


def _dependencies(
    name: str, codes: dict[str, np.ndarray], own: np.ndarray
) -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """Yield the columns that determine one, and for each row what others of its group have there.

    These are: how many others there are, how many have the row's own value, the value that most of the group have, and
    how many of the others have that.
    """
    usual = np.bincount(own).max() / len(own)
    for determinant, groups in codes.items():
        distinct = groups.max() + 1
        if determinant == name or not 2 <= distinct <= MOST_DISTINCT * len(groups):
            continue
        pairs, pair, same = np.unique(groups * (own.max() + 1) + own, return_inverse=True, return_counts=True)
        order = np.argsort(same, kind="stable")
        most, expected = np.zeros(distinct, dtype=int), np.zeros(distinct, dtype=int)
        group, value = pairs[order] // (own.max() + 1), pairs[order] % (own.max() + 1)
        most[group], expected[group] = same[order], value  # the last, which is the most frequent, stays
        others = np.bincount(groups, minlength=distinct) - 1
        held = (most.sum() - distinct) / max(1, others.sum())
        if (held - usual) / (1 - usual + 1e-9) > DETERMINES:
            is_own = expected[groups] == own
            yield determinant, others[groups], same[pair] - 1, expected[groups], most[groups] - is_own


def _format(value: str, is_short: bool) -> str:
    """Return a value with all letters and digits alike; of a run of one kind, where it is to be short, one sign.

    >>> _format("Ab12", is_short=True), _format("Ab12", is_short=False)
    ('Aa0', 'Aa00')
    """
    plain = re.sub(r"[^\x00-\x7f]", "¿", re.sub("[0-9]", "0", re.sub("[a-z]", "a", re.sub("[A-Z]", "A", value))))
    return re.sub(r"(.)\1+", r"\1", plain) if is_short else plain


def _shares(kinds: list[str], counts: np.ndarray) -> np.ndarray:
    """Return the share of the cells that are of each value's kind."""
    shares: np.ndarray = pd.Series(counts).groupby(kinds).transform("sum").to_numpy(dtype=float) / counts.sum()
    return shares
