"""`lepton slo`: the project's service level objectives."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from lepton_kit.commands.incidents import seconds_of
from lepton_kit.commands.terminal import AsJson, new_console, table
from lepton_kit.errors import InputError
from lepton_kit.project.settings import Settings, read_settings
from lepton_kit.runs.project import find_project

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console
    from rich.table import Table

    from lepton_kit.ops.watch.objectives import NotMeasured
    from lepton_kit.telemetry.backtest import Backtest
    from lepton_kit.telemetry.burn_rates import Burn, Status
    from lepton_kit.telemetry.selectors import Source
    from lepton_kit.telemetry.slo import Objective

app = typer.Typer(help="Service level objectives (slo/<service>/*.yaml, OpenSLO v1).", no_args_is_help=True)
Where = Annotated[
    str | None,
    typer.Option("--source", help="Telemetry store's folder or a Prometheus address; from lepton.toml if omitted."),
]


@app.command("list")
def list_objectives(source: Where = None, as_json: AsJson = False) -> None:
    """List the objectives of all services, and why some of them are not measured."""
    project = find_project()
    settings = read_settings(project)
    objectives = _declared(settings, project)
    if as_json:
        print(json.dumps([_facts(one) for one in objectives], indent=1))
        return
    listed = table("objective", "service", "target", "window", "meaning")
    for one in objectives:
        window = f"{one.window / 86400:g} d"
        listed.add_row(one.name, escape(one.service), f"{one.target:.6g}", window, escape(one.description))
    new_console().print(listed)
    try:
        opened, statuses = _evaluated(objectives, settings, project, source, settings.watch.time_scale)
    except InputError as error:
        print(f"no objective is measured: {error}")
    else:
        _print_not_measured(opened, statuses, settings)


@app.command("rules")
def rules(
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File to write; printed if omitted.")] = None,
    runbook_url: Annotated[
        str | None,
        typer.Option(help="Runbook URL, with {alert} for the alert's name; that of `lepton watch` if omitted."),
    ] = None,
    time_scale: Annotated[float, typer.Option(help="Divide all windows by this factor, for demonstrations.")] = 1.0,
) -> None:
    """Write Prometheus recording and alerting rules for the objectives, each on the series of its service."""
    from lepton_kit.files import write_atomically
    from lepton_kit.ops.watch.objectives import own_series
    from lepton_kit.telemetry.alerts import RUNBOOK_URL, prometheus_rules

    project = find_project()
    settings = read_settings(project)
    objectives = own_series(_declared(settings, project), settings)
    text = prometheus_rules(objectives, runbook_url or RUNBOOK_URL, time_scale)
    if output is None:
        print(text, end="")
    else:
        write_atomically(output, text)


@app.command("status")
def status(
    source: Where = None,
    time_scale: Annotated[float, typer.Option(help="Divide all windows by this factor, for demonstrations.")] = 1.0,
    as_json: AsJson = False,
) -> None:
    """Show each objective's burn rates, firing alerts and remaining error budget."""
    from lepton_kit.telemetry.alerts import window_name
    from lepton_kit.telemetry.burn_rates import WINDOWS

    project = find_project()
    settings = read_settings(project)
    opened, statuses = _evaluated(_declared(settings, project), settings, project, source, time_scale)
    if as_json:
        print(json.dumps([_standing(found) for found in statuses], indent=1))
        return
    windows = [f"{window_name(window.long)} / {window_name(window.short)}" for window in WINDOWS]
    shown = table("objective", "service", "target", *windows, "firing", "budget left")
    for found in statuses:
        one = found.objective
        burns = [_burn(burn, one) for burn in found.burns] or ["–"] * len(WINDOWS)
        shown.add_row(one.name, escape(one.service), f"{one.target:.6g}", *burns, *_end(found))
    console = new_console()
    console.print(shown)
    scaled_by = "" if time_scale == 1 else f", shortened {time_scale:g} times"
    console.print(
        f"burn rates in both windows{scaled_by}; at 1 the budget lasts exactly its period; * too few events to alert",
        highlight=False,
    )
    _print_not_measured(opened, statuses, settings)


@app.command("backtest")
def backtest(
    names: Annotated[list[str] | None, typer.Argument(help="Objectives; all that are declared if omitted.")] = None,
    source: Where = None,
    begin: Annotated[
        str, typer.Option("--from", help="UTC time such as 2026-11-25T03:00, or an age such as 7d.")
    ] = "28d",
    until: Annotated[str, typer.Option("--to", help="End, in the same form.")] = "now",
    recordings: Annotated[
        Path | None, typer.Option(help="Folder of recordings, in the project, to replay in place of the source's past.")
    ] = None,
    severity: Annotated[str, typer.Option(help="Alerts to replay: page or ticket.")] = "page",
    alternatives: Annotated[
        bool, typer.Option("--alternatives", help="Try other windows and burn rates on the same past.")
    ] = False,
    time_scale: Annotated[
        float | None, typer.Option(help="Divide all windows by this factor; as `lepton watch` does if omitted.")
    ] = None,
) -> None:
    """Show on which past incidents an alert would have fired, how early, and how often for nothing."""
    from lepton_kit.ops.watch.objectives import own_series, recorded_pasts, watched_past
    from lepton_kit.telemetry import backtest as past
    from lepton_kit.telemetry.prometheus import open_source

    project = find_project()
    settings = read_settings(project)
    declared = _declared(settings, project)
    chosen = [one for one in declared if not names or one.name in names]
    if missing := set(names or ()) - {one.name for one in chosen}:
        known = ", ".join(one.name for one in declared)
        raise InputError(f"objective {sorted(missing)[0]!r}: not declared; must be one of {known}")
    scale = settings.watch.time_scale if time_scale is None else time_scale
    console = new_console()
    for one in chosen:
        if recordings is not None:
            pasts = recorded_pasts(one, project / recordings)
        else:
            opened = open_source(source or settings.watch.source, project)
            [one] = own_series([one], settings)
            pasts = [watched_past(one, opened, seconds_of("--from", begin), seconds_of("--to", until), project)]
        _print_backtest(console, one, past.backtest(one, pasts, severity, time_scale=scale), severity)
        if alternatives:
            console.print(_alternatives(past.alternatives(one, pasts, severity, scale)))


