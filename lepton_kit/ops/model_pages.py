"""The card of a version of a model as a page: what it learnt from, how it was judged, and what it is not good for."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd

from lepton_kit.errors import InputError
from lepton_kit.files import SINGLE_NAME
from lepton_kit.models.flavors import CHECKSUMS
from lepton_kit.models.registry import COMPRESSED_FROM, Registry, read_candidate
from lepton_kit.ops.page_tables import plain_cell, recorded_table, table_of
from lepton_kit.project.settings import read_settings
from lepton_kit.reports.blocks import Block, Code, Facts, Figure, Heading, Table, Words, as_page
from lepton_kit.reports.cards import FIGURE, Card, place, published
from lepton_kit.reports.pictures import Picture
from lepton_kit.reports.publish import reports_folder
from lepton_kit.reports.story import first_figure
from lepton_kit.runs.manifest import FILE, Manifest, load_run
from lepton_kit.runs.notebooks import read_notebook

MODELS = "models"
DECISION = "decision.json"
"""The artifact of an evaluation that says of a version what the gate decided."""

TOLD_ELSEWHERE = {
    "name", "created", "run_id", "purpose", "limits", "data", "parameters", "validation_metrics", "test_metrics",
    "gate", "table", COMPRESSED_FROM, "compression",
}  # fmt: skip
"""Lines of a model card that have a place of their own on the page; all others stand in its facts as they are."""


@dataclass(frozen=True)
class Evaluation:
    """What the gate decided of a version, and the run in which it did (None where the run is gone)."""

    decision: Mapping[str, Any]
    run: Manifest | None


@dataclass(frozen=True)
class Version:
    """All that a page of a version is made of.

    `standing` says whether it is in use, `problem` what is wrong with its files (empty: they are as their checksums
    say), `promotions` every promotion to it and rollback to it, `linked` the runs that have a page on the site.
    """

    name: str
    version: str
    card: Mapping[str, Any]
    standing: str
    problem: str
    checksums: Sequence[tuple[str, str]]
    promotions: Sequence[Mapping[str, Any]]
    evaluation: Evaluation | None
    trained: Manifest | None
    figure: Picture | None
    services: Sequence[str]
    linked: Collection[str]

    @property
    def id(self) -> str:
        """Return its name as commands take it, such as `goog@v1`."""
        return f"{self.name}@{self.version}"


def publish_model(project: Path, given: str) -> list[Card]:
    """Publish the card of a version (`goog@v1`), or of every version of a model (`goog`).

    Cards of other versions of the model that are published already are made anew: which one is in use may have changed.

    Raises
    ------
    InputError
        When there is no such model or version, or its card cannot be read; nothing is published then.
    """
    name, _, version = given.partition("@")
    registry = Registry(project / MODELS)
    known = registry.versions(name)
    if not known:
        raise InputError(f"model {name!r}: no version of it in {registry.root}")
    if version and version not in known:
        raise InputError(f"model {given!r}: no such version in {registry.root}; there are {', '.join(known)}")
    return _publish(project, registry, name, {version} if version else set(known))


def publish_promoted(project: Path) -> list[Card]:
    """Publish the card of the version in use of each model, and make those anew that are published already.

    Raises
    ------
    InputError
        When a registry or a card cannot be read.
    """
    registry = Registry(project / MODELS)
    names = sorted(path.parent.name for path in registry.root.glob("*/history.jsonl"))
    return [
        card
        for name in names
        if (promoted := registry.current(name))
        for card in _publish(project, registry, name, {promoted})
    ]


def _publish(project: Path, registry: Registry, name: str, wanted: set[str]) -> list[Card]:
    reports = reports_folder(project)
    there = published(reports)
    linked = {card.id for card in there if card.kind == "runs"}
    again = {card.id.partition("@")[2] for card in there if card.kind == "models" and card.group == name}
    chosen = [one for one in registry.versions(name) if one in wanted | again]
    decisions = decisions_of(project, name)
    versions = [read_version(project, registry, name, one, decisions.get(one), linked) for one in chosen]
    made = [(_card(one), page_blocks(one), _files(one, registry)) for one in versions]
    return [place(reports, card, as_page(card, blocks, files), files) for card, blocks, files in made]


def decisions_of(project: Path, name: str) -> dict[str, Path]:
    """Return for each version of a model the newest decision of an evaluation; ids of runs are in order of time."""
    found = {}
    for path in sorted((project / "runs").glob(f"*/artifacts/{DECISION}")):
        try:
            decided = read_candidate(path)
        except InputError:  # a notebook of one's own may leave such a file for something else
            continue
        if decided["name"] == name:
            found[decided["version"]] = path
    return found


def read_version(
    project: Path, registry: Registry, name: str, version: str, decision: Path | None, linked: Collection[str]
) -> Version:
    """Read all that is known of a version.

    Raises
    ------
    InputError
        When its card or the registry's history cannot be read.
    """
    card = registry.card(name, version)
    evaluation = Evaluation(read_candidate(decision), _run(project, decision.parents[1].name)) if decision else None
    services = read_settings(project).services.items()
    return Version(
        name=name,
        version=version,
        card=card,
        standing=_standing(registry, name, version, evaluation),
        problem=_problem(registry, name, version),
        checksums=_checksums(registry.folder(name, version)),
        promotions=[entry for entry in registry.history(name) if entry["version"] == version],
        evaluation=evaluation,
        trained=_run(project, str(card.get("run_id", ""))),
        figure=_figure(project, evaluation),
        services=[service for service, settings in services if settings.registered == name],
        linked=linked,
    )


def _run(project: Path, run_id: str) -> Manifest | None:
    path = project / "runs" / run_id / FILE
    return load_run(run_id, project) if SINGLE_NAME.fullmatch(run_id) and path.is_file() else None


def _standing(registry: Registry, name: str, version: str, evaluation: Evaluation | None) -> str:
    if registry.current(name) == version:
        return "in use"
    if any(entry["version"] == version for entry in registry.history(name)):
        return "earlier"
    if evaluation and not evaluation.decision.get("promoted"):
        return "refused"
    return "compressed" if registry.card(name, version).get(COMPRESSED_FROM) else "candidate"


STANDINGS = {
    "in use": "in use: the version that answers",
    "earlier": "earlier: it was in use, and may be gone back to",
    "refused": "refused: the gate did not let it pass",
    "compressed": "compressed: stands in for a larger version where time is short",
    "candidate": "candidate: not judged yet",
}


def _problem(registry: Registry, name: str, version: str) -> str:
    try:
        registry.verify(name, version)
    except InputError as error:
        return str(error).replace(f"{registry.root}/", "")
    return ""


def _checksums(folder: Path) -> list[tuple[str, str]]:
    path = folder / CHECKSUMS
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    return [(name, checksum) for checksum, _, name in (line.partition("  ") for line in lines)]


def _figure(project: Path, evaluation: Evaluation | None) -> Picture | None:
    if evaluation is None or evaluation.run is None:
        return None
    path = evaluation.run.folder(project) / "notebook.ipynb"
    return first_figure(read_notebook(path)) if path.is_file() else None


# --- the page -----------------------------------------------------------------------------------------------------


def page_blocks(version: Version) -> list[Block]:
    """Return the page of a version, from its facts to its provenance."""
    return [
        Facts(_facts(version), moments=("Made",)),
        Heading("In short"),
        Words(_in_short(version)),
        *_evaluation(version),
        *_learnt(version),
        *_settings(version),
        *_compression(version),
        *_promotions(version),
        *_checks(version),
        *_provenance(version),
    ]


def _facts(version: Version) -> dict[str, str]:
    card = version.card
    more = {
        str(name).capitalize(): plain_cell(value)
        for name, value in card.items()
        if name not in TOLD_ELSEWHERE and isinstance(value, str | int | float)
    }
    return {
        "Model": version.name,
        "Version": version.version,
        "Standing": STANDINGS[version.standing],
        "Gate": _gate_in_words(version),
        "Serves": ", ".join(version.services),
        "Purpose": str(card.get("purpose", "")),
        "Limits": str(card.get("limits", "")),
        **more,
        "Compressed from": str(card.get(COMPRESSED_FROM, "")),
        "Made": _moment(card.get("created")),
        "Files": version.problem or f"{len(version.checksums)}, all as their checksums say",
    }


def _in_short(version: Version) -> str:
    sentences = [f"{version.id} is {STANDINGS[version.standing].partition(':')[0]}."]
    days = _days(version.card.get("data"))
    if "train" in days:
        sentences.append(f"It learnt from {days['train'][0]} to {days['train'][1]}.")
    if version.evaluation:
        reasons = [str(reason) for reason in version.evaluation.decision.get("reasons") or []]
        passed = "let it pass" if version.evaluation.decision.get("promoted") else "refused it"
        sentences.append(f"The gate {passed}" + (f": {'; '.join(reasons)}." if reasons else "."))
    elif said := version.card.get("gate"):
        sentences.append(f"The gate: {'; '.join(map(str, said))}.")
    else:
        sentences.append("No evaluation has judged it.")
    if version.problem:
        sentences.append("Its files are not those that were kept.")
    if limits := version.card.get("limits"):
        sentences.append(f"Limits: {limits}.")
    return " ".join(sentences)


def _gate_in_words(version: Version) -> str:
    if version.evaluation:
        return "passed" if version.evaluation.decision.get("promoted") else "refused"
    return "judged by the run that made it" if version.card.get("gate") else "not judged"


def _evaluation(version: Version) -> list[Block]:
    blocks: list[Block] = [Heading("How it was judged")]
    if metrics := version.card.get("test_metrics"):
        blocks.append(Table(["On days it had not seen", "Value"], _flat(metrics)))
    evaluation = version.evaluation
    if evaluation is None:
        return (
            [*blocks, Words("There is no evaluation of it among this project's runs.")] if len(blocks) == 1 else blocks
        )
    if version.figure:
        drawn = version.figure
        caption = "On days it had not seen: the figure of its evaluation."
        blocks.append(Figure(drawn.png, caption, drawn.alt, "evaluation", drawn.svg))
    results = evaluation.run.results if evaluation.run else {}
    scores = recorded_table(results["test_scores"].value) if "test_scores" in results else None
    if scores is not None:
        blocks += [Words(f"Units: {results['test_scores'].unit}."), table_of(_readable(scores), {})]
    elif metrics := evaluation.decision.get("test_metrics"):
        blocks.append(Table(["On days it had not seen", "Value"], _flat(metrics)))
    gate = recorded_table(results["gate"].value) if "gate" in results else None
    if gate is not None:
        blocks += [
            Heading("The gate", 3),
            Words("Difference of the interval score, as a share of the opponent's, and its interval; below 0: better."),
            table_of(gate, {"lower": "From", "upper": "To", "passed": "Passed"}),
        ]  # fmt: skip
    run = str(evaluation.decision.get("run_id", ""))
    return [*blocks, *_run_table(version, {"judged it": run})]


def _learnt(version: Version) -> list[Block]:
    card, data = version.card, version.card.get("data")
    days = _days(data)
    rows = [[f"{part} days", f"{first} to {last}"] for part, (first, last) in days.items()]
    if version.trained:
        results = version.trained.results
        rows += [
            [f"rows to {what}", f"{results[name].value:,} {results[name].unit}"]
            for name, what in (("training_days", "learn from"), ("validation_days", "choose by"))
            if name in results
        ]
    table = str(card.get("table", ""))
    rows += [["table", table]] * bool(table)
    if isinstance(data, Mapping) and "sha256" in data:
        rows.append(["SHA-256 of the table", str(data["sha256"])])
    elif not isinstance(data, Mapping):
        rows += [["data", str(data)]] * bool(data)
    made = _run_table(version, {"made it": str(card.get("run_id", ""))})
    return [Heading("What it learnt from"), *([Table(["Data", "Value"], rows)] if rows else []), *made]


def _settings(version: Version) -> list[Block]:
    blocks: list[Block] = []
    for heading, key in (("Settings", "parameters"), ("Validation scores", "validation_metrics")):
        if held := version.card.get(key):
            blocks += [Heading(heading), Table([heading.removesuffix("s"), "Value"], _flat(held))]
    return blocks


def _compression(version: Version) -> list[Block]:
    held = version.card.get("compression")
    return [Heading("Compression"), Table(["Against its teacher", "Value"], _flat(held))] if held else []


def _promotions(version: Version) -> list[Block]:
    if not version.promotions:
        return []
    rows = [
        [_moment(one["time"]), one["action"], one.get("reason", ""), one.get("run_id", "")]
        for one in version.promotions
    ]
    return [
        Heading("When it was put in use"),
        Table(["Time", "By", "Why", "Run"], [[str(c) for c in row] for row in rows]),
    ]


def _checks(version: Version) -> list[Block]:
    blocks: list[Block] = [Heading("Files and checksums")]
    if version.problem:
        blocks.append(Words(f"Not as they were kept: {version.problem}"))
    return [*blocks, Table(["File", "SHA-256"], [list(row) for row in version.checksums])]


def _provenance(version: Version) -> list[Block]:
    runs = [run.run_id for run in (version.trained, version.evaluation.run if version.evaluation else None) if run]
    commands = [f"lepton verify {run}" for run in runs]
    commands += [f"lepton serve {version.id}", f"lepton publish --model {version.id}"]
    told = "Everything on this page was read from the registry and from the runs that made and judged the version."
    return [Heading("Provenance"), Words(told), Code("\n".join(commands))]


def _run_table(version: Version, runs: Mapping[str, str]) -> list[Block]:
    """Return runs with what they did, each linked to its page where it has one."""
    rows = [[run, what] for what, run in runs.items() if run]
    links = {
        number: f"../../runs/{quote(row[0])}/index.html" for number, row in enumerate(rows) if row[0] in version.linked
    }
    return [Table(["Run", "What it did"], rows, links)] if rows else []


def _days(data: Any) -> dict[str, tuple[str, str]]:
    """Return the first and last day of each part of the data that a card tells of."""
    if not isinstance(data, Mapping):
        return {}
    pairs = {part: days for part, days in data.items() if isinstance(days, list | tuple) and len(days) == 2}
    return {str(part): (str(days[0])[:10], str(days[1])[:10]) for part, days in pairs.items()}


def _readable(scores: pd.DataFrame) -> pd.DataFrame:
    return scores.rename(columns=lambda name: str(name).replace("_", " "))


def _flat(held: Any, before: str = "") -> list[list[str]]:
    """Return names and values of nested lines, in one table.

    >>> _flat({"loss": {"mean": 0.1}, "may_stand_in": True})
    [['loss, mean', '0.1'], ['may stand in', 'yes']]
    """
    if not isinstance(held, Mapping):
        return [[before, plain_cell(held)]]
    lines = []
    for name, value in held.items():
        words = str(name).replace("_", " ")
        lines += _flat(value, f"{before}, {words}" if before else words)
    return lines


def _moment(time: Any) -> str:
    """Return a time of the registry (ISO 8601) as people write it."""
    try:
        return f"{datetime.fromisoformat(str(time)).astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
    except ValueError:
        return ""


# --- around the page ----------------------------------------------------------------------------------------------


def _card(version: Version) -> Card:
    return Card(
        kind="models",
        id=version.id,
        title=f"{version.name} {version.version}",
        date=f"{_moment(version.card.get('created')).removesuffix(' UTC') or '1970-01-01 00:00:00'}.000000",
        description=_in_short(version),
        group=version.name,
        categories=(version.standing,),
        image_alt=version.figure.alt if version.figure else None,
        facts={"standing": version.standing, "gate": _gate_in_words(version)},
    )


def _files(version: Version, registry: Registry) -> dict[str, bytes | Path]:
    folder = registry.folder(version.name, version.version)
    files: dict[str, bytes | Path] = {"model-card.json": folder / "card.json"}
    if (folder / CHECKSUMS).is_file():
        files[CHECKSUMS] = folder / CHECKSUMS
    if version.figure:
        files[FIGURE] = version.figure.png
    return files
