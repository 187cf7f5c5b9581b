"""What people think of an incident: `judgement.md`, which no machine writes into once it is there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path

import pandas as pd

from lepton_kit.errors import InputError
from lepton_kit.telemetry.recordings import printable

SECTIONS = ("Summary in plain words", "What went well", "What went poorly", "Where we were lucky", "Actions")
ACTION_COLUMNS = ("action", "owner", "due", "type", "state")
ACTION_TYPES = ("prevent", "detect", "mitigate", "learn")
ACTION_STATES = ("open", "done", "dropped")
UNWRITTEN = "(nobody has written this yet)"
LONGEST = 10_000


@dataclass(frozen=True)
class Judgement:
    """The sections that people wrote, by heading (empty where nobody did), and the actions that they agreed on."""

    sections: Mapping[str, str]
    actions: pd.DataFrame


def template(incident: str) -> str:
    """Return the page that people fill in.

    >>> read = parse_judgement(template("20261125T030000Z-x"))
    >>> list(read.sections) == list(SECTIONS[:-1]), any(read.sections.values()), list(read.actions)
    (True, False, ['action', 'owner', 'due', 'type', 'state'])
    """
    parts = "\n".join(f"## {section}\n\n{UNWRITTEN}\n" for section in SECTIONS[:-1])
    heading = "| " + " | ".join(ACTION_COLUMNS) + " |\n" + "|---" * len(ACTION_COLUMNS) + "|\n"
    return (
        f"# Judgement of incident {incident}\n\n"
        "Written by people; no program overwrites it. The postmortem shows it separately from computed facts.\n"
        f"Types of action: {', '.join(ACTION_TYPES)}. States: {', '.join(ACTION_STATES)}. Due: YYYY-MM-DD.\n\n"
        f"{parts}\n## {SECTIONS[-1]}\n\n{heading}"
    )


def read_judgement(path: Path | str) -> Judgement:
    """Read what people wrote.

    Raises
    ------
    InputError
        When the file is not readable as text, or an action lacks a column.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not readable as text ({error})") from error
    try:
        return parse_judgement(text)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def parse_judgement(text: str) -> Judgement:
    r"""Return the sections and the actions of a page; sections that are not known are left out.

    Examples
    --------
    >>> page = "## What went well\n\nThe alert came early.\n## Actions\n| action | owner | due | type | state |\n"
    >>> page += "|---|---|---|---|---|\n| watch the age of rows | Kim | 2026-12-01 | detect | open |\n"
    >>> read = parse_judgement(page)
    >>> read.sections["What went well"], read.actions["owner"].tolist()
    ('The alert came early.', ['Kim'])
    """
    parts = re.split(r"(?m)^## +(.+?) *$", text)
    found = {heading: body.strip() for heading, body in zip(parts[1::2], parts[2::2], strict=True)}
    sections = {name: _written(found.get(name, "")) for name in SECTIONS[:-1]}
    return Judgement(sections, _actions(found.get(SECTIONS[-1], "")))


def _written(body: str) -> str:
    lines = [printable(line, LONGEST) for line in body.replace(UNWRITTEN, "").strip().splitlines()]
    return "\n".join(lines)


def _actions(body: str) -> pd.DataFrame:
    rows = []
    for line in body.splitlines():
        cells = [printable(cell.strip()) for cell in line.strip().strip("|").split("|")]
        if not line.strip().startswith("|") or set("".join(cells)) <= {"-", ":", " "} or cells[0] == ACTION_COLUMNS[0]:
            continue  # not a row of the table, or its head
        if len(cells) != len(ACTION_COLUMNS):
            columns = ", ".join(ACTION_COLUMNS)
            raise InputError(f"action {printable(line, 80)!r}: has {len(cells)} cells; it needs {columns}")
        rows.append(cells)
    return pd.DataFrame(rows, columns=list(ACTION_COLUMNS), dtype="str")


JUDGED, DERIVED = "#CC79A7", "#0072B2"
"""Colours of the line beside what people judged, and beside what a machine derived (Okabe and Ito's palette)."""


def judged_html(judgement: Judgement, file: str = "judgement.md") -> str:
    r"""Return what people wrote as HTML that shows it and means nothing else, marked as theirs.

    Where nobody has written anything yet, it names the `file` to write in.

    >>> judged = parse_judgement("## What went well\n\n<script>alert(1)</script>\n\n- early\n- to the right team")
    >>> "<script>" in judged_html(judged), "Human judgement" in judged_html(judged)
    (False, True)
    >>> "<li>early</li><li>to the right team</li>" in judged_html(judged)
    True
    """
    written = "".join(
        f"<h3>{escape(name)}</h3>{''.join(map(_part_html, body.split(chr(10) * 2)))}"
        for name, body in judgement.sections.items()
        if body
    )
    if len(judgement.actions):
        written += f"<h3>{SECTIONS[-1]}</h3>{judgement.actions.to_html(index=False, border=0)}"
    nothing = f"<p>Nothing written yet. Write it in {escape(file)}.</p>"
    return _marked("Human judgement", JUDGED, written or nothing)


def _part_html(part: str) -> str:
    """Return a paragraph, or the list that all its lines make."""
    lines = part.strip().split("\n")
    if all(line.startswith(("- ", "* ")) for line in lines):
        return f"<ul>{''.join(f'<li>{escape(line[2:].strip())}</li>' for line in lines)}</ul>"
    return f"<p>{escape(part.strip())}</p>"


def derived_html(table: pd.DataFrame) -> str:
    """Return a table as HTML that is marked as derived by a machine; text in it means nothing else.

    >>> shown = derived_html(pd.DataFrame({"alert": ["<b>"]}))
    >>> "&lt;b&gt;" in shown, "Computed facts" in shown
    (True, True)
    """
    with pd.option_context("display.max_colwidth", None):
        listed = table.to_html(index=False, border=0, na_rep="", float_format="{:.4g}".format, justify="left")
    return _marked("Computed facts", DERIVED, listed)


def _marked(whose: str, colour: str, inner: str) -> str:
    head = f"<p style='font-weight: 600; margin: 0'>{whose}</p>"
    return f"<div style='border-left: 5px solid {colour}; padding: 0.4em 1.2em; margin: 1em 0'>{head}{inner}</div>"