def _print_backtest(console: Console, objective: Objective, found: Backtest, severity: str) -> None:
    rate, low, high = found.false_per_week
    weekly = f"{rate:.3g} per healthy week (95 %: {low:.3g} to {high:.3g})" if found.healthy_s else "no healthy time"
    judged = f"{found.fired} of {int(found.incidents['is_measured'].sum())} measured incidents"
    said = f"{severity}: {judged}, {found.false_alerts} false alerts ({weekly})"
    console.print(f"[bold]{objective.name}[/] of {escape(objective.service)}: {said}", highlight=False)
    if len(found.incidents):
        shown = table("incident", "alerted (UTC)", "would have fired (UTC)", "before the alert (s)")
        for one in found.incidents.to_dict("records"):
            fired = ("never" if one["is_measured"] else "not measured", "–")
            if one["lead_s"] == one["lead_s"]:  # else it is NaN
                fired = f"{one['first_firing']:%Y-%m-%d %H:%M:%S}", f"{one['lead_s']:.0f}"
            shown.add_row(escape(one["incident"]), f"{one['alerted']:%Y-%m-%d %H:%M:%S}", *fired)
        console.print(shown)


def _alternatives(tried: pd.DataFrame) -> Table:
    shown = table("windows ×", "burn rates ×", "incidents", "before the alert (s)", "false alerts", "")
    for one in tried.to_dict("records"):
        factors, fired = [f"{one[name]:g}" for name in ("windows", "rates")], f"{one['fired']} of {one['incidents']}"
        lead, best = f"{one['lead_s']:.0f}" if one["fired"] else "–", "best" if one["best"] else ""
        shown.add_row(*factors, fired, lead, str(one["false_alerts"]), best)
    return shown


def _declared(settings: Settings, project: Path) -> list[Objective]:
    from lepton_kit.ops.watch.objectives import declared_objectives

    return declared_objectives(settings, project)


def _evaluated(
    objectives: Sequence[Objective], settings: Settings, project: Path, source: str | None, time_scale: float
) -> tuple[Source, tuple[Status, ...]]:
    """Return how objectives stand on the series of their services, and the source that says so.

    Raises InputError when there is no such source, or it refuses the samples of every objective.
    """
    from lepton_kit.ops.watch.objectives import own_series
    from lepton_kit.telemetry.alerts import evaluate_all
    from lepton_kit.telemetry.prometheus import open_source

    opened = open_source(source or settings.watch.source, project)
    statuses = evaluate_all(own_series(objectives, settings), opened, time.time(), time_scale)
    whys = [status.unmeasured for status in statuses]
    if whys and (first := whys[0]) and all(why and why.reason == "refused" for why in whys):
        raise InputError(first.detail)
    return opened, statuses


def _print_not_measured(opened: Source, statuses: Sequence[Status], settings: Settings) -> None:
    """Print what is not measured, and why; and what the source warns of."""
    from lepton_kit.ops.watch.objectives import not_measured, without_service
    from lepton_kit.telemetry.prometheus import warnings_of

    unwatched = without_service([status.objective for status in statuses], settings)
    missing: list[NotMeasured] = [*unwatched, *not_measured(statuses)]
    for one in missing:
        print(f"not measured: {one.objective} of {one.service} ({one.reason}): {one.detail}")
    for chosen, said in warnings_of(opened).items():
        print(f"warning for {chosen}: {'; '.join(said)}")


def _facts(one: Objective) -> dict[str, Any]:
    """Return what the JSON of a list has of an objective."""
    about = {"objective": one.name, "service": one.service, "title": one.title, "description": one.description}
    return {**about, "target": one.target, "window_s": one.window}


def _standing(found: Status) -> dict[str, Any]:
    """Return how an objective stands; a burn rate is None where there were no events."""
    burns = [
        {**asdict(burn.window), "is_firing": burn.is_firing, "events": burn.events}
        | {name: None if ratio is None else ratio / found.objective.budget
           for name, ratio in (("long_burn", burn.long_ratio), ("short_burn", burn.short_ratio))}
        for burn in found.burns
    ]  # fmt: skip
    unmeasured = asdict(found.unmeasured) if found.unmeasured else None
    about = {"at": found.at, "firing": found.firing, "budget_left": found.budget_left, "unmeasured": unmeasured}
    return {**_facts(found.objective), **about, "windows": burns}


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
