"""Load for a service of this project: finds the service, its rows and its arrival times, and replays them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from lepton_kit.errors import InputError
from lepton_kit.ops.faults import Fault, find_fault, injected
from lepton_kit.project.subjects import asked_rows
from lepton_kit.serving.control import service_folder
from lepton_kit.serving.replay import (
    Arrivals,
    Item,
    Plan,
    Summary,
    check_address,
    feed,
    find_trace,
    generated,
    needed_features,
    replay,
    traced,
)


def drive(
    service: str,
    project: Path,
    plan: Plan,
    source: str | None = None,
    fault: str | None = None,
    fault_after: float = 0.0,
    is_remote_allowed: bool = False,
) -> Summary:
    """Drive load at a running service of the project, by its name, or at an address such as `http://127.0.0.1:8000`.

    `fault` is the name of one that begins `fault_after` seconds after the load.

    Raises InputError when there is no such service, table or fault, or the address leads off this machine and may not.
    """
    folder = None if "://" in service else service_folder(project / "services", service)
    harm = find_fault(fault, plan.seed) if fault else None
    if harm and not 0 <= fault_after < plan.seconds:
        raise InputError(f"--fault-after {fault_after:g}: must be from 0 to less than the {plan.seconds:g} s of load")
    address = check_address(service if folder is None else running_address(folder), is_remote_allowed)
    name = None if folder is None else folder.name
    rows = feed(asked_rows(name, project, needed_features(address), source))
    with injected(harm, fault_after, folder) if harm else nullcontext() as change:
        return replay(address, rows, plan, change)


@contextmanager
def loaded(folder: Path, plan: Plan, fault: Fault, is_on: Callable[[], bool]) -> Iterator[None]:
    """Replay its subject's rows at a running service from a thread, until the end of what stands below this.

    `is_on` says with each request whether the fault is there now.
    """
    over = threading.Event()
    address = running_address(folder)
    rows = feed(asked_rows(folder.name, folder.parents[1], needed_features(address)))

    def work() -> None:
        with suppress(BaseExceptionGroup), injected(fault, 0.0, folder) as change:

            def changed(item: Item, seconds: float) -> Item:
                if over.is_set():
                    raise _OverError
                return change(item, seconds) if is_on() else item

            replay(address, rows, plan, changed)

    thread = threading.Thread(target=work, name="load", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(30)


class _OverError(Exception):
    """The load is over."""


def running_address(folder: Path) -> str:
    """Return the address of a running service of the project.

    Raises InputError when it does not run.
    """
    try:
        return (folder / "address").read_text(encoding="utf-8").strip()
    except OSError as error:
        raise InputError(f"service {folder.name!r}: does not run here; start it with `lepton serve`") from error


def find_arrivals(project: Path, seed: int, rate: float | None = None, speed: float | None = None) -> Arrivals:
    """Return the arrivals of a real service if its trace is available, else generated ones, named so.

    The trace is looked for in `LEPTON_DATA`, or in `shared/data` beside the project; `seed` is the generator's. `rate`
    is the mean of requests per second that the clock is made to give; `speed`, how many times as fast it runs.

    Raises InputError when both are given, or one is not above 0 and at most a million.
    """
    if rate is not None and speed is not None:
        raise InputError("--rate and --speed: both say how fast the load is; give one of them")
    for name, value in (("--rate", rate), ("--speed", speed)):
        if value is not None and not 0 < value <= 1e6:
            raise InputError(f"{name} {value:g}: must be above 0, and at most 1000000")
    given = os.environ.get("LEPTON_DATA")
    trace = find_trace(Path(given) if given else project.parent / "shared" / "data")
    arrivals = traced(trace) if trace else generated(seed)
    return arrivals.faster(speed or (rate / arrivals.rate if rate else 1.0))
