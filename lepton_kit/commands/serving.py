"""The commands around a service that answers over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lepton_kit.commands.terminal import AsJson, print_pairs, say
from lepton_kit.errors import InputError
from lepton_kit.runs.project import find_project

if TYPE_CHECKING:
    from lepton_kit.serving.replay import Summary


def register(
    name: Annotated[str, typer.Argument(help="Name of the model in the registry (models/).")],
    folder: Annotated[Path, typer.Argument(help="Folder or file of the model.")],
    flavor: Annotated[
        str | None, typer.Option(help="kit, onnx, skops, torch.export or mlflow; detected from the files if omitted.")
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="classification_binary, regression, …; from model.json if omitted.")
    ] = None,
    reference: Annotated[Path | None, typer.Option(help="Training rows with their true outcomes.")] = None,
    golden: Annotated[Path | None, typer.Option(help="Rows with the answers that the model must give.")] = None,
    target: Annotated[str | None, typer.Option(help="Column of --reference with the true outcomes.")] = None,
    note: Annotated[str, typer.Option(help="Note for the model card.")] = "",
    promote: Annotated[bool, typer.Option("--promote", help="Put the new version into use.")] = False,
) -> None:
    """Add a model to the registry as a new version."""
    from lepton_kit.models.registry import Registry
    from lepton_kit.models.registry import register as keep
    from lepton_kit.models.tasks import task_of
    from lepton_kit.ops.stored_models import send_version
    from lepton_kit.runs.store import TakenError, store_of

    project = find_project()
    registry = Registry(project / "models")
    version = keep(registry, name, folder, task_of(task) if task else None, flavor, reference, golden, target, note)
    if promote:
        registry.promote(name, version, "lepton register", note or "asked for by hand")
    print(f"model {name}: {version} is stored in {registry.folder(name, version)}")
    try:
        if (where := store_of(project)) is not None:
            print(f"model {name}: {version} is also in {send_version(project, name, version, where)}")
    except TakenError as error:
        say(f"warning: {error}; {version} of this host is in its own registry alone", stderr=True)
    except InputError as error:
        say(f"warning: {error}; to send it later: lepton export --model {name}@{version} --store", stderr=True)


def serve(
    model: Annotated[str, typer.Argument(help="A model of the registry (models/), or MODEL@VERSION.")],
    workers: Annotated[int, typer.Option(help="Worker processes.")] = 1,
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.")] = 8000,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    name: Annotated[str | None, typer.Option(help="Name of the service; the model's name if omitted.")] = None,
    queue_limit: Annotated[int, typer.Option(help="Requests that may wait in a worker; others get 429.")] = 64,
    fresh_for: Annotated[float, typer.Option(help="Seconds after which the newest data count as stale.")] = 5 * 86400,
    parent: Annotated[int | None, typer.Option(help="Stop when the process with this id ends.")] = None,
) -> None:
    """Serve the promoted version of a model over HTTP."""
    from lepton_kit.ops.stored_models import fetch_version
    from lepton_kit.serving.control import ServiceConfig, service_folder
    from lepton_kit.serving.supervisor import serve as serve_model

    project = find_project()
    model, _, version = model.partition("@")
    called = name or model
    folder = service_folder(project / "services", called)
    if not 1 <= queue_limit <= 100_000:
        raise InputError(f"--queue-limit {queue_limit}: must be from 1 to 100000")
    if not 0 < fresh_for <= 3650 * 86400:
        raise InputError(f"--fresh-for {fresh_for:g}: must be above 0 s, and at most ten years")
    service = ServiceConfig(
        name=called,
        model=model,
        registry=project / "models",
        folder=folder,
        queue_limit=queue_limit,
        fresh_seconds=fresh_for,
    )
    fetch_version(project, model, version)
    serve_model(service, host, port, workers, version or "current", lambda line: print(line, flush=True), parent)


def replay(
    service: Annotated[str, typer.Argument(help="A running service's name, or its address (http://127.0.0.1:8000).")],
    seconds: Annotated[float, typer.Option("--for", help="Seconds of load.")] = 60.0,
    requests: Annotated[int, typer.Option(help="Requests at most.")] = 1_000_000,
    rate: Annotated[float | None, typer.Option(help="Requests per second, on average.")] = None,
    speed: Annotated[float | None, typer.Option(help="How many times as fast as real arrivals.")] = None,
    source: Annotated[str | None, typer.Option(help="Table of the rows to send.")] = None,
    feedback_after: Annotated[float, typer.Option(help="Seconds until the actual value is reported.")] = 5.0,
    ratings: Annotated[float, typer.Option(help="Share of answers that get a made-up rating, 0 to 1.")] = 0.0,
    fault: Annotated[str | None, typer.Option(help="A fault to inject: stale-feed, units, …")] = None,
    fault_after: Annotated[float, typer.Option(help="Seconds until the fault begins.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Seed of the generator, the ratings and the fault.")] = 0,
    allow_remote: Annotated[bool, typer.Option("--allow-remote", help="Allow an address off this machine.")] = False,
    as_json: AsJson = False,
) -> None:
    """Send load to a service: real arrival times, rows of its subject, and actual values reported later."""
    import json

    from lepton_kit.ops.load import drive, find_arrivals
    from lepton_kit.serving.replay import Plan

    project = find_project()
    arrivals = find_arrivals(project, seed, rate, speed)
    plan = Plan(arrivals, seconds, requests, feedback_after, ratings, seed)
    made = drive(service, project, plan, source, fault, fault_after, allow_remote)
    if as_json:
        print(json.dumps(made.plain()))
    else:
        _print_summary(made)
    if made.answered == 0:
        raise typer.Exit(1)


def _print_summary(made: Summary) -> None:
    def counted(counts: dict[str, int]) -> str:
        return ", ".join(f"{name}: {count}" for name, count in counts.items()) or "none"

    facts = {
        "arrivals": made.source,
        "sent": f"{made.sent} in {made.seconds:.1f} s ({made.rate:.1f}/s)",
        "answered": f"{made.answered}; by status {counted(made.by_status)}; by version {counted(made.by_version)}",
        "latency": f"p50 {made.latency_p50:.1f} ms, p95 {made.latency_p95:.1f} ms, p99 {made.latency_p99:.1f} ms,"
        " from the time a request was due to the end of its answer",
        "feedback": counted(made.feedback),
        "generator": f"p99 {made.late_p99:.1f} ms late",
    }
    print_pairs("load", facts | ({"warning": made.warning} if made.warning else {}))


def deploy(
    service: Annotated[str, typer.Argument(help="A running service's name.")],
    version: Annotated[str, typer.Argument(help="Version to deploy; the promoted one if omitted.")] = "current",
    steps: Annotated[str, typer.Option(help="Growing shares of the requests, in percent.")] = "5,25,50,100",
    step_seconds: Annotated[float, typer.Option(help="Seconds per step, under the service's own requests.")] = 60,
) -> None:
    """Deploy a version to a running service in steps, compare it with the old one, and promote it or roll it back."""
    from lepton_kit.ops.deployment import deploy_to

    made = deploy_to(service, find_project(), version, _shares(steps), step_seconds)
    print(f"service {service}: {made.new} {made.outcome}: {made.reason}")
    if made.outcome != "promoted":
        raise typer.Exit(1)


def rollback(
    service: Annotated[str, typer.Argument(help="A service's name, or a model's.")],
    reason: Annotated[str, typer.Option(help="Why, for the records.")] = "asked for by hand",
) -> None:
    """Roll a service back to its last good version, whether it is running or not."""
    from lepton_kit.ops.deployment import rollback as take_back

    print(take_back(service, find_project(), "lepton rollback", reason))


def undo(
    service: Annotated[str, typer.Argument(help="A running service's name.")],
    by: Annotated[str | None, typer.Option(help="Who decides; user and host if omitted.")] = None,
    note: Annotated[str, typer.Option(help="Why, for the records.")] = "",
) -> None:
    """Undo the last repair action on a service: its version, workers and input fixes are restored."""
    from lepton_kit.ops.operator import undo as take_back
    from lepton_kit.ops.watch.approvals import this_user

    print(take_back(service, find_project(), by or this_user(), note))


def _shares(steps: str) -> tuple[float, ...]:
    try:
        return tuple(float(step) / 100 for step in steps.split(","))
    except ValueError as error:
        raise InputError(f"--steps {steps!r}: must be percentages such as 5,25,50,100") from error
