"""Pages of models and of drills: each is a runbook that was run for it, and is run again when what it reads changed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lepton_kit.errors import InputError, LeptonError
from lepton_kit.files import SINGLE_NAME
from lepton_kit.models.registry import Registry, read_candidate
from lepton_kit.ops.drill_results import read_results
from lepton_kit.ops.watch.status import PAGE_TRIGGER
from lepton_kit.project.pipeline import unchanged_run
from lepton_kit.project.settings import read_settings
from lepton_kit.reports.cards import Card, published
from lepton_kit.reports.publish import card_of, publish_as, reports_folder
from lepton_kit.runs.manifest import FILE, Manifest
from lepton_kit.runs.notebooks import locate_notebook
from lepton_kit.runs.runner import Options, Request, execute, prepare

MODELS = "models"
DECISION = "decision.json"
"""The artifact of an evaluation that says of a version what the gate decided."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def publish_model(project: Path, given: str) -> list[Card]:
    """Publish the card of a version (`goog@v1`), or of every version of a model (`goog`).

    Cards of other versions of the model that are published already are made anew: which one is in use may have changed.

    Raises InputError when there is no such model or version. Raises LeptonError when the run of its runbook does not
    succeed, such as where its card cannot be read.
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

    Raises InputError when a registry cannot be read. Raises LeptonError when the run of the runbook of one does not
    succeed.
    """
    registry = Registry(project / MODELS)
    names = sorted(path.parent.name for path in registry.root.glob("*/history.jsonl"))
    return [
        card
        for name in names
        if (promoted := registry.current(name))
        for card in _publish(project, registry, name, {promoted})
    ]


def publish_drills(project: Path, path: Path) -> Card:
    """Publish results of drills, in place of an earlier page of the same file.

    Raises InputError when the file cannot be read or holds no drill, or its name cannot be that of a page. Raises
    LeptonError when the run of its runbook does not succeed.
    """
    results = read_results(path)
    if not (count := len(results.drills)):
        raise InputError(f"{path}: holds no drill, so there is nothing to show")
    if not NAME.fullmatch(path.stem):
        raise InputError(f"{path}: its name becomes that of its page: only letters, digits, '-', '_' and '.'")
    whole = path.resolve()
    given = whole.relative_to(project).as_posix() if whole.is_relative_to(project) else str(whole)
    run = _succeeded(project, "drill-scores", {"results": given})
    said = {name: result.value for name, result in run.results.items()}
    card = replace(
        card_of(run),
        kind="drills",
        id=path.stem,
        title=f"{count} {results.kind} drill{'s' * (count != 1)}",
        date=f"{results.made.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f}",
        description=said["summary"],
        group="drills",
        categories=(results.kind,),
        facts={
            "kind": results.kind, "drills": str(count), "macro-f1": f"{said['macro_f1']:.3f}",
            "ended": f"{said['ended_well']} of {count}",
        },
    )  # fmt: skip
    return publish_as(card, run, project, with_pages(project))


def _publish(project: Path, registry: Registry, name: str, wanted: set[str]) -> list[Card]:
    again = {
        card.id.partition("@")[2]
        for card in published(reports_folder(project))
        if card.kind == "models" and card.group == name
    }
    decisions = _decisions(project, name)
    runs = {
        version: _succeeded(
            project, "model-card", _parameters(project, registry, name, version, decisions.get(version))
        )
        for version in registry.versions(name)
        if version in wanted | again
    }
    known = with_pages(project)
    return [
        publish_as(_model_card(run, registry.card(name, version)), run, project, known) for version, run in runs.items()
    ]


def _model_card(run: Manifest, card: Mapping[str, Any]) -> Card:
    said = {name: result.value for name, result in run.results.items()}
    try:
        made = datetime.fromisoformat(str(card.get("created")))
    except ValueError:  # a card that somebody wrote by hand
        made = run.started
    return replace(
        card_of(run),
        kind="models",
        id=f"{said['model']}@{said['version']}",
        title=f"{said['model']} {said['version']}",
        date=f"{made.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f}",
        description=said["summary"],
        group=said["model"],
        categories=(said["standing"],),
        facts={"standing": said["standing"], "gate": said["gate"]},
    )


def _parameters(project: Path, registry: Registry, name: str, version: str, evaluation: Path | None) -> dict[str, Any]:
    """Return what the runbook of a version reads, each path relative to the project."""
    history = registry.root / name / "history.jsonl"
    made = str(registry.card(name, version).get("run_id", ""))
    training = project / "runs" / made if SINGLE_NAME.fullmatch(made) else None
    services = read_settings(project).services.items()
    read = {
        "version": registry.folder(name, version),
        "history": history if history.is_file() else None,
        "evaluation": evaluation,
        "training": training if training and (training / FILE).is_file() else None,
    }
    return {
        **{key: path.relative_to(project).as_posix() if path else None for key, path in read.items()},
        "serves": [service for service, settings in services if settings.registered == name],
    }


def _decisions(project: Path, name: str) -> dict[str, Path]:
    """Return for each version of a model the newest run that judged it; ids of runs are in order of time."""
    found = {}
    for path in sorted((project / "runs").glob(f"*/artifacts/{DECISION}")):
        try:
            decided = read_candidate(path)
        except InputError:  # a notebook of one's own may leave such a file for something else
            continue
        if decided["name"] == name and (path.parents[1] / FILE).is_file():
            found[decided["version"]] = path.parents[1]
    return found


def with_pages(project: Path) -> set[str]:
    """Return the ids of the runs that have a page."""
    return {card.id for card in published(reports_folder(project)) if card.kind == "runs"}


def run_of(project: Path, runbook: str, parameters: Mapping[str, Any], timeout: float | None = None) -> Manifest:
    """Return a run of a runbook with these parameters: an earlier one that succeeded, where it has read the same."""
    plan = prepare(
        Request(locate_notebook(runbook, project), parameters, "lepton publish", trigger=PAGE_TRIGGER), project
    )
    return unchanged_run(plan, project) or execute(plan, project, options=Options(timeout=timeout))


def _succeeded(project: Path, runbook: str, parameters: Mapping[str, Any]) -> Manifest:
    run = run_of(project, f"runbooks/{runbook}.ipynb", parameters)
    if run.status != "succeeded":
        why = run.error.message if run.error else run.status
        raise LeptonError(f"{runbook}: run {run.run_id} {run.status.replace('_', ' ')}: {why}")
    return run
