"""Makes the page of one run: facts, the executed notebook, results against the run before, provenance."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from pathlib import Path

from lepton_kit.errors import InputError
from lepton_kit.reports.facts import (
    STATUS_WORDS,
    Before,
    duration,
    facts_html,
    headlines,
    provenance_html,
    results_html,
)
from lepton_kit.reports.markup import as_text
from lepton_kit.reports.pictures import LARGEST, Picture
from lepton_kit.reports.story import first_figure, heading_html, story_html
from lepton_kit.runs.manifest import Manifest
from lepton_kit.runs.notebooks import read_notebook
from lepton_kit.runs.shipped import folder_of, shipped


def make_page(
    run: Manifest, project: Path, published: Collection[str], before: Before | None = None, header: str = ""
) -> tuple[str, Picture | None]:
    """Return the page of a run as safe HTML, and the picture that stands for it in listings.

    `published` are the runs that have a page on the same site, and the results of `before` stand beside this one's.
    Where the page is not of the run itself, `header` (its facts, as HTML) stands on top.

    Raises InputError when a cell's `#|` lines cannot be read; the message names run and cell.
    """
    try:
        notebook = read_notebook(run.folder(project) / "notebook.ipynb")
    except InputError as error:  # a run may end before its notebook is saved: its page says so
        story, figure = f"<p>There is no executed notebook to show: {as_text(error)}</p>", None
    else:
        if header:  # the page is about something else than the notebook asks in its first cell
            notebook.cells = [cell for number, cell in enumerate(notebook.cells) if number or cell.cell_type == "code"]
        try:
            story = story_html(notebook, published, partial(_beside, project, run.notebook))
            figure = first_figure(notebook)
        except InputError as error:
            raise InputError(f"run {run.run_id}: {error}") from error
    results = results_html(run, before)
    parts = [
        header or facts_html(run),
        story,
        *([heading_html(2, "Results"), results] if results else []),
        heading_html(2, "Provenance"),
        provenance_html(run, published),
    ]
    return "\n".join(parts), figure


def _beside(project: Path, notebook: str, path: str) -> bytes:
    """Return a file of the project by its path from a notebook; nothing where there is none, or it is no picture."""
    try:
        file = folder_of(notebook, project).joinpath(path).resolve()
        is_ours = (
            any(map(file.is_relative_to, (project.resolve(), shipped())))
            and file.is_file()
            and file.stat().st_size <= LARGEST
        )
        return file.read_bytes() if is_ours else b""
    except (OSError, ValueError):  # no such file; or its name is none, such as one with a zero byte
        return b""


def summary(run: Manifest) -> str:
    """Return a run in one line of plain text: how it ended, and its first results."""
    ended = f"{STATUS_WORDS[run.status].capitalize()} in {duration(run.duration_s)}"
    if run.error is not None:
        return f"{ended}: {run.error.name}: {' '.join(run.error.message.split())[:200]}"
    cause = [("cause", str(run.results["cause"].value))] if "cause" in run.results else []
    short = [(name, value) for name, value in cause + headlines(run) if len(value) <= 40]
    found = ", ".join(f"{name} {value}" for name, value in short[:3])
    return f"{ended}: {found}" if found else ended


def categories(run: Manifest) -> list[str]:
    """Return how the run ended, and `runbook` for what lies in `runbooks/`, else `notebook`."""
    return [STATUS_WORDS[run.status], "runbook" if run.notebook.startswith("runbooks/") else "notebook"]
