"""Keeps what is private out of all that is captured: its columns, and its values wherever else they stand."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pandas as pd

from lepton_kit.secrets import resolve_secret
from lepton_kit.telemetry.declaration import Declaration

WORD = re.compile(r"[^\W_]+")
SHORTEST = 4
"""Letters and digits that a value must have to be looked for in other texts: shorter ones stand there by chance."""

HIDDEN = "[private]"


@dataclass
class Private:
    """What is private of a service.

    Parameters
    ----------
    columns
        Names of columns, or patterns; they count for a field of an object as well: `email` is also `inputs.email`.
    key
        What values are hashed with (HMAC-SHA256), so that the same one can be told again; None drops them.

    Examples
    --------
    >>> private = Private(("email",))
    >>> list(private.cover(pd.DataFrame({"inputs.email": ["jane@example.org"], "age": [40]})))
    ['age']
    >>> private.scrub("login of Jane@Example.org failed")
    'login of [private] failed'
    """

    columns: tuple[str, ...] = ()
    key: bytes | None = None
    _words: dict[tuple[str, ...], str] = field(default_factory=dict)
    _lengths: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, declaration: Declaration, project: Path) -> Private:
        """Return what a declaration says is private.

        Raises InputError when the key cannot be read.
        """
        key = declaration.private_key and resolve_secret(declaration.private_key, project)
        return cls(declaration.private, key.encode() if key else None)

    @property
    def knows_values(self) -> bool:
        """Whether any private value has been seen, which can then be found in other texts."""
        return bool(self._words)

    def names(self, name: str) -> bool:
        """Say whether a column or a field is private."""
        last = name.rpartition(".")[2]
        return any(fnmatchcase(name, one) or fnmatchcase(last, one) for one in self.columns)

    def cover(self, table: pd.DataFrame) -> pd.DataFrame:
        """Return a table without its private columns, or with hashes in them, and note their values."""
        if not self.columns:
            return table
        own = [name for name in map(str, table) if self.names(name)]
        for name in own:
            self._note(table[name])
        hashes = {name: table[name].map(self.hashed) for name in own} if self.key else {}
        kept = table.drop(columns=own).assign(**hashes)
        return self.scrubbed(kept, [name for name in map(str, kept) if name not in own])

    def scrubbed(self, table: pd.DataFrame, names: list[str]) -> pd.DataFrame:
        """Return a table with no private value in these columns."""
        texts = [name for name in names if not pd.api.types.is_numeric_dtype(table[name])]
        texts = [name for name in texts if not pd.api.types.is_datetime64_any_dtype(table[name])]
        return table.assign(**{name: table[name].map(self.cleaned) for name in texts}) if self._words else table

    def hashed(self, value: Any) -> str | None:
        """Return what stands for a value where there is a key; None of a missing one."""
        if value is None or (isinstance(value, float) and pd.isna(value)):
            return None
        assert self.key is not None
        return hmac.new(self.key, _text(value).encode(), hashlib.sha256).hexdigest()[:24]

    def scrub(self, text: str) -> str:
        """Return a text with no private value in it, however it is spelt or quoted."""
        if not self._words:
            return text
        found = list(WORD.finditer(text))
        words = [one.group().casefold() for one in found]
        made, place, number = [], 0, 0
        while number < len(words):
            fitting = (n for n in self._lengths if number + n <= len(words))
            length = next((n for n in fitting if tuple(words[number : number + n]) in self._words), 0)
            if length:
                made += [text[place : found[number].start()], self._words[tuple(words[number : number + length])]]
                place = found[number + length - 1].end()
            number += length or 1
        return "".join([*made, text[place:]])

    def cleaned(self, value: Any) -> Any:
        """Return a value of JSON without private fields and values."""
        if isinstance(value, str):
            return self.scrub(value)
        if isinstance(value, Mapping):
            stays = [str(name) for name in value if self.key is not None or not self.names(str(name))]
            return {self.scrub(name): self._field(name, value[name]) for name in stays}
        if isinstance(value, list | tuple):
            return [self.cleaned(one) for one in value]
        if isinstance(value, int | float) and not isinstance(value, bool):
            return HIDDEN if _words_of(value) in self._words else value
        return value

    def _field(self, name: str, value: Any) -> Any:
        return self.hashed(value) if self.names(name) else self.cleaned(value)

    def _note(self, values: pd.Series) -> None:
        for value in values.dropna().map(_text).unique():
            words = _words_of(value)
            if sum(map(len, words)) >= SHORTEST:
                self._words[words] = f"[private {self.hashed(value)}]" if self.key else HIDDEN
        self._lengths = sorted({len(words) for words in self._words}, reverse=True)


def _text(value: Any) -> str:
    """Return a value as it is written; a whole number beside missing ones is one all the same."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _words_of(value: Any) -> tuple[str, ...]:
    return tuple(word.casefold() for word in WORD.findall(_text(value)))
