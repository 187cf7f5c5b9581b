"""What a run's page says about the run itself: the facts table on top, and the provenance box at the end."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import quote

from lepton_kit.reports.markup import as_text, table
from lepton_kit.reports.values import in_words, shortened
from lepton_kit.runs.manifest import Expectation, Input, Manifest, Result, title_of
from lepton_kit.runs.parameters import run_command, typed
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


def facts_html(run: Manifest) -> str:
    """Return the facts table of a run, as HTML."""
    facts = {
        "Notebook": f"<code>{as_text(run.notebook)}</code>",
        "Status": f'<span class="status {as_text(run.status)}">{STATUS_WORDS[run.status]}</span>',
        "Error": _error(run),
        "Ended early": as_text(run.ended_early or ""),
        **{row: f"<strong>{as_text(value)}</strong>" for row, value in conclusion(run)},
        "Started": utc(run.started),
        "Duration": duration(run.duration_s),
        "Parameters": _parameters(run),
        "Results": _named({name: as_text(shown) for name, shown in headlines(run)}) + _left_out(run),
        "Expectations": _expectations(run.expectations),
    }
    return facts_table(facts)


def facts_table(facts: Mapping[str, str]) -> str:
    """Return facts (HTML by name) as a table, without those that say nothing."""
    rows = "".join(f'<tr><th scope="row">{name}</th><td>{value}</td></tr>' for name, value in facts.items() if value)
    return f'<table class="facts"><tbody>{rows}</tbody></table>'


def moment_html(value: str) -> str:
    """Return a time in UTC that a script of the page tells in the reader's own zone too."""
    return f'<time datetime="{as_text(value.removesuffix(" UTC").replace(" ", "T"))}Z">{as_text(value)}</time>'


def provenance_html(run: Manifest, published: Collection[str]) -> str:
    """Return all that is needed to trust a run and to repeat it, as HTML; inputs link to `published` runs."""
    facts = {
        "Run": f"<code>{as_text(run.run_id)}</code>, started by {as_text(run.trigger)}",
        "Notebook SHA-256": _hash(run.notebook_sha256),
        "Code": _commit(run),
        "Software": _software(run),
        "Host": f"{as_text(run.environment.host)} ({as_text(run.environment.platform)})",
    }
    inputs = [[_input(each, published), _hash(each.sha256)] for each in run.inputs]
    left = [[f"<code>{as_text(each.file)}</code>", f"{each.bytes:,} B", _hash(each.sha256)] for each in run.artifacts]
    return (
        f'<div class="provenance">{facts_table(facts)}'
        + (f"<h3>Inputs</h3>{table(inputs, ['Input', 'SHA-256'], 'files')}" if inputs else "")
        + (f"<h3>Artifacts</h3>{table(left, ['File', 'Size', 'SHA-256'], 'files')}" if left else "")
        + f'<h3>Repeat it</h3><pre class="command">{as_text(repeat_commands(run))}</pre></div>'
    )


@dataclass(frozen=True)
class Before:
    """An earlier run whose results stand beside those of another; `address` is its page on the site, if it has one."""

    run: Manifest
    words: str
    address: str = ""


def results_html(run: Manifest, earlier: Before | None) -> str:
    """Return a table of all single results with their units, beside those of an earlier run, as HTML; or nothing.

    Results that hold tables and lists are left to the notebook; one that the earlier run had not shows a dash.
    """
    if not (single := _singles(run)):
        return ""
    if earlier is None:
        rows = [
            [as_text(title_of(name, each)), as_text(_shown(each.value, each.unit)), as_text(_unit(each))]
            for name, each in single.items()
        ]
        return table(rows, ["Result", "Value", "Unit"], "files results")
    before = _singles(earlier.run)
    pairs = {pair.name: pair.verdict for pair in pair_results(earlier.run.results, run.results)}
    rows = [
        [
            as_text(title_of(name, each)), as_text(_shown(each.value, each.unit)), as_text(_unit(each)),
            as_text(_shown(before[name].value)) if name in before else "–",
            _change(before.get(name), each, pairs[name]),
        ]
        for name, each in single.items()
    ]  # fmt: skip
    words = as_text(earlier.words)
    linked = f'<a href="{earlier.address}">{words}</a>' if earlier.address else words
    compare = f"lepton diff {earlier.run.run_id} {run.run_id}"
    return (
        table(rows, ["Result", "Value", "Unit", "Before", "Change"], "files results")
        + f'<p class="quiet">Compared with {linked}. <code>{as_text(compare)}</code> compares all of both.</p>'
    )


