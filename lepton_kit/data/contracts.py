"""What a table must be, by its declaration: which column plays which role, and what its values may then be."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import pandas as pd

from lepton_kit.errors import InputError

if TYPE_CHECKING:
    from lepton_kit.telemetry.declaration import Declaration

SPLIT = "split"

MOSTLY = 0.9
"""A column without a declared role holds numbers where this share of its cells does."""


@dataclass(frozen=True)
class Contract:
    """The roles of a table's columns; `time` and `id` are None where there is none.

    `time_series` says that rows follow on each other, so that an order, gaps and repeats mean something; `private`
    columns are in no part of it.
    """

    numbers: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    target: str | None = None
    is_class: bool = False
    time: str | None = None
    id: str | None = None
    time_series: bool = False

    @property
    def features(self) -> tuple[str, ...]:
        """Return what a model may be given: numbers and categories; of texts only descriptors enter a model."""
        return (*self.numbers, *self.categories)

    @property
    def columns(self) -> tuple[str, ...]:
        """Return all columns that play a role."""
        extra = (self.time, self.id, self.target)
        return (*(name for name in extra if name), *self.numbers, *self.categories, *self.texts)


def contract_of(declaration: Declaration, table: pd.DataFrame) -> Contract:
    """Find the roles of a table's columns by the declaration of its service.

    A declared pattern such as `inputs.*` also names the columns that lie below it in the log (`radius` for
    `inputs.radius`); where no feature is declared, every column without another role is one.

    Raises
    ------
    InputError
        When the table lacks a declared column, no target is declared, or no feature is left.

    Examples
    --------
    >>> from lepton_kit.telemetry.declaration import Declaration
    >>> declared = Declaration.model_validate({"task": "regression", "columns": {"target": "price"}})
    >>> contract_of(declared, pd.DataFrame({"rooms": [2.0], "town": ["Bern"], "price": [1.0]}))  # doctest: +ELLIPSIS
    Contract(numbers=('rooms',), categories=('town',), texts=(), target='price', ...)
    """
    columns, names = declaration.columns, list(map(str, table))
    target = declaration.labels.target if declaration.labels and columns.target is None else columns.target
    if target is None:
        raise InputError("columns.target: the declaration names no target, so that nothing can be learnt or judged")
    if target not in names:
        raise InputError(f"columns.target = {target!r}: the table has no such column; it has {', '.join(names)}")
    has_time = columns.timestamp in names
    if declaration.time_series and not has_time:
        raise InputError(f"columns.timestamp = {columns.timestamp!r}: a time series needs it, and the table lacks it")
    taken = {target, columns.timestamp, columns.id, columns.version, columns.status, SPLIT, *declaration.private}
    free = [name for name in names if name not in taken]
    features = _named(columns.features, free, "columns.features") if columns.features else free
    categories = _named(columns.categorical, features, "columns.categorical")
    texts = _named(columns.text, features, "columns.text")
    for name in features:
        if name not in {*categories, *texts} and not columns.features and not _is_number(table[name]):
            categories.append(name)
    numbers = [name for name in features if name not in {*categories, *texts}]
    if not numbers and not categories:
        raise InputError("columns.features: no feature is left for a model; texts enter it by descriptors only")
    return Contract(
        tuple(numbers), tuple(categories), tuple(texts), target, (declaration.task or "").startswith("class"),
        columns.timestamp if has_time else None, columns.id if columns.id in names else None, declaration.time_series,
    )  # fmt: skip


def _named(patterns: tuple[str, ...], names: list[str], key: str) -> list[str]:
    """Return the names that patterns mean, in the table's order."""
    meant: set[str] = set()
    for pattern in patterns:
        found = [name for name in names if fnmatchcase(name, pattern)]
        found = found or [name for name in names if fnmatchcase(name, pattern.rpartition(".")[2])]
        if not found:
            raise InputError(f"{key}: {pattern!r} names no column of the table; it has {', '.join(names)}")
        meant |= set(found)
    return [name for name in names if name in meant]


def _is_number(values: pd.Series) -> bool:
    """Tell whether nearly all cells are numbers: text among them is a fault, and makes no category of the column."""
    if pd.api.types.is_bool_dtype(values):
        return False
    return bool(pd.to_numeric(values.dropna(), errors="coerce").notna().mean() >= MOSTLY)
