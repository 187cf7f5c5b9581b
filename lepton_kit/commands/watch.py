"""`lepton watch` and `lepton incidents`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.markup import escape

from lepton_kit.commands.terminal import new_console, table
from lepton_kit.errors import InputError
from lepton_kit.runs.project import find_project


def watch(
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.")] = 8088,
    host: Annotated[str, typer.Option(help="Address to listen at; loopback unless given.")] = "127.0.0.1",
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Take alerts from anybody on this machine, where no secret is set.")
    ] = False,
) -> None:
    """Receive alerts, watch services and keep schedules: each starts its runbook."""
    from lepton_kit.ops.watch.app import watch as watch_project

    watch_project(find_project(), host, port, insecure, announce=lambda line: print(line, flush=True))


def incidents(
    incident: Annotated[str | None, typer.Argument(help="An incident's id, or the end of it; all if none.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many, newest first.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the incidents, newest first; or show what one's alert was, its runs and its recording."""
    from lepton_kit.ops.watch.queue import Queue
    from lepton_kit.ops.watch.status import incident_facts

    project = find_project()
    queue = Queue(project)
    found = queue.incidents(limit if incident is None else 10_000)
    chosen = [one for one in found if incident is None or one.id.endswith(incident)]
    if incident is not None and len(chosen) != 1:
        raise InputError(f"incident {incident!r}: {len(chosen)} of {len(found)} end so; `lepton incidents` lists them")
    facts = [incident_facts(one, queue, project) for one in chosen]
    if as_json:
        print(json.dumps(facts if incident is None else facts[0], indent=1))
        return
    console = new_console()
    listed = table("incident", "status", "service", "severity", "runs", "repairs", "note")
    for one in facts:
        runs = ", ".join(f"{job['run_id'] or job['notebook']} {job['status'] or job['state']}" for job in one["runs"])
        words = [one["id"], one["status"], one["service"], one["severity"], runs, _repairs(one), one["note"]]
        listed.add_row(*map(escape, words))
    console.print(listed)
    if incident is not None:
        print(json.dumps(facts[0]["alert"], indent=1))
        print(f"recording: {facts[0]['recording'] or 'none'}")


def _repairs(incident: Mapping[str, Any]) -> str:
    """Return the repairs of an incident in words: what each came to, or why it waits, and who decided."""
    said = []
    for one in incident["remedies"]:
        came_to = one["verdict"] or one["state"]
        reason = one["why"] if one["state"] == "waiting" else one["error"] or ""
        why = f" ({reason})" if reason else ""
        yes = (decision for decision in one["decisions"] if decision["is_approved"])
        decided = "".join(f"; approved by {decision['by']} at {decision['at']}" for decision in yes)
        said.append(f"{one['cause']}: {came_to}{why}{decided}")
    return "\n".join(said)
