"""`lepton watch`, `lepton ui`, `lepton notify` and `lepton incidents`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from lepton_kit.commands.terminal import WIDE, AsJson, new_console, print_lines, print_pairs, say
from lepton_kit.errors import InputError
from lepton_kit.runs.ids import short_id
from lepton_kit.runs.project import find_project

Facts = Mapping[str, Any]
MOST_SILENT_S = 7 * 86400


def watch(
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.")] = 8088,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Accept alerts from any process on this machine if no secret is set.")
    ] = False,
) -> None:
    """Receive alerts, watch services and run schedules: each starts its runbook."""
    from lepton_kit.ops.watch.app import watch as watch_project

    watch_project(find_project(), host, port, insecure, announce=lambda line: print(line, flush=True))


def ui(port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8089) -> None:
    """Show runs, comparisons and incidents, and start and schedule runs, in this machine's browser."""
    from lepton_kit.ops.lab.server import serve

    serve(find_project(), port, announce=lambda address: print(address, flush=True))


def notify(
    test: Annotated[
        bool, typer.Option("--test", help="Send one notice to each address, and say what became of it.")
    ] = False,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many, newest first.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List the notices of incidents that were sent and those that were not, or try the addresses."""
    from lepton_kit.ops.watch.notify import newest, open_targets
    from lepton_kit.ops.watch.queue import Queue
    from lepton_kit.project.settings import read_settings

    project = find_project()
    if test:
        targets = open_targets(read_settings(project).notify, project)
        if not targets:
            raise InputError("lepton.toml, [notify]: urls names no address, such as urls = ['env:SLACK_URL']")
        text = f"A test of [notify] of {project.name}: nothing has happened."
        failed = {target: error for target, send in targets.items() if (error := send("Lepton Kit: test", text))}
        for target in targets:
            say(f"{'✗' if target in failed else '✓'} {target}{': ' * (target in failed)}{failed.get(target, '')}")
        raise typer.Exit(1 if failed else 0)
    rows = newest(Queue(project), limit)
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    lines = [[_began(one["at"]), one["event"], one["target"], one["state"], one["title"], one["error"]] for one in rows]
    print_lines(new_console(), ["at (UTC)", "event", "to", "state", "notice", "error"], lines)


def _began(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S}"


def incidents(
    incident: Annotated[str | None, typer.Argument(help="An incident's id, or the end of it; all if omitted.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many, newest first.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List the incidents, newest first, or show one incident's alert, runs and recording."""
    from lepton_kit.ops.watch.queue import Queue
    from lepton_kit.ops.watch.status import incident_facts

    project = find_project()
    queue = Queue(project)
    chosen = queue.incidents(limit) if incident is None else [queue.find(incident)]
    facts = [incident_facts(one, queue, project) for one in chosen]
    if incident is not None:
        from lepton_kit.ops.watch.seen_before import seen_before

        facts[0]["seen_before"] = seen_before(chosen[0], queue, project)
    if as_json:
        print(json.dumps(facts if incident is None else facts[0], indent=1))
    elif incident is None:
        _print_list(facts)
    else:
        _print_one(facts[0])


def acknowledge(
    incident: Annotated[str, typer.Argument(help="An incident's id, or the end of it.")],
    by: Annotated[str | None, typer.Option(help="Who sees to it; user and host if omitted.")] = None,
) -> None:
    """Say that you see to an incident: the others are notified; automatic repairs go on."""
    from lepton_kit.ops.watch.approvals import checked_name, this_user
    from lepton_kit.ops.watch.queue import Queue

    queue = Queue(find_project())
    id, name = queue.find(incident).id, checked_name(by or this_user())
    before = queue.acknowledge(id, name)
    print(f"{id}: acknowledged by {name}" + (f" (before: {before})" if before not in ("", name) else ""))


def silence(
    service: Annotated[str, typer.Argument(help="A declared service.")],
    lasts: Annotated[str, typer.Option("--for", help="How long, such as 30m, 2h or 1d; at most 7d.")] = "2h",
    because: Annotated[str, typer.Option(help="Why: shown with the incidents.")] = "",
    end: Annotated[bool, typer.Option("--end", help="End it now.")] = False,
    by: Annotated[str | None, typer.Option(help="Who silences it; user and host if omitted.")] = None,
) -> None:
    """Silence those alerts of a service that `lepton watch` evaluates itself; silence posted ones in Alertmanager."""
    from lepton_kit.ops.watch.approvals import checked_name, plain, this_user
    from lepton_kit.ops.watch.queue import Queue
    from lepton_kit.ops.watch.silences import silence as silence_service
    from lepton_kit.project.settings import read_settings
    from lepton_kit.telemetry.slo import duration_seconds

    project = find_project()
    if service not in (known := read_settings(project).services):
        raise InputError(f"service {service!r}: not in lepton.toml, which declares {', '.join(known) or 'none'}")
    if not 0 < (seconds := duration_seconds(lasts)) <= MOST_SILENT_S:
        raise InputError(f"--for {lasts}: must be at most 7d")
    name, why = checked_name(by or this_user()), plain(because, "--because")
    told = silence_service(Queue(project), service, 0 if end else seconds, name, why)
    which = "alerts that `lepton watch` evaluates itself (silence posted ones in Alertmanager)"
    print(f"{service}: {which}: {f'silenced {told}' if told else 'not silenced any longer'}")


def _print_list(facts: Sequence[Facts]) -> None:
    """Print a line for each incident; one that is long is cut, and the whole is in `lepton incidents ID`."""
    console = new_console()
    wide = ["service", "severity", "id"] if console.width >= WIDE else []
    headings = ["incident", "began (UTC)", "alert", *wide, "status", "outcome"]
    rows = []
    for one in facts:
        began = one["starts_at"][: len("2026-11-29T18:08")].replace("T", " ")
        about = [began if wide else began[5:], _cut(one["name"], 26), *(one[name] for name in wide), one["status"]]
        rows.append([short_id(one["id"]), *about, _outcome(one)])
    print_lines(console, headings, rows)


def _print_one(one: Facts) -> None:
    from lepton_kit.ops.watch.seen_before import seen_words

    runs = [f"{job['run_id'] or job['notebook']} {job['status'] or job['state']}" for job in one["runs"]]
    pairs = {
        "incident": one["id"], "alert": one["name"], "summary": one["summary"], "service": one["service"],
        "owner": one["owner"],
        "acknowledged": f"{one['acknowledged']} by {one['acknowledged_by']}" if one["acknowledged"] else "",
        "silenced": one["silenced"], "severity": one["severity"], "status": one["status"], "began": one["starts_at"],
        "ended": one["ends_at"], "runs": "\n".join(runs), "repairs": "\n".join(_repairs(one)), "note": one["note"],
        "seen before": "\n".join(seen_words(one["seen_before"])), "recording": one["recording"] or "none",
    }  # fmt: skip
    print_pairs("incident", {name: value for name, value in pairs.items() if value})
    print(json.dumps(one["alert"], indent=1))


def _outcome(incident: Facts) -> str:
    """Return what came of an incident in a line: its repairs, else its diagnosis, else its last run or its note."""
    if repairs := _repairs(incident):
        return "; ".join(repairs)
    for job in reversed(incident["runs"]):
        if "cause" in job["results"]:
            return f"cause: {job['results']['cause']}"
    last = [f"{job['status'] or job['state']}: {Path(job['notebook']).stem}" for job in incident["runs"][-1:]]
    return "; ".join([*last, *([incident["note"]] if incident["note"] else [])])


def _repairs(incident: Facts) -> list[str]:
    """Return the repairs of an incident in words: its outcome, or why it waits, and who decided."""
    said = []
    for one in incident["remedies"]:
        outcome = one["verdict"] or one["state"]
        reason = one["why"] if one["state"] == "waiting" else one["error"] or ""
        why = f" ({reason})" if reason else ""
        yes = (decision for decision in one["decisions"] if decision["is_approved"])
        decided = "".join(f"; approved by {decision['by']} at {decision['at']}" for decision in yes)
        said.append(f"{one['cause']}: {outcome}{why}{decided}")
    return said


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"
