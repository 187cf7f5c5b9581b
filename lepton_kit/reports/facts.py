"""What pages, listings and commands say about a run: its conclusion, headlines, results, times and software."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from lepton_kit.reports.values import in_words, shortened
from lepton_kit.runs.manifest import Manifest, Result, title_of
from lepton_kit.runs.parameters import run_command
from lepton_kit.runs.repeat import pair_results

STATUS_WORDS = {
    "queued": "queued",
    "running": "running",
    "succeeded": "succeeded",
    "failed": "failed",
    "timed_out": "timed out",
    "kernel_died": "kernel died",
    "cancelled": "cancelled",
    "expectation_failed": "expectation failed",
}
HEADLINES = 6  # as many results as a reader takes in at a glance; the page below shows them all
MOST_OPEN = 4  # parameters; more of them are folded away, so that the first figure stands high up
CAUSES = {"none": "none (nothing was broken)", "unknown": "unknown (the evidence does not decide)"}
CONCLUSION = {"cause": "Cause", "confidence": "Confidence", "next_action": "Next action"}  # rows of their own
MAIN_PACKAGES = ("lepton-kit", "numpy", "pandas", "pandera", "scikit-learn", "torch", "papermill", "nbclient")


@dataclass(frozen=True)
class Before:
    """An earlier run whose results stand beside those of another; `address` is its page on the site, if it has one."""

    run: Manifest
    words: str
    address: str = ""


def result_rows(run: Manifest, earlier: Before | None) -> list[dict[str, Any]]:
    """Return all single results with their units, beside those of an earlier run, as a page lists them.

    Results that hold tables and lists are left to the notebook; one that the earlier run had not shows a dash.
    """
    before = singles(earlier.run) if earlier else {}
    pairs = {pair.name: pair.verdict for pair in pair_results(earlier.run.results if earlier else {}, run.results)}
    rows = []
    for name, result in singles(run).items():
        change = _change(before.get(name), result, pairs[name])
        rows.append({
            "title": title_of(name, result), "value": _shown(result.value, result.unit),
            "unit": "" if result.unit == "1" else result.unit,
            "before": _shown(before[name].value) if name in before else "–", "change": change,
            "differs": pairs[name] == "different",
        })  # fmt: skip
    return rows


def repeat_commands(run: Manifest) -> str:
    """Return the commands that run the notebook again with the same values, and that compare a repetition."""
    again = run_command(run.notebook, run.given_parameters, " \\\n    ")
    return f"{again}\nlepton check {run.run_id}"


def conclusion(run: Manifest) -> list[tuple[str, str]]:
    """Return what a diagnosis came to, as (row, words); nothing for other notebooks."""
    said = {name: str(run.results[name].value) for name in CONCLUSION if name in run.results}
    return [(CONCLUSION[name], CAUSES.get(text, text) if name == "cause" else text) for name, text in said.items()]


def headlines(run: Manifest) -> list[tuple[str, str]]:
    """Return (title, value with unit) of the results that the notebook names as its headlines, else of the first.

    The conclusion is left out: it has rows of its own.
    """
    single = singles(run)
    chosen = {name: result for name, result in single.items() if result.headline} or single
    return [(title_of(name, result), _with_unit(result)) for name, result in chosen.items()][:HEADLINES]


def utc(moment: datetime) -> str:
    """Return a time as people write it, in UTC.

    Examples
    --------
    >>> utc(datetime(2008, 10, 14, 9, 30, tzinfo=UTC))
    '2008-10-14 09:30:00 UTC'
    """
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def duration(seconds: float | None) -> str:
    """Return a duration as people say it.

    Examples
    --------
    >>> duration(12.34), duration(125), duration(7500), duration(None)
    ('12.3 s', '2 min 5 s', '2 h 5 min', 'not known')
    """
    if seconds is None:
        return "not known"
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = int(seconds)
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"


def singles(run: Manifest) -> dict[str, Result]:
    """Return the results that are one number, text or truth value, but for the conclusion and for hashes."""
    return {
        name: result
        for name, result in run.results.items()
        if result.is_single and name not in CONCLUSION and not re.fullmatch("[0-9a-f]{64}", str(result.value))
    }


def _with_unit(result: Result) -> str:
    shown = _shown(result.value, result.unit)
    return shown if result.unit in ("", "1") else f"{shown} {result.unit}"


def _change(before: Result | None, now: Result, verdict: str) -> str:
    """Say what became of a result: by how much a number changed, or whether it is the same within its tolerance."""
    if before is None or verdict != "different":
        return verdict
    one, other = before.value, now.value
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in (one, other)):
        return "different"
    return f"{other - one:+.4g}" + (f" ({(other - one) / abs(one):+.1%})" if one else "")


def _shown(value: bool | int | float | str, unit: str = "") -> str:
    return shortened(in_words(value, "1" if unit == "1" else ""))


def software(run: Manifest) -> str:
    """Return Python and the main packages that a run had, and how many others."""
    found = {name.lower(): version for name, version in run.environment.packages.items()}
    shown = [f"{name} {found[name]}" for name in MAIN_PACKAGES if name in found]
    rest = len(found) - len(shown)
    more = f" and {rest} more (in manifest.json)" if rest else ""
    return ", ".join([f"Python {run.environment.python}", *shown]) + more
