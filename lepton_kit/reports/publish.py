"""Publishes runs: copies what their pages need into the Quarto project, and takes it away again."""

from __future__ import annotations

import glob
import re
import shutil
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC
from pathlib import Path
from typing import Any
from urllib.parse import quote

from lepton_kit.errors import InputError
from lepton_kit.reports.cards import FIGURE, Card, LeftOut, place, published, take_away
from lepton_kit.reports.facts import Before, utc
from lepton_kit.reports.markup import render
from lepton_kit.reports.page import categories, make_page, summary
from lepton_kit.reports.pdf import PDF, pdf_of
from lepton_kit.runs.ids import the_one
from lepton_kit.runs.manifest import FILE, Manifest, is_table
from lepton_kit.runs.shipped import shipped

LARGEST_RECORDING = 50 * 1024 * 1024
"""Bytes of a recording that a page offers for download."""

SLI = ("sli", "unit", "before", "now", "verdict")

RUN_REFERENCE = re.compile(r"run:\d{8}T\d{6}Z-(?P<notebook>.+)-[0-9a-f]{6}/")


class LeftOutError(InputError):
    """Pages that cannot be made, while all others were."""

    def __init__(self, pages: Sequence[LeftOut]) -> None:
        super().__init__("\n".join(map(str, pages)))
        self.pages = tuple(pages)


def publish_runs(project: Path, runs: Sequence[Manifest]) -> list[Card]:
    """Publish runs that have ended, in place of earlier pages of them; the site shows them when it is built.

    Raises InputError when there is no Quarto project. Raises LeftOutError, once all others are published, when the page
    of a run cannot be made; an earlier page of it stays as it was.
    """
    reports = reports_folder(project)
    known = {card.id for card in published(reports)} | {run.run_id for run in runs}
    made, left_out = [], []
    for run in runs:
        try:
            made.append(publish_as(card_of(run), run, project, known))
        except Exception as error:  # whatever is wrong with one page, the others are published
            reason = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
            left_out.append(LeftOut(f"run {run.run_id}", reason))
    if left_out:
        raise LeftOutError(left_out)
    return made


@dataclass(frozen=True)
class Shown:
    """What the page of a run shows besides the run.

    `header` are the facts of what it is the page of, as HTML, `files` what lies beside it, by name. `before` is the
    run whose results are compared, else the run before. `has_pdf` says that a PDF is made where there is none yet.
    """

    header: str = ""
    files: Mapping[str, Path] = field(default_factory=dict)
    before: Before | None = None
    has_pdf: bool = False


def publish_as(card: Card, run: Manifest, project: Path, known: Collection[str], shown: Shown | None = None) -> Card:
    """Publish a run under a card: its own, or that of what the run is the page of, such as a version of a model.

    `known` are the runs that have a page on the same site; the picture is the run's first figure. Raises InputError
    when the page cannot be made.
    """
    shown, reports = shown or Shown(), reports_folder(project)
    with tempfile.TemporaryDirectory(prefix="lepton-publish-") as scratch:
        files = downloads(run, project, Path(scratch)) | dict(shown.files)
        if card.kind != "runs":  # which lists what it left behind; the page of a model or of drills offers it
            files |= {one.file: run.folder(project) / "artifacts" / one.file for one in run.artifacts}
        before = shown.before or _before(run, project, known)
        page, figure = make_page(run, project, known, before, shown.header)
        if card.kind == "incidents" and (made := pdf_of(page, card, reports / card.folder, is_wanted=shown.has_pdf)):
            files[PDF], digest = made
            card = replace(card, printed=digest)
        if files:
            page += render("downloads.html.j2", files=list(files))
        if figure is not None:
            files[FIGURE] = figure.png
            card = replace(card, image_alt=figure.alt)
        return place(reports, card, page, files)


def unpublish(project: Path, names: Collection[str]) -> list[Card]:
    """Take published pages away by their ids or the ends of these; the site loses them when it is built.

    Raises InputError when one of them is not published; nothing is taken away then.
    """
    reports = reports_folder(project)
    known = {card.id: card for card in published(reports)}
    if missing := [name for name in names if not any(id.startswith(name) or id.endswith(name) for id in known)]:
        raise InputError(
            f"{missing[0]!r}: is not published (published are {len(known)} pages; `lepton report` lists them)"
        )
    ids = [the_one(name, known, "published page", "lepton report") for name in names]
    gone = [known[id] for id in dict.fromkeys(ids)]
    take_away(reports, gone)
    return gone


