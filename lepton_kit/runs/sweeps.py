"""Parameter sweeps: one run for every combination of the values given."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from itertools import product

from lepton_kit.errors import InputError


def combinations(sweeps: Iterable[str]) -> list[dict[str, str]]:
    """Return every combination of swept values; the last sweep varies fastest.

    Parameters
    ----------
    sweeps
        Each `NAME=VALUE,VALUE,…`. A value that holds a comma is quoted as in CSV: `NAME="a,b",c`.

    Raises
    ------
    InputError
        When a sweep has no name or no value, or a name is swept twice.

    Examples
    --------
    >>> combinations(["days=5,10", "model=a"])
    [{'days': '5', 'model': 'a'}, {'days': '10', 'model': 'a'}]
    >>> combinations([])
    [{}]
    """
    values: dict[str, list[str]] = {}
    for text in sweeps:
        name, _, listed = text.partition("=")
        if not name or not listed:
            raise InputError(f"sweep {text!r} (from --sweep): write NAME=VALUE,VALUE,…")
        if name in values:
            raise InputError(f"sweep {text!r} (from --sweep): {name!r} is swept twice")
        values[name] = next(csv.reader([listed]))
    return [dict(zip(values, chosen, strict=True)) for chosen in product(*values.values())]
