"""`lepton slo`: the project's service level objectives."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from lepton_kit.commands.terminal import new_console, table
from lepton_kit.runs.project import find_project

app = typer.Typer(help="Service level objectives (slo/*.yaml, OpenSLO v1).", no_args_is_help=True)


@app.command("list")
def list_objectives() -> None:
    """List the project's objectives."""
    from lepton_kit.telemetry.slo import read_objectives

    listed = table("objective", "service", "target", "window", "meaning")
    for one in read_objectives(find_project() / "slo"):
        window = f"{one.window / 86400:g} d"
        listed.add_row(one.name, escape(one.service), f"{one.target:.6g}", window, escape(one.description))
    new_console().print(listed)


@app.command("rules")
def rules(
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File to write; printed unless given.")] = None,
    runbook_url: Annotated[
        str, typer.Option(help="Address of an alert's runbook; {alert} stands for the alert's name.")
    ] = "http://127.0.0.1:8088/runbooks/{alert}",
    time_scale: Annotated[float, typer.Option(help="Shorten all windows so many times, for demonstrations.")] = 1.0,
) -> None:
    """Write Prometheus recording and alerting rules of the project's objectives."""
    from lepton_kit.files import write_atomically
    from lepton_kit.telemetry.rules import prometheus_rules
    from lepton_kit.telemetry.slo import read_objectives

    text = prometheus_rules(read_objectives(find_project() / "slo"), runbook_url, time_scale)
    if output is None:
        print(text, end="")
    else:
        write_atomically(output, text)
