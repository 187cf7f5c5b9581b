"""`lepton approve`: what a person decides on repairs that wait."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lepton_kit.commands.terminal import WIDE, new_console, print_lines
from lepton_kit.errors import InputError
from lepton_kit.runs.ids import short_id, the_one
from lepton_kit.runs.project import find_project

if TYPE_CHECKING:
    from lepton_kit.ops.watch.jobs import Remedy
    from lepton_kit.ops.watch.queue import Queue


def approve(
    incident: Annotated[str | None, typer.Argument(help="An incident's id, or the end of it; all if omitted.")] = None,
    reject: Annotated[bool, typer.Option("--reject", help="Reject the repair instead.")] = False,
    cause: Annotated[str | None, typer.Option(help="Decide only the repair for this cause.")] = None,
    by: Annotated[str | None, typer.Option(help="Who decides; user and host if omitted.")] = None,
    note: Annotated[str, typer.Option(help="Why, for the records.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print the list as JSON.")] = False,
) -> None:
    """List the repairs that wait for approval, or approve or reject those of an incident."""
    from lepton_kit.ops.watch.approvals import make_decision, this_user
    from lepton_kit.ops.watch.queue import Queue

    project = find_project()
    queue = Queue(project)
    waiting = queue.waiting()
    if as_json and incident:
        raise InputError("--json: is for the list; `lepton incidents ID --json` prints what was decided")
    if as_json:
        from lepton_kit.ops.watch.status import waiting_facts

        print(json.dumps([waiting_facts(one, queue, project) for one in waiting], indent=1))
        return
    if not incident:
        _print_waiting(waiting)
        _print_rehearsed(waiting, queue, project)
        return
    chosen = [one for one in waiting if cause in (None, one.cause)]
    but = f" with a waiting repair{f' of cause {cause!r}' if cause else ''}"
    id = the_one(incident, {one.incident for one in chosen}, "incident", "lepton approve", but)
    chosen = [one for one in chosen if one.incident == id]
    _print_rehearsed(chosen, queue, project)
    decision = make_decision(not reject, by or this_user(), "lepton approve", note)
    for one in chosen:
        queue.decide(one.job, decision)
        word = "rejected" if reject else "approved"
        print(f"{one.notebook} of {one.incident} ({one.cause}): {word} by {decision.by}")


def _print_waiting(waiting: list[Remedy]) -> None:
    if not waiting:
        print("no repair waits for a decision")
        return
    console = new_console()
    is_wide = console.width >= WIDE
    headings = ["incident", "cause", "after", "repair", "since (UTC)", *["id"] * is_wide, "waits because"]
    rows = []
    for one in waiting:
        since = f"{datetime.fromtimestamp(one.queued, UTC):%Y-%m-%d %H:%M}"
        about = [one.cause, one.after or "", Path(one.notebook).stem, since, *[one.incident] * is_wide, one.why]
        rows.append([short_id(one.incident), *about])
    print_lines(console, headings, rows)


def _print_rehearsed(repairs: list[Remedy], queue: Queue, project: Path) -> None:
    """Print what each repair would do, by its rehearsal: plan, rows, risk, undo, evidence, and where its figure is."""
    from lepton_kit.ops.watch.status import waiting_facts

    for one in repairs:
        print(f"\n{one.notebook} of {one.incident} ({one.cause})")
        waiting = waiting_facts(one, queue, project)
        facts = waiting["rehearsed"] | {"This remedy": waiting["proven"]}
        if one.rehearsal:
            facts |= {
                "Figure": f"runs/{one.rehearsal}/notebook.ipynb (`lepton publish {one.rehearsal}` makes its page)"
            }
        for name, said in facts.items():
            print(f"  {name + ':':17} {said}")
