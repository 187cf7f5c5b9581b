"""The commands around a service that answers over HTTP."""

from __future__ import annotations

from typing import Annotated

import typer

from lepton_kit.errors import InputError
from lepton_kit.runs.project import find_project


def serve(
    model: Annotated[str, typer.Argument(help="A model of the registry (models/), or MODEL@VERSION.")],
    workers: Annotated[int, typer.Option(help="Worker processes.")] = 1,
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.")] = 8000,
    host: Annotated[str, typer.Option(help="Address to listen at; loopback unless given.")] = "127.0.0.1",
    name: Annotated[str | None, typer.Option(help="The service's name; the model's unless given.")] = None,
    queue_limit: Annotated[int, typer.Option(help="Requests that may wait in a worker; more are told to wait.")] = 64,
) -> None:
    """Serve the promoted version of a model over HTTP."""
    from lepton_kit.serving.config import ServiceConfig
    from lepton_kit.serving.control import service_folder
    from lepton_kit.serving.supervisor import serve as serve_model

    project = find_project()
    model, _, version = model.partition("@")
    called = name or model
    folder = service_folder(project / "services", called)
    if not 1 <= queue_limit <= 100_000:
        raise InputError(f"--queue-limit {queue_limit}: must be from 1 to 100000")
    service = ServiceConfig(
        name=called, model=model, registry=project / "models", folder=folder, queue_limit=queue_limit
    )
    serve_model(service, host, port, workers, version or "current", announce=lambda line: print(line, flush=True))
