"""The command `lepton drill`: faults on purpose, followed to their end."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from lepton_kit.commands.terminal import new_console, say, table
from lepton_kit.errors import InputError, LeptonError

if TYPE_CHECKING:
    import pandas as pd

    from lepton_kit.ops.drill_results import Drill, Drilled


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
        str | None,
        typer.Option(
            help="A declared service; in live drills it runs itself, in the model's place. "
            "With --proven or --stale: only what concerns it."
        ),
    ] = None,
    proven: Annotated[
        bool,
        typer.Option("--proven", help="List when each runbook was last proven; exit status 1 if a proof is stale."),
    ] = False,
    stale: Annotated[
        bool, typer.Option("--stale", help="Repeat the drills whose proof is stale, as they were made.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --proven: print JSON instead of a table.")] = False,
) -> None:
    """Inject faults into a healthy service and follow each to its alert, diagnosis, remedy and recovery."""
    from lepton_kit.ops.drills import drawn_drills, known_faults
    from lepton_kit.ops.faults import FAULTS
    from lepton_kit.ops.live_drills import live_names
    from lepton_kit.ops.simulation import find_simulation
    from lepton_kit.runs.project import find_project

    project = find_project()
    if proven or stale or as_json:
        others = bool(faults) or live is not None or (seed, count, model) != (0, 1, "goog")
        return _proofs(project, proven, stale, as_json, fault_file, service, others)
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
    words = ["lepton", "drill", *(faults or []), "--live" if live else "--simulated", f"--seed={seed}"]
    words += [f"--count={count}"] + [f"--service={service}"] * (service is not None)
    words += [f"--fault-file={fault_file}"] * (fault_file is not None)
    done = _drilled(drills, live, project, fault_file, model, service, seed, shlex.join(words))
    _exit_unless_well(done)


def _proofs(
    project: Path, proven: bool, stale: bool, as_json: bool, fault_file: Path | None, service: str | None, others: bool
) -> None:
    """List proofs or repeat stale ones; `others` says that an option was given that neither of them reads."""
    if others or proven == stale or (as_json and not proven) or (proven and fault_file is not None):
        raise InputError(
            "--proven [--json] lists and --stale [--fault-file] repeats: give one of them, with no option but "
            "--service, and without names of faults"
        )
    if proven:
        list_proofs(project, as_json, service)
    else:
        drill_stale(project, fault_file, service)


def _drilled(
    drills: Sequence[Drill],
    live: bool,
    project: Path,
    fault_file: Path | None,
    model: str,
    service: str | None,
    seed: int,
    command: str,
) -> list[Drilled]:
    """Go through drills of one service, show them, and write their results."""
    from lepton_kit.ops.drill_results import write_results
    from lepton_kit.ops.drills import drill_all, known_faults, result_table
    from lepton_kit.ops.live_drills import drill_live

    known = known_faults(fault_file)
    say(f"{len(drills)} {'live' if live else 'simulated'} drills, seed {seed}")
    done: list[Drilled] = []
    as_live, simulated = (drills, project, known, say, model, service), (drills, project, service, fault_file)
    for one in drill_live(*as_live) if live else drill_all(*simulated):
        done.append(one)
        mark = "✓" if one.is_as_it_should_be else "✗"
        say(f"{mark} {len(done)}/{len(drills)} {one.fault} ({one.severity:.2f}): {one.verdict}")
    _show(result_table(done))
    told = {name: known[name].description for one in drills for name in one.fault.split("+") if name}
    results = write_results(done, project / "drills", seed, live, command, told)
    say(f"results: {results}")
    say(f"a page of them: lepton publish --drills {shlex.quote(os.path.relpath(results))}")
    return done


def _exit_unless_well(done: Sequence[Drilled]) -> None:
    if bad := [one for one in done if not one.is_as_it_should_be]:
        say(f"{len(bad)} of {len(done)} drills did not end as they should")
        raise typer.Exit(1)


def list_proofs(project: Path, as_json: bool, service: str | None = None) -> None:
    """List when each runbook was last proven by a drill; the exit status is 1 where a proof is stale."""
    from lepton_kit.ops.proven import proofs

    found = [one for one in proofs(project) if service in (None, one.service)]
    if as_json:
        print(json.dumps([asdict(one) for one in found], indent=1, default=datetime.isoformat))
    else:
        printed = table("alert", "runbook", "service", "proof")
        for one in found:
            printed.add_row(*map(escape, (one.alert, one.runbook, one.service, str(one))))
        new_console().print(printed)
    stale = [one for one in found if one.stale]
    if not as_json:
        say(
            f"proven: {sum(one.proven is not None for one in found)} of {len(found)}; stale: {len(stale)}"
            + ("; `lepton drill --stale` repeats them" if stale else "")
        )
    if stale:
        raise typer.Exit(1)


def drill_stale(project: Path, fault_file: Path | None, service: str | None = None) -> None:
    """Repeat the drills whose proof is stale, or those that ended badly since, live or simulated as they were.

    One that cannot be repeated is reported, and the others go on. What was never proven is not due.
    """
    from lepton_kit.ops.proven import proofs

    due: dict[tuple[str, str, Drill], None] = {}  # each once, in order
    for one in proofs(project):
        if one.stale and one.drill is not None and one.basis is not None and service in (None, one.service):
            due[one.stage_to_repeat, one.service, one.failed or one.drill] = None
    done: list[Drilled] = []
    left = 0
    for stage, name, made in due:
        of_service = None if stage == "served" else name
        try:
            done += _drilled([made], stage != "simulated", project, fault_file, name, of_service, made.seed, "")
        except LeptonError as error:
            left += 1
            say(f"✗ not repeated: {made.fault} of {name} ({stage}): {error}")
    if not due:
        say("no proof is stale; `lepton drill --proven` lists them")
    _exit_unless_well(done)
    if left:
        raise typer.Exit(1)


def _show(results: pd.DataFrame) -> None:
    printed = table(*results.columns)
    for row in results.itertuples(index=False):
        printed.add_row(*(escape(str(value)) for value in row))
    new_console().print(printed)
