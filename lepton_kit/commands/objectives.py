"""`lepton slo`: the project's service level objectives."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from lepton_kit.commands.terminal import new_console, table
from lepton_kit.runs.project import find_project

if TYPE_CHECKING:
    from lepton_kit.telemetry.burn_rates import Burn, Status
    from lepton_kit.telemetry.slo import Objective

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
        str | None, typer.Option(help="Address of runbooks, {alert} for the alert's name; that of `lepton watch`.")
    ] = None,
    time_scale: Annotated[float, typer.Option(help="Shorten all windows so many times, for demonstrations.")] = 1.0,
) -> None:
    """Write Prometheus recording and alerting rules of the project's objectives."""
    from lepton_kit.files import write_atomically
    from lepton_kit.telemetry.rules import RUNBOOK_URL, prometheus_rules
    from lepton_kit.telemetry.slo import read_objectives

    text = prometheus_rules(read_objectives(find_project() / "slo"), runbook_url or RUNBOOK_URL, time_scale)
    if output is None:
        print(text, end="")
    else:
        write_atomically(output, text)


@app.command("status")
def status(
    source: Annotated[str, typer.Option(help="Folder of the telemetry store, or a Prometheus' address.")] = "telemetry",
    time_scale: Annotated[float, typer.Option(help="Shorten all windows so many times, for demonstrations.")] = 1.0,
) -> None:
    """Show each objective's burn rates, the alerts that they raise, and the error budget that is left."""
    from lepton_kit.telemetry.burn_rates import WINDOWS, Memory, evaluate
    from lepton_kit.telemetry.rules import window_name
    from lepton_kit.telemetry.slo import read_objectives
    from lepton_kit.telemetry.sources import open_source

    project = find_project()
    objectives = read_objectives(project / "slo")
    opened = open_source(source, project)
    memory, now = Memory(opened), time.time()
    windows = [f"{window_name(window.long)} / {window_name(window.short)}" for window in WINDOWS]
    shown = table("objective", "service", "target", *windows, "firing", "budget left")
    for one in objectives:
        found = evaluate(one, opened, now, time_scale, memory)
        burns = (_burn(burn, one) for burn in found.burns)
        shown.add_row(one.name, escape(one.service), f"{one.target:.6g}", *burns, *_end(found))
    console = new_console()
    console.print(shown)
    scaled_by = "" if time_scale == 1 else f", shortened {time_scale:g} times"
    console.print(
        f"burn rates in both windows{scaled_by}, where 1 spends the budget just in its time; * too few events to alert",
        highlight=False,
    )


def _burn(burn: Burn, objective: Objective) -> str:
    rates = [_rate(ratio, objective.budget) for ratio in (burn.long_ratio, burn.short_ratio)]
    text = " / ".join(rates) + (" *" if 0 < burn.events < objective.minimum else "")
    return f"[red]{text}[/]" if burn.is_firing else text


def _rate(bad_ratio: float | None, budget: float) -> str:
    return "–" if bad_ratio is None else f"{bad_ratio / budget:.3g}"


def _end(found: Status) -> tuple[str, str]:
    left = found.budget_left
    firing = f"[red]{', '.join(found.firing)}[/]" if found.firing else "no"
    return firing, "–" if left is None else f"{left:.1%}"
