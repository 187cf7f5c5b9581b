"""Runs notebooks; knows nothing of prices or models.

`runner` runs one: `parameters` checks what it is given, `engine` executes it, `ending` reads back what it recorded into
its `manifest`; `ledger` knows who runs what. `repeat` runs one again, `check` and `diff` compare.
"""

from lepton_kit.runs.deferred import defer_grammar

__all__ = ["check", "ending", "engine", "ledger", "manifest", "parameters", "redaction", "repeat", "runner"]

defer_grammar()  # here, because whatever reads a notebook imports nbformat after this package
