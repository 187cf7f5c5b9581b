"""The command `lepton drill`: faults on purpose, followed to their end."""

from __future__ import annotations

import os
import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from lepton_kit.commands.terminal import new_console, say, table

if TYPE_CHECKING:
    import pandas as pd


def drill(
    faults: Annotated[
        list[str] | None, typer.Argument(help="Faults, or pairs such as units+cpu-taken; all if omitted.")
    ] = None,
    live: Annotated[
        bool | None,
        typer.Option(
            "--live/--simulated", help="Real processes, or under a virtual clock; live where a service is given."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Random seed; the same seed gives the same drills.", min=0)] = 0,
    count: Annotated[int, typer.Option(help="Drills per fault, over its severities (live: its usual one).", min=1)] = 1,
    fault_file: Annotated[
        Path | None, typer.Option(help="A Python file with faults of your own; it is executed, so trust it.")
    ] = None,
    model: Annotated[str, typer.Option(help="Live: the model to serve, which must be promoted.")] = "goog",
    service: Annotated[
        str | None, typer.Option(help="A declared service; in live drills it runs itself, in the model's place.")
    ] = None,
) -> None:
    """Inject faults into a healthy service and follow each to its alert, diagnosis, remedy and recovery."""
    from lepton_kit.ops.drill_results import write_results
    from lepton_kit.ops.drills import Drilled, drawn_drills, drill_all, known_faults, result_table
    from lepton_kit.ops.faults import FAULTS
    from lepton_kit.ops.live_drills import drill_live, live_names
    from lepton_kit.ops.simulation import find_simulation
    from lepton_kit.runs.project import find_project

    project = find_project()
    live = service is not None if live is None else live
    known = known_faults(fault_file)
    if live:
        names = faults or live_names(known, service)
    else:
        simulation = find_simulation(project, service)
        names = faults or [*simulation.faults, *(name for name in known if name not in FAULTS)]
        for name in names:
            simulation.check(name)
    drills = drawn_drills(names, count, seed, known)
    if live:
        drills = [replace(one, severity=None) for one in drills]
    say(f"{len(drills)} {'live' if live else 'simulated'} drills, seed {seed}")
    done: list[Drilled] = []
    as_live, simulated = (drills, project, known, say, model, service), (drills, project, service, fault_file)
    for one in drill_live(*as_live) if live else drill_all(*simulated):
        done.append(one)
        mark = "✓" if one.is_as_it_should_be else "✗"
        say(f"{mark} {len(done)}/{len(drills)} {one.fault} ({one.severity:.2f}): {one.verdict}")
    _show(result_table(done))
    words = ["lepton", "drill", *(faults or []), "--live" if live else "--simulated", f"--seed={seed}"]
    words += [f"--count={count}"] + [f"--service={service}"] * (service is not None)
    words += [f"--fault-file={fault_file}"] * (fault_file is not None)
    told = {name: known[name].description for one in names for name in one.split("+")}
    results = write_results(done, project / "drills", seed, live, shlex.join(words), told)
    say(f"results: {results}")
    say(f"a page of them: lepton publish --drills {shlex.quote(os.path.relpath(results))}")
    if bad := [one for one in done if not one.is_as_it_should_be]:
        say(f"{len(bad)} of {len(done)} drills did not end as they should")
        raise typer.Exit(1)


def _show(results: pd.DataFrame) -> None:
    printed = table(*results.columns)
    for row in results.itertuples(index=False):
        printed.add_row(*(escape(str(value)) for value in row))
    new_console().print(printed)
