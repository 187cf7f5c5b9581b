"""`lepton export`: runs, and which version of a service served when, for the tools that people have."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lepton_kit.commands.terminal import say
from lepton_kit.errors import InputError
from lepton_kit.runs.project import find_project

if TYPE_CHECKING:
    from lepton_kit.runs.targets import Target


def export(
    runs: Annotated[
        list[str] | None, typer.Argument(help="Runs: ids, the ends of these, or notebooks' names (the newest run).")
    ] = None,
    mlflow: Annotated[bool, typer.Option("--mlflow", help="To an MLflow server.")] = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="As event files for TensorBoard.")] = False,
    openlineage: Annotated[bool, typer.Option("--openlineage", help="As OpenLineage events.")] = False,
    opentelemetry: Annotated[bool, typer.Option("--opentelemetry", help="As OpenTelemetry traces (OTLP).")] = False,
    ro_crate: Annotated[bool, typer.Option("--ro-crate", help="As an RO-Crate (Process Run Crate).")] = False,
    store: Annotated[bool, typer.Option("--store", help="To the store from which other machines fetch runs.")] = False,
    tracker: Annotated[
        list[str] | None,
        typer.Option("--tracker", metavar="NAME", help="To one that lepton.toml names."),
    ] = None,
    service: Annotated[
        str | None, typer.Option(help="Tell MLflow which version of this service served when, in place of runs.")
    ] = None,
    incident: Annotated[
        str | None, typer.Option(help="Send the recordings of this incident (its id) to the store, in place of runs.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Send a model's promoted version, or MODEL@VERSION, to the store.")
    ] = None,
    to: Annotated[
        str | None,
        typer.Option("--to", metavar="WHERE", help="Address or folder, in place of the one in lepton.toml."),
    ] = None,
) -> None:
    """Write runs, or a service's deployments, where other tools look for them."""
    from lepton_kit.runs.manifest import find_run
    from lepton_kit.runs.store import STORE
    from lepton_kit.runs.targets import Target, set_targets
    from lepton_kit.runs.trackers import DEFAULTS, track

    project = find_project()
    flags = {"mlflow": mlflow, "tensorboard": tensorboard, "openlineage": openlineage, "opentelemetry": opentelemetry}
    flags |= {"ro-crate": ro_crate, "store": store}
    targets = set_targets(project)
    wanted = [*(name for name, is_wanted in flags.items() if is_wanted), *(tracker or [])] or list(targets)
    if not wanted:
        raise InputError(f"nowhere to write to: give {', '.join(f'--{name}' for name in flags)} or --tracker")
    if to is not None and len(wanted) > 1:
        raise InputError(f"--to {to!r}: stands for one tracker; asked for are {', '.join(wanted)}")
    if bool(runs) + sum(one is not None for one in (service, incident, model)) != 1:
        raise InputError(
            "give either runs, or a service by --service, an incident by --incident, or a version by --model"
        )
    for option, given, only in (("incident", incident, STORE), ("model", model, STORE), ("service", service, "mlflow")):
        if given is not None and wanted != [only]:
            raise InputError(f"--{option}: goes to --{only} alone; asked for are {', '.join(wanted)}")
    found = [find_run(name, project) for name in runs or []]
    for name in wanted:
        target = targets.get(name, Target(to=DEFAULTS.get(name, "")))
        target = target if to is None else target.model_copy(update={"to": to})
        for line in _copied(project, target, service, incident, model):
            say(line)
        for run in found:
            say(f"{run.run_id}: {track(run, project, name, target)}")


def _copied(
    project: Path, target: Target, service: str | None, incident: str | None, model: str | None
) -> Iterator[str]:
    """Copy what is no run, and yield where it is."""
    if service is not None:
        from lepton_kit.ops.served import export_served  # telemetry, which runs need not

        yield export_served(service, project, target.address(project))
    if incident is not None:
        from lepton_kit.ops.watch.evidence import send_recordings

        yield from send_recordings(incident, project, target.address(project))
    if model is not None:
        from lepton_kit.ops.stored_models import send_version

        name, _, version = model.partition("@")
        yield send_version(project, name, version or "current", target.address(project))
