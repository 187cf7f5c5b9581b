"""Runs notebooks; knows nothing of prices or models."""

from lepton_kit.runs.deferred import defer_grammar

defer_grammar()  # here, because whatever reads a notebook imports nbformat after this package
