"""The operator of a service: which one it has, and how what it did last is undone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lepton_kit.errors import InputError
from lepton_kit.ops.declared import is_served_here
from lepton_kit.ops.service_operator import ServiceOperator, done_to, state_of

if TYPE_CHECKING:
    from lepton_kit.telemetry.recordings import Recording


def operator_of(
    name: str,
    project: Path,
    run_id: str,
    by: str | None = None,
    recorded: Recording | None = None,
    workers: int | None = None,
) -> ServiceOperator:
    """Return the operator of a service.

    Parameters
    ----------
    name, project
        The service, and the root of the project that it belongs to.
    run_id, by
        What acts, and who let it (what `who_let` says unless given), for the records.
    recorded, workers
        The incident that is repaired, and how many workers were measured in it: what is known of a service that says
        neither its version nor its size.

    Raises
    ------
    InputError
        When the service is unknown, or `lepton serve` does not run it.
    """
    if is_served_here(name, project):
        from lepton_kit.ops.serve_operator import ServeOperator

        return ServeOperator(name, project, run_id, by)
    return ServiceOperator(name, project, run_id, by, recorded=recorded, workers=workers)


def undo(name: str, project: Path, by: str, note: str) -> str:
    """Bring a service back to the state before the last action that changed it, and return what was done.

    An undo is an action itself: a second one brings back what the first took away.

    Raises InputError when nothing was changed yet, or the service has been changed otherwise since: nothing is done
    then. Raises LeptonError when the workers do not follow.
    """
    operator = operator_of(name, project, "lepton undo", by)
    if not (done := done_to(operator.folder)):
        raise InputError(f"service {name!r}: no action on it is recorded that could be undone")
    last, now = done[-1], operator.state()
    if state_of(last["after"]) != now:
        raise InputError(
            f"service {name!r}: is not as the last recorded action left it ({last['time']}: {last['why']}); somebody "
            "changed it since, so a person must decide"
        )
    back = state_of(last["before"])
    operator.set_state(back, f"undo of {last['action']} of {last['time']}" + (f": {note}" if note else ""))
    changes = [f"{what} {old} → {getattr(back, what)}" for what, old in vars(now).items() if old != getattr(back, what)]
    return f"service {name}: {', '.join(changes)}"
