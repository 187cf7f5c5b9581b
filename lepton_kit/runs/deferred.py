"""Puts off a grammar that takes a second of processor time to compile, and that no notebook needs.

nbformat imports jsonschema, which imports `rfc3987_syntax` (JupyterLab brings it) to know the formats `iri` and
`iri-reference` of a schema. That package compiles its grammar while it is imported, in every process that reads a
notebook; the schema of notebooks has neither format. A stand-in of that name compiles it when it is first asked.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

NAME = "rfc3987_syntax"


class _StandIn(ModuleType):
    """Has the function that jsonschema takes, and hands whatever else is asked of it to the real module."""

    def __init__(self, spec: ModuleSpec) -> None:
        super().__init__(NAME)
        self.__spec__, self.__path__ = spec, spec.submodule_search_locations or []

    def is_valid_syntax(self, term: str, value: str) -> bool:
        """Return whether a text is of that term, such as `iri`."""
        return bool(_real().is_valid_syntax(term, value))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # asked of every module by code that inspects all of them, as torch does on import
            raise AttributeError(f"module {NAME!r} has no attribute {name!r}")
        return getattr(_real(), name)


def _real() -> ModuleType:
    if isinstance(sys.modules.get(NAME), _StandIn):
        del sys.modules[NAME]
    return import_module(NAME)


def defer_grammar() -> None:
    """Put the stand-in in the place of `rfc3987_syntax`, unless that is not installed, or imported already.

    >>> defer_grammar()
    >>> from jsonschema import Draft202012Validator
    >>> conforms = Draft202012Validator.FORMAT_CHECKER.conforms
    >>> conforms("https://example.org/ö", "iri"), conforms("not an address", "iri")
    (True, False)
    """
    if NAME not in sys.modules and (spec := find_spec(NAME)) is not None:
        sys.modules[NAME] = _StandIn(spec)
