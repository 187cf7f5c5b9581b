"""The PDF of a page: what it says without what only a screen needs, by the pandoc and the typst that Quarto brings."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from lepton_kit.errors import InputError, LeptonError
from lepton_kit.reports.cards import CARD, Card
from lepton_kit.reports.markup import as_text
from lepton_kit.reports.quarto import Quarto, find_quarto, without_colours
from lepton_kit.reports.search import NOT_SEARCHED

PDF = "incident.pdf"
NO_QUARTO = "a PDF needs Quarto (1.7 or newer), which was not found: https://quarto.org"
LOOKS = {
    "papersize": "a4", "fontsize": "9.5pt", "margin": {"x": "2cm", "y": "2cm"},
    "header-includes": [
        "#show figure: set block(breakable: true)", "#show figure: set align(left)",
        "#show image: set image(width: 75%)", "#set table(inset: 4pt)",
        "#show table: set text(size: 8pt)", "#show table: set par(justify: false)",
    ],
}  # fmt: skip
"""What pandoc's template for typst is given: a table goes on over the page, its text to the left."""
LONG_WORD, BREAK = re.compile(r"\S{21,}"), re.compile(r"(?<=[-/_.])|(?<=\w{20})")
"""A word that is broken where it must, such as a run's id, and the places where it may be."""


def pdf_of(page: str, card: Card, before: Path, *, is_wanted: bool) -> tuple[bytes, str] | None:
    """Return the PDF of a page, and the hash of what it was made from; None where there is none.

    One that was made from the same is taken over from `before`, the folder of an earlier publication.

    Raises InputError when one is to be made, and there is no Quarto, or too old a one. Raises LeptonError when Quarto
    fails.
    """
    source = printed(page, card)
    digest = hashlib.sha256(source.encode()).hexdigest()
    if (before / PDF).is_file() and json.loads((before / CARD).read_bytes()).get("printed") == digest:
        return (before / PDF).read_bytes(), digest
    return (make_pdf(source), digest) if is_wanted else None


def printed(page: str, card: Card) -> str:
    """Return what a page says on paper, as a whole HTML page: without code, links and what is to be downloaded."""
    from bs4 import BeautifulSoup  # the import costs what only publishing should pay

    soup = BeautifulSoup(page, "html.parser")
    for part in soup.select(NOT_SEARCHED):
        part.decompose()
    for link in soup.select("a"):
        link.unwrap()
    for text in soup.find_all(string=LONG_WORD):
        text.replace_with(LONG_WORD.sub(lambda found: BREAK.sub("\u200b", found[0]), text))
    head = f"<title>{as_text(card.title)}</title><meta name='date' content='{as_text(card.date[:16])} UTC'>"
    body = f"<p>{as_text(card.description)}</p>{soup}"
    return f"<!doctype html><html><head><meta charset='utf-8'>{head}</head><body>{body}</body></html>"


def make_pdf(source: str) -> bytes:
    """Return an HTML page as a PDF.

    Raises InputError when there is no Quarto, or too old a one. Raises LeptonError when Quarto fails; the message ends
    with its last lines.
    """
    found = find_quarto()
    if found is None:
        raise InputError(NO_QUARTO)
    with tempfile.TemporaryDirectory(prefix="lepton-pdf-") as name:
        folder = Path(name)
        (folder / "page.html").write_text(source, encoding="utf-8")
        (folder / "looks.json").write_text(
            json.dumps({"variables": LOOKS, "standalone": True, "extract-media": "."}), "utf-8"
        )
        _quarto(found, folder, ["pandoc", "page.html", "--defaults", "looks.json", "--output", "page.typ"])
        _quarto(found, folder, ["typst", "compile", "page.typ", "page.pdf"])
        return (folder / "page.pdf").read_bytes()


def _quarto(quarto: Quarto, folder: Path, words: Sequence[str]) -> None:
    run = subprocess.run(
        [str(quarto.program), *words],
        cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
    )  # fmt: skip
    if run.returncode != 0:
        told = without_colours((run.stdout + run.stderr)[-2000:])
        raise LeptonError(f"Quarto {quarto.version} could not make the PDF (exit {run.returncode}):\n{told}")
