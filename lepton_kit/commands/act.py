"""`lepton act`: do one thing to a service by hand, as a repair would."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, get_args

import typer

from lepton_kit.errors import InputError
from lepton_kit.runs.project import find_project
from lepton_kit.telemetry.declaration import ActionName

if TYPE_CHECKING:
    from lepton_kit.diagnosis.means import Way


def act(
    service: Annotated[str, typer.Argument(help="A service of lepton.toml, or one that `lepton serve` runs.")],
    action: Annotated[str, typer.Argument(help=f"{', '.join(get_args(ActionName))}.")],
    workers: Annotated[int | None, typer.Option(help="Value for {workers}.")] = None,
    version: Annotated[str | None, typer.Option(help="Value for {version}.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the command or the request; do nothing.")] = False,
    note: Annotated[str, typer.Option(help="Why, for the records.")] = "asked for by hand",
) -> None:
    """Run an action that the service declares, and record it so that `lepton undo` can reverse it."""
    from lepton_kit.ops.actions import Values
    from lepton_kit.ops.operator import operator_of

    ways: dict[str, Way] = {name: name for name in get_args(ActionName)}
    if action not in ways:
        raise InputError(f"action {action!r}: must be one of {', '.join(ways)}")
    operator = operator_of(service, find_project(), "lepton act")
    values = Values(workers, version)
    if dry_run:
        print(operator.preview(ways[action], values))
    else:
        print(f"service {service}: {action}: {operator.do(ways[action], values, note)}")
