"""Waits until the workers of a service follow its desired state, even where one of them is lost."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from lepton_kit.errors import LeptonError
from lepton_kit.serving.control import HUNG_SECONDS, DesiredState, Report, read_reports

LOOK_EVERY = 0.05
PROBE_EVERY = 1.0
"""Seconds between two looks at the workers' words, and between two at whether anything listens at all."""


@dataclass(frozen=True)
class Followed:
    """How many of the wanted workers followed a change of the desired state.

    `replaced` has the process ids of workers that hung: they were killed, and the supervisor starts others for them.
    Where fewer followed than were wanted, the others were still starting when the time was over.
    """

    workers: int
    wanted: int
    replaced: tuple[int, ...]


def await_workers(folder: Path, desired: DesiredState, seconds: float, old: Collection[int] = ()) -> Followed:
    """Wait until as many workers as wanted follow a state, none of the `old` ones (process ids) among them.

    A worker that hangs is replaced by the service's supervisor (`HUNG_SECONDS`). At the end of the time a change counts
    as followed where at least one worker has and no worker is left that has not: nobody answers as before then.

    Raises
    ------
    LeptonError
        As soon as a worker says that it cannot follow, or nothing listens at the service's address any more; and at
        the end of the time, when a worker is left that has not followed, or none has.
    """
    began, probed, late = time.monotonic(), time.monotonic(), frozenset[int]()
    while True:
        reports = read_reports(folder)
        followed = [one for one in reports if one.generation >= desired.generation and one.pid not in old]
        if wrong := sorted({one.error for one in followed if one.error}):
            raise LeptonError(f"service {folder.name!r}: {'; '.join(wrong)}")
        waited = time.monotonic() - began
        if waited > HUNG_SECONDS / 2:
            late = late or _left(reports, followed)
        if len(followed) == desired.workers == len(reports) or (waited > seconds and len(followed) == len(reports) > 0):
            return Followed(len(followed), desired.workers, tuple(sorted(late - {one.pid for one in reports})))
        if waited > seconds:
            raise LeptonError(
                f"service {folder.name!r}: {len(followed)} of {desired.workers} workers followed within {seconds:g} s"
            )
        if time.monotonic() - probed > PROBE_EVERY:
            probed = time.monotonic()
            if not is_listening(folder):
                raise LeptonError(f"service {folder.name!r}: does not run any more; nothing listens at its address")
        time.sleep(LOOK_EVERY)


def _left(reports: Collection[Report], followed: Collection[Report]) -> frozenset[int]:
    return frozenset({one.pid for one in reports} - {one.pid for one in followed})


def is_listening(folder: Path) -> bool:
    """Say whether anything listens at a service's address: its socket does, as long as a process of it lives."""
    try:
        place = urlsplit((folder / "address").read_text(encoding="utf-8").strip())
        with contextlib.closing(socket.create_connection((place.hostname or "", place.port or 80), timeout=5)):
            return True
    except TimeoutError:  # a full queue of connections is that of a service
        return True
    except (OSError, ValueError):
        return False
