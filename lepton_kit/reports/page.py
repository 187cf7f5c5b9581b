"""Makes the page of one run: facts, the executed notebook, results against the run before, provenance."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from pathlib import Path
from urllib.parse import quote

from lepton_kit.errors import InputError
from lepton_kit.reports.facts import (
    MOST_OPEN,
    STATUS_WORDS,
    Before,
    conclusion,
    duration,
    headlines,
    repeat_commands,
    result_rows,
    software,
    utc,
)
from lepton_kit.reports.markup import as_text, render
from lepton_kit.reports.pictures import LARGEST, Picture
from lepton_kit.reports.story import first_figure, story_html
from lepton_kit.reports.values import shortened
from lepton_kit.runs.manifest import Input, Manifest
from lepton_kit.runs.notebooks import read_notebook
from lepton_kit.runs.parameters import typed
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
    return _rendered(run, published, before, header, story), figure


def _rendered(run: Manifest, published: Collection[str], before: Before | None, header: str, story: str) -> str:
    return render(
        "page.html.j2",
        run=run, before=before, header=header, story=story, status=STATUS_WORDS[run.status],
        error=run.error and shortened(run.error.message, 2000), conclusion=conclusion(run), headlines=headlines(run),
        results=result_rows(run, before), broken=[one for one in run.expectations if not one.passed],
        parameters=[(name, typed(value)) for name, value in run.parameters.items()], most_open=MOST_OPEN,
        started=utc(run.started), duration=duration(run.duration_s), software=software(run),
        commands=repeat_commands(run), page_of=partial(_page_of, published),
    )  # fmt: skip


def _page_of(published: Collection[str], given: Input) -> str:
    """Return the page of the run that left an input, if it is published."""
    run = given.run or given.ref.removeprefix("runs/")  # which reads the run's folder, and not one of its artifacts
    return f"../../runs/{quote(run)}/index.html" if run in published else ""


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