def downloads_html(files: Sequence[str]) -> str:
    """Return links to the files beside a page, as HTML."""
    links = "".join(f'<li><a href="{as_text(name)}" download>{as_text(name)}</a></li>' for name in files)
    return f'<div class="downloads"><h3>Downloads</h3><ul>{links}</ul></div>'


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
    singles = _singles(run)
    chosen = {name: result for name, result in singles.items() if result.headline} or singles
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


def _singles(run: Manifest) -> dict[str, Result]:
    """Return the results that are one number, text or truth value, but for the conclusion and for hashes."""
    return {
        name: result
        for name, result in run.results.items()
        if result.is_single and name not in CONCLUSION and not re.fullmatch("[0-9a-f]{64}", str(result.value))
    }


def _parameters(run: Manifest) -> str:
    values = _named({name: f"<code>{as_text(typed(value))}</code>" for name, value in run.parameters.items()})
    if len(run.parameters) <= MOST_OPEN:
        return values
    return f"<details><summary>{len(run.parameters)} parameters</summary>{values}</details>"


def _with_unit(result: Result) -> str:
    shown = _shown(result.value, result.unit)
    return shown if result.unit in ("", "1") else f"{shown} {result.unit}"


def _unit(result: Result) -> str:
    return "" if result.unit == "1" else result.unit


def _change(before: Result | None, now: Result, verdict: str) -> str:
    """Say what became of a result: by how much a number changed, or whether it is the same within its tolerance."""
    if before is None:
        return "new"
    if verdict != "different":
        return {"same": "same", "not compared": "not compared"}.get(verdict, verdict)
    one, other = before.value, now.value
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in (one, other)):
        return "<strong>different</strong>"
    relative = f" ({(other - one) / abs(one):+.1%})" if one else ""
    return f"<strong>{as_text(f'{other - one:+.4g}{relative}')}</strong>"


def _shown(value: bool | int | float | str, unit: str = "") -> str:
    return shortened(in_words(value, "1" if unit == "1" else ""))


def _left_out(run: Manifest) -> str:
    more = len(_singles(run)) - len(headlines(run))
    return f'<p class="quiet">and {more} more in the notebook below</p>' if more > 0 else ""


def _named(values: dict[str, str]) -> str:
    """Return a list of names and values (HTML already), or nothing for none."""
    items = "".join(f"<dt>{as_text(name)}</dt><dd>{value}</dd>" for name, value in values.items())
    return f'<dl class="values">{items}</dl>' if items else ""


def _expectations(stated: list[Expectation]) -> str:
    broken = [each for each in stated if not each.passed]
    counts = [f"{len(stated) - len(broken)} passed"] + [f"{len(broken)} failed"] * bool(broken)
    lines = "".join(f"<li>{as_text(each.message)}</li>" for each in broken)
    return ", ".join(counts) + (f"<ul>{lines}</ul>" if lines else "") if stated else ""


def _error(run: Manifest) -> str:
    if run.error is None:
        return ""
    where = "" if run.error.cell is None else f' in <a href="#stopped-here">cell {run.error.cell}</a>'
    message = as_text(shortened(run.error.message, 2000))
    return f'<strong>{as_text(run.error.name)}</strong>{where}: <span class="message">{message}</span>'


def _input(given: Input, published: Collection[str]) -> str:
    shown = f"<code>{as_text(given.ref)}</code>"
    run = given.run or given.ref.removeprefix("runs/")  # which reads the run's folder, and not one of its artifacts
    if run in published:
        shown = f'<a href="../../runs/{quote(run)}/index.html">{shown}</a>'
    return shown + (f" (parameter {as_text(given.parameter)})" if given.parameter else "")


def _hash(sha256: str | None) -> str:
    return "none: not a local file" if sha256 is None else f'<code class="hash">{as_text(sha256)}</code>'


def _commit(run: Manifest) -> str:
    kit = f'lepton_kit SHA-256 <code class="hash">{as_text(run.code_sha256)}</code>'
    if run.git is None:
        return f"not under git; {kit}"
    changed = "with uncommitted changes" if run.git.dirty else "without uncommitted changes"
    return f"git commit <code>{as_text(run.git.commit[:12])}</code>, {changed}; {kit}"


def _software(run: Manifest) -> str:
    found = {name.lower(): version for name, version in run.environment.packages.items()}
    shown = [f"{name} {found[name]}" for name in MAIN_PACKAGES if name in found]
    rest = len(found) - len(shown)
    more = f" and {rest} more (in manifest.json)" if rest else ""
    return as_text(", ".join([f"Python {run.environment.python}", *shown])) + more
