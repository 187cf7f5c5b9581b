"""The parts of a page that is written by a machine: once as a notebook for the site, once as Markdown for a PDF.

All text is plain, and never becomes markup in either: whoever makes a block need not escape anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from nbformat.v4 import new_notebook, new_raw_cell

from lepton_kit.reports.cards import FIGURE, Card
from lepton_kit.reports.clean import anchor_of
from lepton_kit.reports.facts import downloads_html
from lepton_kit.reports.markup import PLAIN_TABLE, as_text, as_words, table
from lepton_kit.reports.pictures import address_of, raster_address
from lepton_kit.reports.story import figure_html, heading_cell, html_cell


@dataclass(frozen=True)
class Heading:
    """A heading of the second level, or of the one below."""

    text: str
    level: int = 2


@dataclass(frozen=True)
class Words:
    """Paragraphs. `is_judged` says that a person wrote them, and no machine derived them."""

    text: str
    is_judged: bool = False


@dataclass(frozen=True)
class Facts:
    """Names with values, on top of a page; a value that is a time (ISO 8601, `moments`) is told in local time too.

    `commands` names the values that are commands to type.
    """

    values: Mapping[str, str]
    moments: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """A table with a head; `links` gives, by row, where its first cell leads on the site."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    links: Mapping[int, str] | None = None
    is_judged: bool = False


@dataclass(frozen=True)
class Points:
    """A list of short texts."""

    items: Sequence[str]


@dataclass(frozen=True)
class Figure:
    """A picture (PNG, and as SVG where that is small) with its caption, and what it shows in words."""

    content: bytes
    caption: str
    alt: str
    name: str
    svg: str | None = None


@dataclass(frozen=True)
class Code:
    """Commands."""

    text: str


Block = Heading | Words | Facts | Table | Points | Figure | Code


def as_page(card: Card, blocks: Iterable[Block], files: Iterable[str]) -> Any:
    """Return a page of the site as a notebook; the same content gives the same page.

    Parameters
    ----------
    card
        What listings say of it.
    blocks
        From its facts to its provenance.
    files
        Names of the files beside it, which a reader may take along.
    """
    matter: dict[str, Any] = {
        "title": as_text(as_words(card.title)),
        "date": card.date[:19],
        "categories": [as_text(as_words(name)) for name in card.categories],
    }
    page = new_notebook(metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}})
    page.cells = [
        new_raw_cell(f"---\n{yaml.safe_dump(matter, allow_unicode=True, sort_keys=False)}---"),
        *as_cells(blocks),
        html_cell(downloads_html(sorted(set(files) - {FIGURE}))),
    ]
    for number, cell in enumerate(page.cells):
        cell["id"] = f"cell-{number}"
    return page


def as_cells(blocks: Iterable[Block]) -> list[Any]:
    """Return blocks as the cells of a page of the site."""
    return [cell for block in blocks for cell in _cells(block)]


def _cells(block: Block) -> list[Any]:
    match block:
        case Heading():
            return [heading_cell(block.level, as_text(block.text), anchor_of(block.text))]
        case Words():
            return [html_cell(_marked("".join(map(_paragraph_html, _parts(block.text))), block.is_judged))]
        case Facts():
            return [html_cell(_facts_html(block))]
        case Table():
            return [html_cell(_marked(_table_html(block), block.is_judged))]
        case Points():
            return [html_cell(_points_html(block.items))]
        case Figure():
            address = address_of({"image/svg+xml": block.svg}) if block.svg else raster_address(block.content)
            caption, alt = as_text(_one_line(block.caption)), _one_line(block.alt)
            return [html_cell(figure_html(address or "", caption, alt, f"fig-{block.name}"))]
        case Code():
            return [html_cell(f'<pre class="command">{as_text(block.text)}</pre>')]


def _marked(markup: str, is_judged: bool) -> str:
    if not is_judged:
        return markup
    return f'<div class="judged"><p class="by">Written by people</p>{markup}</div>'


def _paragraph_html(part: str) -> str:
    points = _points_of(part)
    return _points_html(points) if points else f"<p>{_lines(part)}</p>"


def _points_html(items: Iterable[str]) -> str:
    return f'<ul class="points">{"".join(f"<li>{_lines(item)}</li> " for item in items)}</ul>'


def _points_of(part: str) -> list[str]:
    r"""Return the points of a list as people write it; none where it is a paragraph.

    >>> _points_of("- it came early\n- and to the right team"), _points_of("It came - early")
    (['it came early', 'and to the right team'], [])
    """
    lines = part.split("\n")
    return [line[2:].strip() for line in lines] if all(line.startswith(("- ", "* ")) for line in lines) else []


def _facts_html(block: Facts) -> str:
    values = {
        name: _moment_html(value)
        if name in block.moments
        else f"<code>{_lines(value)}</code>"
        if name in block.commands
        else _lines(value)
        for name, value in block.values.items()
        if value
    }
    rows = "".join(f'<tr><th scope="row">{as_text(name)}</th><td>{value}</td></tr>' for name, value in values.items())
    return f'<table {PLAIN_TABLE} class="facts"><tbody>{rows}</tbody></table>'