def reports_folder(project: Path) -> Path:
    """Return the Quarto project of a project; where there is none, the kit's own frame of a site is laid there."""
    reports = project / "reports"
    if reports.exists() and not reports.is_dir():
        raise InputError(f"{reports}: must be a folder, the Quarto project of the report site")
    if not (reports / "_quarto.yml").is_file():
        reports.mkdir(exist_ok=True)
        for part in sorted((shipped() / "reports").glob("*.*")):
            if part.is_file() and not (reports / part.name).exists():
                shutil.copy(part, reports / part.name)
    return reports


def card_of(run: Manifest) -> Card:
    """Return what listings say of a run."""
    return Card(
        kind="runs",
        id=run.run_id,
        title=run.title,
        date=f"{run.started.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f}",
        description=summary(run),
        group=run.name,
        categories=tuple(categories(run)),
        facts=_card_facts(run),
        measured=measured(run),
    )


def _card_facts(run: Manifest) -> dict[str, str]:
    service, inputs = subject_of(run)
    return {"service": service, "input": ", ".join(inputs)} if "service" in run.results else {}


def measured(run: Manifest) -> list[dict[str, Any]]:
    """Return the SLIs that a run measured a service by: each with its unit, both periods and its verdict."""
    result = run.results.get("slis")
    held = result.value if result else None
    if not is_table(held) or not {*SLI} <= {*(columns := held["columns"])}:
        return []
    rows = [dict(zip(columns, row, strict=True)) for row in held["rows"]]
    return [{name: row[name] for name in SLI} for row in rows]


def _before(run: Manifest, project: Path, known: Collection[str]) -> Before | None:
    if (found := previous_run(run, project)) is None:
        return None
    address = f"../../runs/{quote(found.run_id)}/index.html" if found.run_id in known else ""
    return Before(found, f"the run before, {utc(found.started)}", address)


def previous_run(run: Manifest, project: Path) -> Manifest | None:
    """Return the run of the same notebook and the same subject before this one that succeeded, if any.

    Ids are in order of time.
    """
    subject = subject_of(run)
    earlier = sorted((project / "runs").glob(f"*-{glob.escape(run.name)}-*/{FILE}"), reverse=True)
    for path in earlier:
        if path.parent.name >= run.run_id:
            continue
        try:
            found = Manifest.load(path)
        except InputError:  # such as one of an older format: there may be another before it
            continue
        if found.name == run.name and found.status == "succeeded" and subject_of(found) == subject:
            return found
    return None


def subject_of(run: Manifest) -> tuple[str, tuple[str, ...]]:
    """Return what a run looked at: its service, and its inputs; only runs of one subject are compared.

    The runs of a schedule are one series, though each is given a recording of its own. An artifact of another notebook
    is the same input whichever of its runs left it.
    """
    service = run.results["service"].value if "service" in run.results else run.parameters.get("service", "")
    kind, _, name = run.trigger.partition(":")
    if kind == "schedule":
        return str(service), (name,)
    refs = {RUN_REFERENCE.sub(r"run:\g<notebook>/", one.ref) for one in run.inputs}
    return str(service), tuple(sorted(refs))


def downloads(run: Manifest, project: Path, scratch: Path) -> dict[str, Path | bytes]:
    """Return the files that a reader may download, by name: notebook, manifest, and the recording it looked at."""
    folder = run.folder(project)
    found: dict[str, Path | bytes] = {
        name: folder / name
        for name in ("notebook.ipynb", FILE)
        if (folder / name).is_file() and not (folder / name).is_symlink()
    }
    given = run.parameters.get("recording")
    recording = (project / str(given)).resolve() if given else None
    if recording is not None and recording.is_relative_to(project.resolve()) and _is_small_recording(recording):
        archive = shutil.make_archive(str(scratch / run.run_id), "zip", recording)
        found["recording.zip"] = Path(archive)
    return found


def _is_small_recording(folder: Path) -> bool:
    if not (folder / "incident.json").is_file():
        return False
    parts = list(folder.rglob("*"))
    if any(path.is_symlink() for path in parts):  # a file of another folder would be published with it
        return False
    return sum(path.stat().st_size for path in parts if path.is_file()) <= LARGEST_RECORDING
