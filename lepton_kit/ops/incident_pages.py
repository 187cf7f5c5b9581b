"""The page of an incident: what its history, its runs and the people in it say, for the site and as a PDF."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd

from lepton_kit import plots
from lepton_kit.diagnosis import postmortem
from lepton_kit.diagnosis.history import History, Job, utc
from lepton_kit.diagnosis.judgement import ACTION_COLUMNS, read_judgement
from lepton_kit.diagnosis.recovery import sli_over_time
from lepton_kit.errors import InputError
from lepton_kit.ops.incident_summary import Incident, facts_of, in_short, moment_words
from lepton_kit.ops.page_figures import drawn
from lepton_kit.ops.page_tables import plain_cell, recorded_table, table_of, with_intervals
from lepton_kit.ops.watch.evidence import recording_folder
from lepton_kit.ops.watch.history import HISTORY, history_of, open_judgement, settled_history
from lepton_kit.ops.watch.queue import Queue
from lepton_kit.project.settings import read_settings
from lepton_kit.reports.blocks import Block, Code, Facts, Figure, Heading, Points, Table, Words, as_markdown, as_page
from lepton_kit.reports.cards import FIGURE, PAGE, Card, place, published
from lepton_kit.reports.markup import as_text, as_words
from lepton_kit.reports.pictures import Picture
from lepton_kit.reports.publish import reports_folder
from lepton_kit.reports.quarto import find_quarto, render_pdf
from lepton_kit.reports.story import first_figure
from lepton_kit.reports.values import sure
from lepton_kit.runs.notebooks import read_notebook
from lepton_kit.telemetry.recordings import Recording, read_recording

PDF = "incident.pdf"
NO_QUARTO = "a PDF needs Quarto (1.7 or newer), which was not found: https://quarto.org"
JUDGED = ("What went well", "What went poorly", "Where we were lucky")


def publish_incident(project: Path, id: str, *, with_pdf: bool = False) -> Card:
    """Publish an incident, in place of an earlier page of it; the site shows it when it is built.

    Parameters
    ----------
    project
        The project's root.
    id
        The incident's id in the ledger.
    with_pdf
        Whether the page offers a PDF of itself too. One that was made from the same before is kept either way.

    Raises
    ------
    InputError
        When there is no such incident, a part of it cannot be read, or a PDF is asked for and there is no Quarto.
    """
    reports = reports_folder(project)
    incident = gather(project, id)
    blocks = page_blocks(incident)
    files = _files(incident)
    with tempfile.TemporaryDirectory(prefix="lepton-incident-") as scratch:
        if (recorded := project / incident.recorded).is_dir():
            files["recording.zip"] = Path(shutil.make_archive(str(Path(scratch) / "recording"), "zip", recorded))
        source = _source_of_pdf(blocks)
        if made := _made_before(reports / "incidents" / id, source):
            files[PDF] = made
        elif with_pdf:
            files[PDF] = make_pdf(incident, blocks, Path(scratch))
        page = as_page(_card(incident), blocks, files)
        page.metadata["lepton"] = {"pdf-of": source if PDF in files else None}
        return place(reports, _card(incident), page, files)


def publish_pdfs(project: Path) -> list[Card]:
    """Publish again, with a PDF, those published incidents that have none yet, or of which it no longer says the same.

    Raises
    ------
    InputError
        When there is no Quarto, or an incident cannot be published.
    """
    if find_quarto() is None:
        raise InputError(NO_QUARTO)
    cards = [card for card in published(reports_folder(project)) if card.kind == "incidents"]
    return [publish_incident(project, card.id, with_pdf=True) for card in cards if not _has_pdf(project, card.id)]


def _has_pdf(project: Path, id: str) -> bool:
    folder = reports_folder(project) / "incidents" / id
    return _made_before(folder, _source_of_pdf(page_blocks(gather(project, id)))) is not None


def _source_of_pdf(blocks: Iterable[Block]) -> str:
    """Return a hash of all that a PDF is made from."""
    words, pictures = as_markdown(blocks)
    seen = hashlib.sha256(words.encode())
    for name, content in sorted(pictures.items()):
        seen.update(name.encode() + content)
    return seen.hexdigest()


def _made_before(folder: Path, source: str) -> Path | None:
    """Return the PDF of an earlier publication, where it was made from the same."""
    if not (folder / PDF).is_file():
        return None
    told = read_notebook(folder / PAGE).metadata.get("lepton", {})
    return folder / PDF if told.get("pdf-of") == source else None


def gather(project: Path, id: str) -> Incident:
    """Read all that is known of an incident: the ledger, its runs, its recordings, and what people wrote.

    Raises
    ------
    InputError
        When there is no such incident, or a part of it cannot be read.
    """
    queue, settings = Queue(project), read_settings(project)
    found = queue.incident(id)
    if found is None:
        raise InputError(f"incident {id!r}: none of the ledger; `lepton incidents` lists them")
    history = settled_history(found, queue, settings, project)
    recorded = found.recording or recording_folder(Path(), id).as_posix()
    recording, after = _recording(project / recorded), _recording(recording_folder(project, f"{id}-recovery"))
    others = [one for one in queue.incidents(200) if one.name == found.name and one.starts_at < found.starts_at]
    return Incident(
        history=history,
        judgement=read_judgement(open_judgement(found, project)),
        recorded=recorded,
        recording=recording,
        after=after,
        figure=figure_of_objective(history, recording, after) or _figure_of_diagnosis(history.diagnosis, project),
        drawn_timeline=_figure_of_postmortem(queue, id, project),
        previous=history_of(others[0], queue, settings, project) if others else None,
        cost_per_minute=history.cost_per_minute,
        currency=history.currency,
        linked={card.id for card in published(reports_folder(project)) if card.kind == "runs"},
    )


def _recording(folder: Path) -> Recording | None:
    return read_recording(folder) if (folder / "incident.json").is_file() else None


def figure_of_objective(history: History, recording: Recording | None, after: Recording | None) -> Figure | None:
    """Draw the objective that alerted, over all that was recorded; None where nothing of it was."""
    if history.promise is None or recording is None:
        return None
    objective = history.promise.objective()
    whole = recording if after is None else postmortem.joined(recording, after)
    table, window = sli_over_time(whole, objective), whole.incident.window
    if table.empty:
        return None
    times = postmortem.milestones(history)
    moments = {"onset": times.onset, "alert": times.alerted, "first action": times.mitigated, "over": times.recovered}
    worst = table.sort_values("share").iloc[0]
    return drawn(
        partial(
            plots.indicator_over_time, table, objective, moments, (pd.Timestamp(window.start), pd.Timestamp(window.end))
        ),
        caption=f"{objective.title}, the objective that alerted: {objective.description}",
        alt=f"A line of the share of good events by time, from {_share(table['share'].iloc[0])} at first to "
        f"{_share(table['share'].iloc[-1])} at last; the lowest is {_share(worst['share'])}, at "
        f"{moment_words(worst['time'])}. A dashed line at {_share(objective.target)} is the objective.",
        name="decisive",
    )


def _share(share: float) -> str:
    return f"{100 * share:.3g} %"


def _figure_of_diagnosis(job: Job | None, project: Path) -> Figure | None:
    picture = _first_figure(project, job.run.run_id) if job and job.run else None
    return (
        _figure(picture, "What moved, and since when: the first figure of the diagnosis.", "decisive")
        if picture
        else None
    )


def _figure_of_postmortem(queue: Queue, id: str, project: Path) -> Picture | None:
    runs = [job.run_id for job in queue.jobs(100, incident=id) if job.kind == "postmortem" and job.run_id]
    return _first_figure(project, runs[0]) if runs else None


def _first_figure(project: Path, run_id: str) -> Picture | None:
    path = project / "runs" / run_id / "notebook.ipynb"
    return first_figure(read_notebook(path)) if path.is_file() else None


# --- the page -----------------------------------------------------------------------------------------------------


def page_blocks(incident: Incident) -> list[Block]:
    """Return the page of an incident, from its facts to its provenance."""
    return [
        Facts(facts_of(incident), moments=("Began", "Noticed", "Over"), commands=("Command",)),
        *_summary(incident),
        *_actions(incident),
        *_impact(incident),
        *_causes(incident),
        *_timeline(incident),
        *_remedy(incident),
        *_lessons(incident),
        *_comparison(incident),
        *_provenance(incident),
    ]


def _summary(incident: Incident) -> list[Block]:
    written = incident.judgement.sections.get("Summary in plain words", "")
    blocks: list[Block] = [Heading("In short")]
    if written:
        blocks.append(Words(written, is_judged=True))
    blocks.append(Words(in_short(incident)))
    return [*blocks, incident.figure] if incident.figure else blocks


def _figure(picture: Picture, caption: str, name: str) -> Figure:
    return Figure(picture.png, caption, picture.alt, name, picture.svg)


def _impact(incident: Incident) -> list[Block]:
    blocks: list[Block] = [Heading("Impact")]
    if incident.recording is None:
        return [*blocks, Words("Not measured: there is no recording of this incident.")]
    found = postmortem.impact(incident.history, incident.recording, incident.after)
    rows = [
        [str(row["impact"]), *_measure(row["number"], str(row["unit"]))] for row in found.table().to_dict("records")
    ]
    minutes = (found.end - found.start).total_seconds() / 60
    if incident.cost_per_minute is not None:
        cost = f"{minutes * incident.cost_per_minute:,.2f}"
        rows.append([f"cost, at {incident.cost_per_minute:g} a minute", cost, incident.currency])
    return [*blocks, Table(["Impact", "Number", "Unit"], rows)]


def _causes(incident: Incident) -> list[Block]:
    said = incident.history.diagnosed
    blocks: list[Block] = [Heading("Causes, the likeliest first")]
    if "cause" not in said:
        return [*blocks, Words("No diagnosis has succeeded.")]
    if (ranking := recorded_table(said.get("ranking"))) is not None:
        blocks.append(_ranking(ranking))
    if reasons := said.get("reasons"):
        blocks.append(Words("\n\n".join(map(str, reasons))))
    if unchecked := said.get("not_checked"):
        blocks += [Heading("What was not checked", 3), Points([_words(one) for one in unchecked])]
    return blocks


def _ranking(ranking: pd.DataFrame) -> Table:
    """Return the causes with their evidence, in words and percent."""
    table = table_of(ranking, {"for": "Evidence for", "against": "Evidence against"})
    rows = [[_words(cell) for cell in row] for row in table.rows]
    if "probability" in ranking:
        place = list(ranking).index("probability")
        for row, probability in zip(rows, ranking["probability"], strict=True):
            row[place] = sure(float(probability))
    return Table(table.head, rows)


def _timeline(incident: Incident) -> list[Block]:
    lines = postmortem.timeline(incident.history)
    days = lines["time"].dt.strftime("%Y-%m-%d").unique()
    is_one_day = len(days) == 1
    blocks: list[Block] = [Heading(f"Timeline ({days[0]}, UTC)" if is_one_day else "Timeline (UTC)")]
    if incident.drawn_timeline:
        blocks.append(_figure(incident.drawn_timeline, "The incident in time.", "timeline"))
    lines["event"] = lines["event"].map(_words)
    lines["time"] = lines["time"].dt.strftime("%H:%M:%S" if is_one_day else "%Y-%m-%d %H:%M:%S")
    return [*blocks, table_of(lines, {})]


def _remedy(incident: Incident) -> list[Block]:
    repairs = postmortem.repairs(incident.history)
    blocks: list[Block] = [Heading("Remedy and recovery")]
    if repairs.empty:
        blocks.append(Words("No repair was asked for."))
    else:
        blocks.append(table_of(repairs, {}))
    for job in incident.history.jobs:
        recovery = (
            recorded_table(job.run.results["recovery"].value) if job.run and "recovery" in job.run.results else None
        )
        if recovery is not None:
            blocks += [
                Heading(f"The objective before, during and after: {job.name}", 3),
                table_of(with_intervals(recovery), {}),
            ]
    done = postmortem.actions(incident.history)
    if len(done):
        done["time"] = done["time"].dt.strftime("%Y-%m-%d %H:%M:%S")
        blocks += [Heading("What was done to the service", 3), table_of(done, {})]
    return blocks


def _actions(incident: Incident) -> list[Block]:
    listed = incident.judgement.actions
    if listed.empty:
        return []
    rows = [[str(row[name]) for name in ACTION_COLUMNS] for row in listed.to_dict("records")]
    head = [name.capitalize() for name in ACTION_COLUMNS]
    return [Heading("Actions"), Table(head, rows, is_judged=True)]


def _lessons(incident: Incident) -> list[Block]:
    blocks: list[Block] = [Heading("What people say")]
    for name in JUDGED:
        if written := incident.judgement.sections.get(name, ""):
            blocks += [Heading(name, 3), Words(written, is_judged=True)]
    if len(blocks) == 1:
        blocks.append(
            Words(f"Nobody has written anything yet; it belongs into incidents/{incident.history.id}/judgement.md.")
        )
    return blocks


def _comparison(incident: Incident) -> list[Block]:
    """Compare the results of the diagnosis with those of the previous incident of this kind."""
    previous, own = incident.previous, incident.history.diagnosis
    before = previous.diagnosis if previous else None
    if previous is None or before is None or own is None or before.run is None or own.run is None:
        return []
    rows = [
        [name, _shown(before.run.results.get(name)), _shown(own.run.results.get(name))]
        for name in dict.fromkeys([*before.run.results, *own.run.results])
        if _is_single(before.run.results.get(name)) and _is_single(own.run.results.get(name))
    ]
    changed = [row for row in rows if row[1] != row[2]]
    words = f"The previous one is {previous.id}. Of {len(rows)} single results of its diagnosis, {len(changed)} differ."
    blocks: list[Block] = [Heading("Compared with the previous incident of this kind"), Words(words)]
    if changed:
        blocks.append(Table(["Result", "Previous", "This one"], changed))
    return [*blocks, Code(f"lepton diff {before.run.run_id} {own.run.run_id}")]


def _provenance(incident: Incident) -> list[Block]:
    history = incident.history
    rested = postmortem.provenance(history)
    runs = [job.run.run_id for job in history.jobs if job.run]
    links = {n: f"../../runs/{quote(run)}/index.html" for n, run in enumerate(rested["run"]) if run in incident.linked}
    blocks: list[Block] = [
        Heading("Provenance"),
        Words(f"Everything but what is marked as written by people was derived by a machine: {history.made}."),
    ]
    if runs:
        blocks.append(replace(table_of(rested, {}), links=links))
    if history.missing:
        blocks += [Heading("What could not be had", 3), Points(history.missing)]
    commands = [f"lepton verify {run}" for run in runs] + [f"lepton publish --incident {history.id}"]
    return [*blocks, Code("\n".join(commands))]


# --- around the page ----------------------------------------------------------------------------------------------


def _card(incident: Incident) -> Card:
    history, facts = incident.history, facts_of(incident)
    cause = str(history.diagnosed.get("cause", "not diagnosed"))
    return Card(
        kind="incidents",
        id=history.id,
        title=history.alert.summary or f"{history.alert.name} on {history.service}",
        date=f"{history.onset or utc(history.alert.starts_at):%Y-%m-%d %H:%M:%S.%f}",
        description=in_short(incident),
        group=history.alert.name,
        categories=(cause, facts["Status"]),
        image_alt=incident.figure.alt if incident.figure else None,
        facts={
            "service": history.service, "cause": cause, "severity": history.alert.severity,
            "duration": facts["Lasted"], "status": facts["Status"],
            **({"time": f"demo time ×{history.time_scale:g}"} if history.time_scale != 1 else {}),
        },
    )  # fmt: skip


def _files(incident: Incident) -> dict[str, bytes | Path]:
    files: dict[str, bytes | Path] = {HISTORY: incident.history.model_dump_json(indent=1).encode()}
    if incident.figure:
        files[FIGURE] = incident.figure.content
    return files


def make_pdf(incident: Incident, blocks: Iterable[Block], folder: Path) -> bytes:
    """Return the page as a PDF, through Quarto's typst format.

    Raises
    ------
    InputError
        When there is no Quarto, or too old a one.
    LeptonError
        When Quarto fails.
    """
    found = find_quarto()
    if found is None:
        raise InputError(NO_QUARTO)
    card = _card(incident)
    words, pictures = as_markdown(blocks)
    matter = {"title": as_text(as_words(card.title)), "date": card.date[:19], "date-format": "YYYY-MM-DD HH:mm [UTC]"}
    for name, content in pictures.items():
        (folder / name).write_bytes(content)
    return render_pdf(found, folder, matter, words)


# --- values in words ----------------------------------------------------------------------------------------------


def _number(value: Any) -> str:
    """Return a number as it is read: three digits, or all before the point.

    >>> _number(2146.27), _number(5.8132), _number(None)
    ('2,146', '5.81', 'not known')
    """
    if value is None or pd.isna(value):
        return "not known"
    return f"{value:,.0f}" if float(value).is_integer() or abs(value) >= 1000 else f"{value:,.3g}"


def _words(text: Any) -> str:
    """Return names of code as words.

    >>> _words("stale_values: more")
    'stale values: more'
    """
    return str(text).replace("_", " ")


def _measure(number: Any, unit: str) -> tuple[str, str]:
    """Return a number and its unit as they are read; a share in percent.

    >>> _measure(0.000179, "1"), _measure(452.0, "requests")
    (('0.0179', '%'), ('452', 'requests'))
    """
    if unit == "1" and number is not None and not pd.isna(number):
        return f"{100 * number:,.3g}", "%"
    return _number(number), _unit(unit)


def _unit(unit: str) -> str:
    return "" if unit == "1" else unit


def _is_single(fact: Any) -> bool:
    return fact is None or isinstance(fact.value, bool | int | float | str)


def _shown(fact: Any) -> str:
    return "–" if fact is None else f"{plain_cell(fact.value)} {_unit(fact.unit)}".strip()
