"""The page of an incident: its postmortem runbook, run on what is known of it by now, under the facts of the incident.

While the incident is open it is run on its history so far; of one that is over, on the history that was frozen.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lepton_kit.diagnosis.history import History, read_history, utc
from lepton_kit.errors import InputError
from lepton_kit.files import write_atomically
from lepton_kit.ops.executed_pages import run_of, with_pages
from lepton_kit.ops.incident_summary import facts_of, in_short, sources_of
from lepton_kit.ops.proven import proof_words
from lepton_kit.ops.watch.evidence import recording_folder
from lepton_kit.ops.watch.history import HISTORY, incident_folder, open_judgement, settled_history
from lepton_kit.ops.watch.policy import LOOKING_BACK
from lepton_kit.ops.watch.queue import Incident, Queue
from lepton_kit.ops.watch.seen_before import seen_before, seen_words
from lepton_kit.project.settings import Settings, read_settings
from lepton_kit.reports.cards import Card, published
from lepton_kit.reports.facts import Before
from lepton_kit.reports.markup import render
from lepton_kit.reports.pdf import NO_QUARTO
from lepton_kit.reports.publish import Shown, publish_as, reports_folder
from lepton_kit.reports.quarto import find_quarto
from lepton_kit.runs.manifest import FILE, Manifest
from lepton_kit.runs.notebooks import locate_notebook, read_notebook
from lepton_kit.runs.parameters import read_parameters

RUNBOOK = "runbooks/postmortem.ipynb"
SO_FAR = "history-so-far.json"
"""The history of an incident that is open, beside the one that is frozen; its page is made from it."""

MOMENTS = ("Began", "Noticed", "Over")


def publish_incident(project: Path, id: str, *, with_pdf: bool = False) -> Card:
    """Publish an incident, in place of an earlier page of it; the site shows it when it is built.

    The runbook is not run again where an earlier run of it has read the same. A PDF that was made from the same before
    is kept, also where none is asked for.

    Raises InputError when there is no such incident, a part of it cannot be read, or a PDF is asked for and there is no
    Quarto.
    """
    if with_pdf and find_quarto() is None:
        raise InputError(NO_QUARTO)
    queue, settings = Queue(project), read_settings(project)
    incident = queue.incident(id)
    if incident is None:
        raise InputError(f"incident {id!r}: none of the ledger; `lepton incidents` lists them")
    history, files = _gather(incident, queue, settings, project)
    runbook = settings.postmortem.runbook if settings.postmortem else RUNBOOK
    given = _parameters(runbook, settings.postmortem.parameters if settings.postmortem else {}, files, project)
    run = run_of(project, runbook, given, timeout=settings.watch.run_timeout)
    known = with_pages(project)
    card = card_of(history, files["recording"])
    shown = Shown(
        header=header_html(
            history,
            files["recording"],
            known,
            seen_words(seen_before(incident, queue, project)),
            [
                f"{one.notebook}: {proof_words(history.alert.name, one.notebook, history.service, project)}"
                for one in queue.remedies(id)
            ],
        ),
        files={HISTORY: project / str(files["history"])},
        before=_before(card, project),
        has_pdf=with_pdf,
    )
    return publish_as(card, run, project, known, shown)


def publish_pdfs(project: Path) -> list[Card]:
    """Publish again, with a PDF, the published incidents that have none, or an outdated one.

    Raises InputError when there is no Quarto, or an incident cannot be published.
    """
    if find_quarto() is None:
        raise InputError(NO_QUARTO)
    before = [card for card in published(reports_folder(project)) if card.kind == "incidents"]
    made = [publish_incident(project, card.id, with_pdf=True) for card in before]
    return [new for old, new in zip(before, made, strict=True) if new.content != old.content]


def _gather(
    incident: Incident, queue: Queue, settings: Settings, project: Path
) -> tuple[History, dict[str, str | None]]:
    """Return what is known of an incident, and the files that hold it, relative to the project."""
    history = settled_history(incident, queue, settings, project)
    folder = incident_folder(incident, project)
    file = folder / HISTORY
    if not history.is_over or not read_history(file).is_over:
        file = folder / SO_FAR
        if not _says_the_same(file, history):
            write_atomically(file, history.model_dump_json(indent=1) + "\n")
    recordings = {
        "recording": project / incident.recording if incident.recording else recording_folder(project, incident.id),
        "after": recording_folder(project, f"{incident.id}-recovery"),
    }
    files = {
        "history": file,
        **{name: path if (path / "incident.json").is_file() else None for name, path in recordings.items()},
        "judgement": open_judgement(incident, project),
    }
    paths = {name: path.relative_to(project).as_posix() if path else None for name, path in files.items()}
    return read_history(file), paths


def _says_the_same(file: Path, history: History) -> bool:
    """Whether a file holds this history, whenever it was written: what reads it need not be run again."""
    if not file.is_file():
        return False
    written = read_history(file)
    return written.model_dump_json() == history.model_copy(update={"frozen": written.frozen}).model_dump_json()


def _parameters(runbook: str, given: dict[str, Any], files: Mapping[str, str | None], project: Path) -> dict[str, Any]:
    """Return what the runbook reads: what the settings give it, and what the incident left, by the names it has."""
    notebook = locate_notebook(runbook, project)
    names = {one.name for one in read_parameters(read_notebook(notebook), notebook.name) or []}
    return {**given, **{name: value for name, value in files.items() if name in names & set(LOOKING_BACK)}}


def _before(card: Card, project: Path) -> Before | None:
    """Return the run behind the page of the incident before this one, of the same alert and service."""
    reports, kind = reports_folder(project), (card.kind, card.group, card.facts["service"])
    for other in published(reports):  # the newest first
        is_alike = (other.kind, other.group, other.facts.get("service")) == kind and other.date < card.date
        made = reports / other.folder / FILE
        if is_alike and made.is_file():
            run = project / "runs" / str(json.loads(made.read_bytes())["run_id"]) / FILE
            words, address = f"the incident before, {other.id}", f"../../{other.address}"
            return Before(Manifest.load(run), words, address) if run.is_file() else None
    return None


def header_html(
    history: History, recording: str | None, known: set[str], seen: Sequence[str] = (), proven: Sequence[str] = ()
) -> str:
    """Return the facts of an incident as HTML, with its runs' pages `known`.

    `seen` tells of earlier incidents that were alike, `proven` when drills last proved its remedies.
    """
    runs = [job for job in history.jobs if job.run and job.run.run_id in known]
    facts = facts_of(history, recording) | {"Seen before": "; ".join(seen), "Remedies": "; ".join(proven)}
    return render("incident.html.j2", facts=facts, sources=sources_of(history), moments=MOMENTS, runs=runs)


def card_of(history: History, recording: str | None) -> Card:
    """Return what listings say of an incident."""
    facts, cause = facts_of(history, recording), str(history.diagnosed.get("cause", "not diagnosed"))
    return Card(
        kind="incidents",
        id=history.id,
        title=history.alert.summary or f"{history.alert.name} on {history.service}",
        date=f"{history.onset or utc(history.alert.starts_at):%Y-%m-%d %H:%M:%S.%f}",
        description=" ".join(in_short(history, recording)),
        group=history.alert.name,
        categories=(cause, facts["Status"]),
        facts={
            "service": history.service, "cause": cause, "severity": history.alert.severity,
            "duration": facts["Lasted"], "status": facts["Status"],
            **({"time": f"demo time ×{history.time_scale:g}"} if history.time_scale != 1 else {}),
        },
    )  # fmt: skip
