"""The desired state of a service: a small file that its workers follow, and their reports of what they do.

services/<name>/service.json        the settings that it was started with, given to its workers by the environment
services/<name>/control.json        the desired state: version, candidate and its share, workers, input fixes, …
services/<name>/deployments.jsonl   every change of the versions that answer: time, version, note, and more
services/<name>/newest              the time of the newest data that any worker has seen
services/<name>/workers/<pid>.json  each worker's answer: the generation it has followed, and why where it could not
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import socket
import time
from collections.abc import Collection
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field

from lepton_kit.data.input_fixes import NO_INPUT_FIXES, InputFixes, renamed
from lepton_kit.errors import InputError, LeptonError
from lepton_kit.files import append_line, locked, read_lines, write_atomically

MOST_WORKERS = 64
MOST_QUEUED = 100_000
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
NEWEST_BYTES = 32
"""Length of the file `newest`, whatever stands in it: written over, it needs no new room on the disk."""

HUNG_SECONDS = 20.0
"""A worker that has not followed a new state for this long hangs: loading takes a second, a few on a busy machine."""


@dataclass(frozen=True)
class DesiredState:
    """What the workers of a service should be doing.

    `share` is the part of the requests (0 to 1) that the candidate version answers; `generation` grows by one with
    every change. `input_fixes` are applied to each row; `queue_limit` how many requests may be in a worker, None for
    what the service was started with; `restarts` grows by one to replace each worker by a fresh one.
    """

    version: str
    candidate: str | None = None
    share: float = 0.0
    workers: int = 1
    generation: int = 0
    input_fixes: InputFixes = field(default=NO_INPUT_FIXES)
    queue_limit: int | None = None
    restarts: int = 0

    def __post_init__(self) -> None:
        # Read from a file they are a dict.
        object.__setattr__(self, "input_fixes", InputFixes.model_validate(self.input_fixes))
        _check_whole("workers", self.workers, MOST_WORKERS)
        if not isinstance(self.share, int | float) or not 0 <= self.share <= 1:
            raise InputError(f"share = {self.share!r}: must be a number from 0 to 1")
        if self.share and self.candidate is None:
            raise InputError(f"share = {self.share!r}: needs a candidate version to send that part of the requests to")
        if self.queue_limit is not None:
            _check_whole("queue_limit", self.queue_limit, MOST_QUEUED)


def _check_whole(name: str, value: object, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise InputError(f"{name} = {value!r}: must be a whole number from 1 to {most}")


@dataclass(frozen=True)
class Report:
    """A report of one worker: the generation it followed, its loaded versions, and the error, if any."""

    pid: int
    generation: int
    version: str
    candidate: str | None
    error: str | None = None


def service_folder(root: Path, name: str) -> Path:
    """Return the folder of a service's state.

    Raises InputError when the name is not made of small letters, digits, `-` and `_`.
    """
    if not NAME.fullmatch(name):
        raise InputError(f"service name {name!r}: must be small letters, digits, '-' and '_', such as 'goog'")
    return root / name


def read_desired_state(folder: Path) -> DesiredState:
    """Read the desired state of a service.

    Raises InputError when the service has never been started, or the file is damaged.
    """
    path = folder / "control.json"
    try:
        return DesiredState(**renamed(json.loads(path.read_text(encoding="utf-8"))))
    except FileNotFoundError as error:
        raise InputError(f"service {folder.name!r}: has not been started here ({path} is missing)") from error
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not the desired state of a service ({error}); start the service again") from error


def change_desired_state(folder: Path, **changes: Any) -> DesiredState:
    """Change the desired state of a service and return it; concurrent changes do not undo each other."""
    with locked(folder / ".lock"):
        held = read_desired_state(folder)
        changed = replace(held, **changes, generation=held.generation + 1)
        _write(folder, changed)
    return changed


def hung_workers(folder: Path, now: float) -> list[int]:
    """Return the process ids of workers that have long not followed the desired state; `now` in Unix seconds."""
    generation = read_desired_state(folder).generation
    asked = (folder / "control.json").stat().st_mtime  # read last: a change made just now blames nobody
    if now - asked <= HUNG_SECONDS:
        return []
    return [report.pid for report in read_reports(folder) if report.generation < generation]


def begin(folder: Path, desired: DesiredState) -> DesiredState:
    """Write the first desired state of a service that starts; its generation follows an earlier one.

    Input fixes stay in force: a start does not fix the feed of the service that it feeds.
    """
    (folder / "workers").mkdir(parents=True, exist_ok=True)
    for left in (folder / "workers").glob("*.json"):
        left.unlink()
    (folder / "newest").unlink(missing_ok=True)
    with locked(folder / ".lock"):
        try:
            held = read_desired_state(folder)
        except InputError:  # never started, or damaged: this start is what the message asks for
            held = DesiredState(desired.version)
        _write(
            folder,
            replace(desired, generation=held.generation + 1, input_fixes=desired.input_fixes or held.input_fixes),
        )
    return read_desired_state(folder)


def newest_data(folder: Path, seen: float) -> float:
    """Return how new the newest data are that any worker of the service has seen, this one's among them (Unix time).

    A worker by itself would call the service's data stale while others answer all requests.
    """
    file = os.open(folder / "newest", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        held = _number(os.pread(file, NEWEST_BYTES, 0))
        if seen > held:
            with contextlib.suppress(OSError):  # a full disk: the others learn it once there is room
                os.pwrite(file, repr(seen).ljust(NEWEST_BYTES).encode(), 0)
    finally:
        os.close(file)
    return max(held, seen)


def _number(text: bytes) -> float:
    try:
        return float(text or 0)
    except ValueError:  # cut off by a full disk
        return 0.0


def write_report(folder: Path, report: Report) -> None:
    """Write what this worker does."""
    write_atomically(folder / "workers" / f"{report.pid}.json", json.dumps(asdict(report)))


def read_reports(folder: Path) -> list[Report]:
    """Return what the workers that are alive say, by process id."""
    found = []
    for path in sorted((folder / "workers").glob("*.json")):
        if _is_alive(int(path.stem)):
            found.append(Report(**json.loads(path.read_text(encoding="utf-8"))))
        else:
            path.unlink(missing_ok=True)
    return found


def note_deployment(folder: Path, version: str, note: str, **more: Any) -> None:
    """Append to the service's deployments that from now on a version answers, and why."""
    time = datetime.now(UTC).isoformat(timespec="milliseconds")
    append_line(folder / "deployments.jsonl", {"time": time, "version": version, "note": note, **more})


