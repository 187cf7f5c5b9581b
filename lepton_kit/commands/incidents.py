"""`lepton capture` freezes what is known of an incident; `lepton check-next` says what could change its verdict."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from lepton_kit.commands.terminal import AsJson, new_console, print_pairs, say
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


def check_next(
    incident: Annotated[str, typer.Argument(help="An incident's id, or the end of it.")],
    run: Annotated[bool, typer.Option("--run", help="Run the check where the kit can do it by itself.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what would flip an incident's verdict, and the cheapest check that could."""
    from lepton_kit.ops.check_next import next_check, run_check
    from lepton_kit.ops.watch.queue import Queue
    from lepton_kit.project.settings import read_settings

    project = find_project()
    found, settings = Queue(project).find(incident), read_settings(project)
    made = next_check(found, settings, project)
    made = run_check(made, found, settings, project) if run else made
    if as_json:
        print(json.dumps(asdict(made), indent=1))
        return
    check, own, again = made.check, made.by_itself, made.again
    pairs = {
        "verdict": f"{made.cause} ({made.probability:.2f})",
        "would flip": "\n".join(f"{one.cause}, if {' and '.join(map(str, one.changes))}" for one in made.flips)
        or "no one finding and no two",
        "next check": f"{check.question} ({check.why_not}); {check.finding!r} would lead to {check.verdict}"
        if check
        else "none: no answer to an open question changes the verdict by itself",
        "how": HOW[made.way].format(entries=", ".join(made.entries)),
        "command": made.command,
        "parameters": f"those of run {made.parameters_of}"
        if made.parameters_of
        else "the defaults: no diagnosis has run",
        "by itself": f"{own.question} ({own.why_not}): `--run` looks again over a longer window" if own else "",
        "result": f"{own.question}: {again.finding}; verdict {again.cause} ({again.probability:.2f}), "
        f"{'changed' if again.is_changed else 'not changed'}; recording {again.recording}"
        if own and again
        else "",
    }
    print_pairs(made.incident, {name: value for name, value in pairs.items() if value})


HOW = {
    "look again": "capture a longer window and diagnose it",
    "declare": "a person must first add {entries}",
    "none": "",
}


def verify_incident(incident: str, as_json: bool) -> None:
    """Derive what an incident's page says again; the exit status is 1 unless every run repeats and nothing differs."""
    from lepton_kit.ops import incident_verify
    from lepton_kit.ops.watch.queue import Queue

    project = find_project()
    queue = Queue(project)
    found = incident_verify.verify_incident(queue.find(incident), queue, project)
    if as_json:
        print(json.dumps([asdict(one) for one in found], indent=1))
    else:
        marks = {"same": "✓", "different": "✗", "not derivable": "–"}
        for one in found:
            say(f"{marks[one.verdict]} {one.name}: {one.verdict}" + (f" ({one.why})" if one.why else ""))
            if one.verdict == "different":
                say(f"  recorded: {one.recorded}\n  derived:  {one.derived}")
        counts = Counter(str(one.verdict) for one in found)
        say(", ".join(f"{counts[verdict]} {verdict}" for verdict in marks))
    if not incident_verify.holds(found):
        raise typer.Exit(1)


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
