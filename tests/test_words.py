"""The words of the project: plain English and the field's names. A word that was replaced must not come back."""

import json
import re

import pytest
from helpers import ROOT

INSTEAD = {  # a regular expression of the word, and what to write in its place
    r"wish(?:es|ed)?": "DesiredState, or the desired state",
    r"mend(?:s|ed|er|ing)?": "fix, or InputFixes",
    r"yardsticks?": "SLI, or a baseline",
    r"guardians?": "watchdog",
    r"let[_ ]by": "approved_by, or approval",
    r"whoever": "who it is: a caller, a client, a person",
    r"shall": "must, should, or the present tense",
    r"so long ago": "how long ago",
    r"so many": "this many",
    r"brought": "restored, set, caused or installed",
    r"be it": "whether … or …",
    r"(?:is|are|was|were) told": "is reported",
    r"it is not over": "ongoing",
    r"could not be had": "missing",
    r"take along": "download",
}
ALLOWED = {  # file: words that stay there, and why
    "lepton_kit/data/input_fixes.py": {"mends"},  # how files before 2026-12 name input fixes
}
STORED = re.compile(r"lepton_mended_rows|_mended_")  # a metric, whose name recordings and dashboards hold
WORD = re.compile(rf"(?i)(?<![a-z])(?:{'|'.join(INSTEAD)})(?![a-z])")
PYTHON = [*ROOT.glob("lepton_kit/**/*.py"), *ROOT.glob("subjects/**/*.py")]
TEXTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "ARCHITECTURE.md", "SECURITY.md", "Makefile")),
    ROOT / "lepton.toml",
    *ROOT.glob("docs/*.md"), *ROOT.glob("subjects/*/*.md"), *ROOT.glob("reports/*.qmd"), *ROOT.glob("monitoring/*.md"),
    *(path for ending in ("j2", "toml", "html", "js") for path in ROOT.glob(f"lepton_kit/**/*.{ending}")),
]  # fmt: skip
NOTEBOOKS = [path for folder in ("notebooks", "runbooks", "subjects") for path in ROOT.glob(f"{folder}/**/*.ipynb")]


def complaints(name: str, text: str) -> list[str]:
    """Return a line for each word of a text that must not come back: where it stands, and what to write instead."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        for hit in WORD.finditer(STORED.sub("", line)):
            word = hit.group().lower()
            if word not in ALLOWED.get(name, ()):
                better = next(better for form, better in INSTEAD.items() if re.fullmatch(form, word))
                found.append(f"{name}:{number}: {hit.group()!r}: write {better}")
    return found


def markdown_of(path) -> str:
    """Return the Markdown of a notebook, the words that its readers see."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


def test_no_replaced_word_is_in_code_help_or_docs():
    found = [
        one for path in [*PYTHON, *TEXTS] for one in complaints(path.relative_to(ROOT).as_posix(), path.read_text())
    ]
    assert not found, "\n".join(found)


def test_no_replaced_word_is_in_the_markdown_of_a_notebook():
    found = [one for path in NOTEBOOKS for one in complaints(path.relative_to(ROOT).as_posix(), markdown_of(path))]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("def change_wish(folder):", "wish"),
        ("class Mender:", "Mender"),
        ('"""Whoever asks."""', "Whoever"),
        ("self.let_by = 1", "let_by"),
        ("what shall be done", "shall"),
    ],
)
def test_a_word_is_found_in_names_and_in_prose_with_its_line(text, word):
    assert complaints("x.py", f"\n{text}")[0].startswith(f"x.py:2: {word!r}: write ")


@pytest.mark.parametrize("text", ["recommended", "amends", "shallow", "wishbone", "lepton_mended_rows_total"])
def test_a_word_within_another_is_none(text):
    assert complaints("x.py", text) == []
