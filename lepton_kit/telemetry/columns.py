"""Columns of a table as what they should hold: numbers, or text. What is neither is missing, and named."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import pandas as pd

FIRST = 50
"""This many known values of an input, the first ones, say whether it holds numbers or text."""


def with_inputs(
    table: pd.DataFrame,
    names: Sequence[str],
    categorical: Sequence[str],
    what: str,
    problems: list[str],
    prefix: str = "",
) -> pd.DataFrame:
    """Return a table whose inputs hold numbers, or text where they did so at first or are declared as categories.

    `prefix` stands before the name that an input is declared by; what is lost is added to `problems`.
    """
    texts = {}
    for name in names:
        if not (_is_declared(name.removeprefix(prefix), categorical) or is_category(table[name])):
            continue
        known = table[name].astype("object")
        if pd.api.types.is_numeric_dtype(table[name]):  # numbers that stand for categories
            known = known.where(table[name].isna(), known.map("{:g}".format))
        is_text = known.map(_is_text).astype(bool)
        if lost := int((~is_text & known.notna()).sum()):
            problems.append(f"{what}: column {name} holds categories, and {lost} of {len(table)} values are not")
        texts[name] = known.where(is_text, None).astype("str")
    return with_numbers(table.assign(**texts), [name for name in names if name not in texts], what, problems)


def with_numbers(table: pd.DataFrame, names: Sequence[str], what: str, problems: list[str]) -> pd.DataFrame:
    """Return a table whose named columns hold numbers; what is none is missing, and named in `problems`."""
    for column in names:
        if not pd.api.types.is_numeric_dtype(table[column]):
            numbers = pd.to_numeric(table[column], errors="coerce")
            if lost := int((numbers.isna() & table[column].notna()).sum()):
                problems.append(
                    f"{what}: column {column} holds {table[column].dtype}; it must hold numbers, and {lost} of "
                    f"{len(table)} values are not"
                )
            table = table.assign(**{column: numbers})
    return table.astype(dict.fromkeys(names, "float64"))


def _is_declared(name: str, patterns: Sequence[str]) -> bool:
    """Tell whether a column is one that a declaration names: by its last part, as `inputs.region` is.

    >>> _is_declared("region", ("inputs.region",)), _is_declared("age", ("inputs.region",))
    (True, False)
    """
    return any(fnmatchcase(name, pattern) or fnmatchcase(name, pattern.rpartition(".")[2]) for pattern in patterns)


def is_category(values: pd.Series) -> bool:
    """Tell whether an input holds text that is no number: what follows on numbers is damaged, and no category.

    >>> [is_category(pd.Series(one)) for one in (["north", None], ["0.5", "0.7"], [0.5, "north"], [{"a": 1}])]
    [True, False, False, False]
    """
    if pd.api.types.is_numeric_dtype(values):
        return False
    first = values.astype("object").dropna().head(FIRST)
    is_text = first.map(_is_text).astype(bool) & pd.to_numeric(first, errors="coerce").isna()
    return bool(len(first) and is_text.mean() > 0.5)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)
