"""`lepton capture`: freezes what is known of a service's incident into a recording."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from lepton_kit.commands.terminal import new_console
from lepton_kit.errors import InputError
from lepton_kit.runs.project import find_project


def capture(
    service: Annotated[str, typer.Argument(help="A service's name, as in lepton.toml or services/.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the recording to write.")],
    begin: Annotated[
        str, typer.Option("--from", help="UTC time such as 2026-11-25T03:00, or an age such as 30m.")
    ] = "1h",
    until: Annotated[str, typer.Option("--to", help="End, in the same form.")] = "now",
    source: Annotated[
        str | None, typer.Option(help="Telemetry store's folder or a Prometheus address; from lepton.toml if omitted.")
    ] = None,
) -> None:
    """Freeze an incident of a service into a recording, for the runbooks to read."""
    from lepton_kit.diagnosis.capture import capture as freeze
    from lepton_kit.ops.watch.evidence import promises_of, source_to_capture
    from lepton_kit.project.declarations import declared
    from lepton_kit.project.settings import read_settings
    from lepton_kit.telemetry.prometheus import open_source

    project = find_project()
    if output.exists() and not (output / "incident.json").is_file() and (not output.is_dir() or any(output.iterdir())):
        raise InputError(f"--output {str(output)!r}: exists and is not a recording; nothing is overwritten")
    window = seconds_of("--from", begin), seconds_of("--to", until)
    settings = read_settings(project)
    declaration, promises = declared(project, service, settings), promises_of(service, settings, project)
    opened = open_source(source, project) if source else source_to_capture(settings, project)
    held = freeze(service, declaration, project, opened, *window, output, (), promises, settings.capture.key)
    console = new_console()
    console.print(f"recording {escape(str(output))}: {len(held.requests)} requests, {len(held.metrics)} samples")
    provenance = held.incident.provenance
    for line in (*provenance.measured, *provenance.derived, *held.problems):
        console.print(f"  {escape(line)}")


def seconds_of(option: str, text: str) -> float:
    """Return the Unix time of an ISO 8601 time (UTC unless it says its zone), of `now`, or of a duration ago."""
    import time

    import pandas as pd

    from lepton_kit.telemetry.slo import duration_seconds

    if text == "now":
        return time.time()
    try:
        return time.time() - duration_seconds(text)
    except InputError:
        pass
    try:
        moment = pd.Timestamp(text)
    except ValueError as error:
        raise InputError(
            f"{option} {text!r}: must be a time such as 2026-11-25T03:00, or an age such as 30m"
        ) from error
    return float((moment.tz_localize("UTC") if moment.tzinfo is None else moment).timestamp())
