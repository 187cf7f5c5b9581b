"""The commands that begin a project, and hold its declarations against reality."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from lepton_kit.commands.terminal import AsJson, new_console
from lepton_kit.errors import InputError
from lepton_kit.runs.project import find_project


def init(
    folder: Annotated[Path, typer.Argument(help="The project's folder.")] = Path(),
    service: Annotated[str | None, typer.Option(help="The name of the service to declare.")] = None,
    task: Annotated[str | None, typer.Option(help="Task of its model, such as classification_binary.")] = None,
    address: Annotated[str | None, typer.Option(help="Address of the service, such as http://127.0.0.1:8200.")] = None,
    signals: Annotated[list[str] | None, typer.Option(help="Preset for its metrics; may be repeated.")] = None,
    example: Annotated[
        str | None, typer.Option(help="Start from an example: prices, scoring, chat, support, opinion, recommender.")
    ] = None,
) -> None:
    """Create a project: a commented lepton.toml, objectives for the service, and a README."""
    from lepton_kit.project.begin import begin

    given = {"task": task, "address": address, "signals": tuple(signals or ())}
    if example and (service or any(given.values())):
        raise InputError("--example: already declares a service; leave out --service, --task, --address and --signals")
    if not service and any(given.values()):
        raise InputError("--task, --address and --signals: need --service NAME")
    for path in begin(folder, service, example, **given):
        print(f"wrote {path}")
    then = f"lepton run rehearsal; subjects/{example}/README.md says how to start it" if example else "lepton doctor"
    print(f"next: {'' if folder == Path() else f'cd {folder} && '}{then}")


def copy(
    notebooks: Annotated[list[str], typer.Argument(help="Names of notebooks or runbooks of the kit.")],
) -> None:
    """Copy notebooks of the kit into the project so that you can change them."""
    from lepton_kit.project.begin import copy_notebook

    for name in notebooks:
        print(f"wrote {copy_notebook(name, find_project())}")


COLOURS = {"ok": "green", "wrong": "red", "absent": "yellow"}
MARKS = {"ok": "✓", "wrong": "✗", "absent": "–"}


def doctor(
    services: Annotated[
        list[str] | None, typer.Argument(help="Services to check; all declared ones if omitted.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check the declared services against reality: one line per finding, with what to do."""
    from lepton_kit.project.doctor import examine

    console, wrong, found = new_console(), 0, []
    for one in examine(find_project(), services or []):
        wrong += one.state == "wrong"
        found.append(asdict(one))
        if as_json:
            continue
        remedy = f"; {one.remedy}" if one.remedy else ""
        line = escape(f"{one.what}: {one.finding}{remedy}")
        console.print(f"[{COLOURS[one.state]}]{MARKS[one.state]}[/] {line}", highlight=False, soft_wrap=True)
    if as_json:
        print(json.dumps(found, indent=1))
    if wrong:
        raise typer.Exit(1)
