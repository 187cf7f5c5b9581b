"""Builds the report site of a project: arranges a page for each run, renders aside, and puts the new site in place."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nbformat

from lepton_kit.errors import InputError
from lepton_kit.files import write_atomically
from lepton_kit.reports import fallback, quarto
from lepton_kit.reports.page import FIGURE, make_page
from lepton_kit.runs.manifest import Manifest


@dataclass(frozen=True)
class Site:
    """A site that was built: `tool` made it, and `note` is one plain line for the reader, or empty."""

    folder: Path
    index: Path
    tool: str
    note: str


def build_site(project: Path, runs: list[Manifest], on_line: Callable[[str], None] | None = None) -> Site:
    """Build `reports/_site`, with one page for each run.

    Parameters
    ----------
    project
        The project's root; its `reports/` is the Quarto project.
    runs
        The runs to publish. Pages of other runs are taken away.
    on_line
        Called with each line that the renderer writes.

    Raises
    ------
    InputError
        When `reports/_quarto.yml` is missing, a page cannot be made, or the only Quarto there is is too old.
    LeptonError
        When rendering fails; the site that was there stays as it is.
    """
    tell = on_line or (lambda line: None)
    reports = _reports_folder(project)
    found = quarto.find_quarto()
    arrange_pages(project, runs)
    aside = Path(tempfile.mkdtemp(prefix=".building-", dir=reports))
    try:
        if found is not None:
            quarto.render(found, reports, aside / "site", tell)
        else:
            fallback.render(reports, aside / "site", runs, tell)
        _put_in_place(aside / "site", reports / "_site", aside / "old")
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    site = reports / "_site"
    if found is None:
        return Site(site, site / "index.html", "nbconvert", fallback.NOTE)
    return Site(site, site / "index.html", f"quarto {found.version}", "")


def arrange_pages(project: Path, runs: list[Manifest]) -> None:
    """Write the pages of these runs into `reports/runs/`, and take away those of other runs."""
    folder = _reports_folder(project) / "runs"
    published = {run.run_id for run in runs}
    pages = {run.run_id: make_page(run, project, published) for run in runs}  # all can be made before any is written
    folder.mkdir(exist_ok=True)
    for page_folder in folder.iterdir():
        if page_folder.name not in published:
            shutil.rmtree(page_folder) if page_folder.is_dir() else page_folder.unlink()
    for run_id, (page, figure) in pages.items():
        (folder / run_id).mkdir(exist_ok=True)
        if figure is not None:
            (folder / run_id / FIGURE).write_bytes(figure)
        write_atomically(folder / run_id / "index.ipynb", nbformat.writes(page))


def _reports_folder(project: Path) -> Path:
    if not (project / "reports" / "_quarto.yml").is_file():
        raise InputError(f"no reports/_quarto.yml in {project}: the report site is made from that Quarto project")
    return project / "reports"


def _put_in_place(new: Path, site: Path, old: Path) -> None:
    """Put the new site where the old one was: at no moment is there half of one."""
    if site.exists():
        site.rename(old)
    try:
        new.rename(site)
    except OSError:
        if old.exists():
            old.rename(site)
        raise