def read_deployments(folder: Path) -> list[dict[str, Any]]:
    """Return the service's deployments, oldest first: `time` (ISO 8601, UTC), `version`, `note`, and more.

    Raises InputError when a line is damaged; the message names it.
    """
    return read_lines(
        folder / "deployments.jsonl", "a deployment",
        lambda found: (datetime.fromisoformat(found["time"]), found["version"], found["note"]),
    )  # fmt: skip


def _write(folder: Path, desired: DesiredState) -> None:
    written = {**asdict(desired), "input_fixes": desired.input_fixes.model_dump()}
    write_atomically(folder / "control.json", json.dumps(written, indent=1) + "\n")


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


# --- the settings of a service --------------------------------------------------------------------------------------

VARIABLE = "LEPTON_SERVICE"
TOKEN = "LEPTON_ADMIN_TOKEN"
"""The variable that holds the token of the `/admin` endpoints; without it they are refused."""


class ServiceConfig(BaseModel):
    """The settings of one service; sizes in bytes, times in seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    model: str
    registry: Path
    folder: Path
    queue_limit: int = Field(default=64, ge=1, le=MOST_QUEUED)
    body_limit: int = Field(default=2 * 1024 * 1024, ge=1024, le=256 * 1024 * 1024)
    fresh_seconds: float = Field(default=5 * 86400, gt=0)
    log_bytes: int = Field(default=2 * 1024**3, ge=1024 * 1024)
    log_days: float = Field(default=90, gt=0)

    @property
    def metrics_folder(self) -> Path:
        """Return where workers keep their numbers."""
        return self.folder / "metrics"


def read_config(folder: Path) -> ServiceConfig | None:
    """Return the settings that a service was last started with, or None where it never was."""
    path = folder / "service.json"
    if not path.is_file():
        return None
    try:
        return ServiceConfig.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not the settings of a service; start the service again") from error


def give_to_workers(config: ServiceConfig) -> None:
    """Put the settings where the workers that are started from here find them."""
    os.environ[VARIABLE] = config.model_dump_json()
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(config.metrics_folder)


def config_of_worker() -> ServiceConfig:
    """Return the settings that this worker's supervisor gave."""
    return ServiceConfig.model_validate_json(os.environ[VARIABLE])


# --- waiting for the workers ----------------------------------------------------------------------------------------

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