def _moment_html(value: str) -> str:
    """Return a time in UTC that a script of the page tells in the reader's own zone too."""
    return f'<time datetime="{as_text(value.removesuffix(" UTC").replace(" ", "T"))}Z">{as_text(value)}</time>'


def _table_html(block: Table) -> str:
    links = block.links or {}
    rows = [
        [
            f'<a href="{as_text(links[number])}">{_lines(cell)}</a>' if place == 0 and number in links else _lines(cell)
            for place, cell in enumerate(row)
        ]
        for number, row in enumerate(block.rows)
    ]
    return table(rows, [as_text(name) for name in block.head], "files")


def _lines(text: str) -> str:
    """Return text with its lines, and with places where a long word, such as a run's id, may be broken."""
    words = re.split(r"(\S{21,})", text)  # every second one is long
    shown = "".join(
        "<wbr>".join(map(as_text, re.split(r"(?<=[-/_.])", word))) if number % 2 else as_text(word)
        for number, word in enumerate(words)
    )
    return shown.replace("\n", "<br>").replace("&#10;", "<br>")


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split("\n\n") if part.strip()]


def _one_line(text: str) -> str:
    return " ".join(text.split())


# --- for a PDF ----------------------------------------------------------------------------------------------------


def as_markdown(blocks: Iterable[Block]) -> tuple[str, dict[str, bytes]]:
    """Return blocks as Markdown that pandoc turns into a PDF, and the pictures beside it by name."""
    texts, pictures = [], {}
    for block in blocks:
        texts.append(_markdown(block))
        if isinstance(block, Figure):
            pictures[_file_of(block)] = block.svg.encode() if block.svg else block.content
    return "\n\n".join(texts) + "\n", pictures


def _markdown(block: Block) -> str:
    match block:
        case Heading():
            return f"{'#' * block.level} {as_text(block.text)}"
        case Words():
            said = "\n\n".join(map(_paragraph_markdown, _parts(block.text)))
            return f"*Written by people:*\n\n{said}" if block.is_judged else said
        case Facts():
            return _pipe_table(
                ["", ""],
                [[f"**{as_text(name)}**", _cell(value)] for name, value in block.values.items() if value],
                [1, 4],
            )
        case Table():
            words = _pipe_table(
                [as_text(name) for name in block.head], [[_cell(cell) for cell in row] for row in block.rows]
            )
            return f"*Written by people:*\n\n{words}" if block.is_judged else words
        case Points():
            return _points_markdown(block.items)
        case Figure():
            return f"![{as_text(block.caption)}]({_file_of(block)}){{width=75%}}"
        case Code():
            return "```\n" + block.text.replace("```", "'''").replace("{{<", "{{ <") + "\n```"  # no shortcode


def _paragraph_markdown(part: str) -> str:
    points = _points_of(part)
    return _points_markdown(points) if points else as_text(part.replace("\n", " "))


def _points_markdown(items: Iterable[str]) -> str:
    return "\n".join(f"- {_cell(item)}" for item in items)


def _file_of(block: Figure) -> str:
    return f"{block.name}.{'svg' if block.svg else 'png'}"


def _cell(text: str) -> str:
    return as_text(" ".join(text.split()))


LINE = 100
"""Characters that fit beside each other in a table of a PDF."""


def _pipe_table(head: Sequence[str], rows: Sequence[Sequence[str]], widths: Sequence[int] | None = None) -> str:
    """Return a pipe table, whose columns pandoc makes as wide as their dashes say."""
    shares = widths or _widths([head, *rows])
    rule = "|".join(f":{'-' * (10 * share)}" for share in shares)
    lines = [f"| {' | '.join(head)} |", f"|{rule}|", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines)


LONGEST_WORD = 16
"""Characters of a word that is not broken; a run's id, which may be, is longer."""


def _widths(rows: Sequence[Sequence[str]]) -> list[int]:
    """Share a line among columns: each holds its longest word, and the longer its text, the more of the rest it has.

    >>> _widths([["Status", "Why"], ["succeeded", "a reason that is told in some more words than a few"]])
    [12, 88]
    """
    columns = [[_shown_length(cell) for cell in column] for column in zip(*rows, strict=True)]
    words = [
        max((min(_shown_length(word), LONGEST_WORD) for cell in column for word in cell.split()), default=1) + 1
        for column in zip(*rows, strict=True)
    ]
    more = [max(0, min(max(column), LINE) - word) + 1 for column, word in zip(columns, words, strict=True)]
    rest = max(0, LINE - sum(words))
    return [word + round(rest * own / sum(more)) for word, own in zip(words, more, strict=True)]


def _shown_length(text: str) -> int:
    """Return how many characters a reader sees: a reference is one.

    >>> _shown_length("a&#95;b")
    3
    """
    return len(re.sub(r"&#\d+;", "x", text))
