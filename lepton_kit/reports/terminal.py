"""Shows what a program printed: colours stay, whatever else moves a terminal's cursor comes to what it left there."""

from __future__ import annotations

import re
from typing import NamedTuple

from lepton_kit.reports.markup import as_text, visible

HEAD, TAIL = 20_000, 5_000
"""Characters at the beginning and at the end of a long text that a page shows."""
HEAD_LINES, TAIL_LINES = 100, 50

COLOUR = r"\x1b\[[\d;]*m"
ERASE = r"\x1b\[[\d;]*K"
OTHER = re.compile(
    rf"(?P<kept>{COLOUR}|{ERASE})"
    r"|\x1b\][^\x07\x1b\n]*(?:\x07|\x1b\\)"  # a title or a link (OSC), of which the words beside it stay
    r"|\x1b[PX^_][^\x1b\n]*\x1b\\"
    r"|(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # cursor moves and modes (CSI)
    r"|\x1b[ -/]*[0-~]?"
    r"|[\x00-\x07\x0b\x0c\x0e-\x1f\x7f-\x9f]"
)
COLONS = re.compile(r"(?<=\x1b\[)[\d;]*:[\d:;]*(?=m)")
TOKEN = re.compile(rf"{COLOUR}|{ERASE}|.", re.DOTALL)
RESET = re.compile(r"\x1b\[0*m")
MOST_COLOURS = 6
"""Settings that add up, such as bold, a colour and a background."""


class Shortened(NamedTuple):
    """The two ends of a text, and how much of it is left out between them, in words; empty where nothing is."""

    head: str
    left_out: str
    tail: str


def pre(text: str) -> str:
    r"""Return what a program printed as HTML, its colours included; of very much, the beginning and the end.

    Examples
    --------
    >>> pre("10 %\r100 %\x07")
    '<pre class="output">100 %</pre>'
    """
    head, left_out, tail = shortened(as_left_on_screen(text))
    if not left_out:
        return _block(head)
    return f"{_block(head)}{left_out_note(left_out)}{_block(tail)}"


def left_out_note(what: str) -> str:
    """Return the line that stands for what a page leaves out."""
    link = '<a href="notebook.ipynb">notebook.ipynb</a>'
    return f'<p class="left-out">{as_text(what)} left out here: {link} has all.</p>\n'


def shortened(text: str) -> Shortened:
    r"""Return the ends of a long text.

    Examples
    --------
    >>> shortened("line\n" * 1000).left_out
    '851 of 1,001 lines (4,256 characters)'
    """
    lines = text.count("\n") + 1
    if len(text) <= HEAD + TAIL and lines <= HEAD_LINES + TAIL_LINES:
        return Shortened(text, "", "")
    start, end = _outside_colours(text, HEAD), _outside_colours(text, len(text) - TAIL)
    head = "\n".join(text[:start].split("\n", HEAD_LINES)[:HEAD_LINES])
    tail = "\n".join(text[max(end, len(head)) :].rsplit("\n", TAIL_LINES)[-TAIL_LINES:])
    characters = f"{len(text) - len(head) - len(tail):,}"
    between = lines - head.count("\n") - tail.count("\n") - 2
    what = f"{between:,} of {lines:,} lines ({characters} characters)" if between > 0 else f"{characters} characters"
    return Shortened(head, what, tail)


def as_left_on_screen(text: str) -> str:
    r"""Return text as a terminal has it in the end, with colours (SGR) as the only escapes that are left.

    A carriage return goes back to the start of the line, a backspace one place, and what follows is written over.

    Examples
    --------
    >>> as_left_on_screen("a 1 %\ra 22 %\ndone\b\b!")
    'a 22 %\ndo!e'
    """
    plain = COLONS.sub(lambda found: found[0].replace(":2::", ":2:").replace(":", ";"), text)
    plain = OTHER.sub(lambda found: found["kept"] or "", plain)
    if "\r" in plain or "\b" in plain:
        plain = "\n".join(_line(line) if "\r" in line or "\b" in line else line for line in plain.split("\n"))
    return re.sub(ERASE, "", plain)


def _outside_colours(text: str, at: int) -> int:
    """Return a place at or before this one that is not inside of a colour's escape."""
    begun = text.rfind("\x1b", max(0, at - 40), at)
    return begun if begun >= 0 and "m" not in text[begun:at] else at


def _line(line: str) -> str:
    """Return what is left of a line that was written over: the last on top, what stuck out of earlier ones after it."""
    cells: list[tuple[str, str]] = []
    for part in reversed(line.split("\r")):
        is_erased = re.search(ERASE, part) is not None
        if is_erased or len(re.sub(COLOUR, "", part)) > len(cells):
            cells += _cells(part)[len(cells) :]
        if is_erased:
            break
    shown, before = [], ""
    for colour, character in cells:
        if colour != before:
            shown.append(f"\x1b[0m{colour}")
        shown.append(character)
        before = colour
    return "".join(shown) + ("\x1b[0m" if before else "")


def _cells(part: str) -> list[tuple[str, str]]:
    """Return each character with its colour."""
    cells: list[tuple[str, str]] = []
    active: list[str] = []
    at = 0
    for token in TOKEN.findall(part):
        if RESET.fullmatch(token):
            active = []
        elif re.fullmatch(COLOUR, token):
            active = [*active, token][-MOST_COLOURS:]
        elif re.fullmatch(ERASE, token):
            cells[at:] = [] if token[2:3] in "K02" else cells[at:]
            cells[:at] = [("", " ")] * at if token[2:3] in "12" else cells[:at]
        elif token == "\b":
            at = max(0, at - 1)
        elif len(token) == 1:
            cells[at : at + 1] = [("".join(active), token)]
            at += 1
    return cells


def _block(text: str) -> str:
    from nbconvert.filters import ansi2html  # the import costs what only publishing should pay

    return f'<pre class="output">{visible(ansi2html(text))}</pre>'
