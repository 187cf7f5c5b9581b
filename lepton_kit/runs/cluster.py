"""Runs notebooks on the workers of a dask.distributed cluster.

Who asks for a run keeps its ledger and its manifest. The worker gets what the run needs as an archive, executes it as
it would be executed here, and sends the run folder back whole; no disk is shared.
"""

from __future__ import annotations

import asyncio
import logging
import pickle
import secrets
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jupyter_core.utils import ensure_event_loop

from lepton_kit import __version__
from lepton_kit.errors import InputError, LeptonError, WorkerLost
from lepton_kit.runs.interrupts import deliver, stoppable_by
from lepton_kit.runs.luggage import check_can_travel, files_in, pack_plan, pack_run, unpack_plan, unpack_run
from lepton_kit.runs.manifest import Environment, Status, code_sha256, environment
from lepton_kit.runs.runner import Ended, Event, Options, Plan, execute_here
from lepton_kit.secrets import without_password

if TYPE_CHECKING:
    from distributed import Client, Future

CONNECT_S = 10.0  # what a scheduler may take to answer, and the first worker to be there
STOP_S = 30.0  # what a worker may take to send back a run that was stopped
LONGEST_WAIT_S = 0.25  # how late an interrupt may be noticed
MOST_AT_ONCE = 500  # threads of this process that wait for runs
INSTALL = "pip install 'lepton-kit[cluster]'"

_asked_to_stop: set[str] = set()
"""The runs of this worker that who asked for them has stopped."""


@dataclass(frozen=True)
class Order:
    """What a worker is asked to do; `kit` is the version, and the hash, of the code that asks."""

    run_id: str
    plan: Plan
    options: Options
    packed: bytes
    kit: tuple[str, str]
    topic: str


@dataclass(frozen=True)
class Returned:
    """A run as it comes back from a worker: its folder, how it ended, and where it ran."""

    packed: bytes
    status: Status
    error: tuple[str, str] | None
    environment: Environment


class FailedThere(LeptonError):  # noqa: N818 - it is what happened
    """An error on a worker, by its name and its message."""

    def __init__(self, ename: str, evalue: str) -> None:
        super().__init__(evalue)
        self.ename, self.evalue = ename, evalue


@contextmanager
def connected(address: str) -> Iterator[Cluster]:
    """Connect to a scheduler, such as `tcp://10.0.0.1:8786`, until the end of what stands below this.

    Raises InputError when it cannot be reached, has no worker, or a worker has another version of the kit; nothing was
    begun.
    """
    shown = without_password(address)
    try:
        from distributed import Client
    except ModuleNotFoundError as error:
        raise InputError(f"cluster {shown!r}: {error} ({INSTALL})") from error
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what it would say is said by the runs' own errors
    try:
        client = Client(address, timeout=CONNECT_S, set_as_default=False, name="lepton")
    except (OSError, ValueError, TypeError, RuntimeError, ImportError) as error:
        words = " ".join(str(error).split()) or type(error).__name__
        words = words.replace(address.partition("://")[2] or address, shown.partition("://")[2] or shown)
        raise InputError(
            f"cluster {shown!r}: no scheduler can be reached there: {words}; nothing was run (must be the address of a "
            "dask scheduler, such as tcp://10.0.0.1:8786)"
        ) from None
    try:
        yield Cluster(client, shown)
    finally:
        with suppress(Exception):  # a scheduler that is gone need not be told
            client.close(timeout=2)


class Cluster:
    """The workers of a scheduler, as a place for runs (`runner.Place`).

    Raises InputError when there is no worker, or one has another version of the kit.
    """

    def __init__(self, client: Client, address: str) -> None:
        self.client, self.address = client, address
        self.topic = f"lepton-{secrets.token_hex(8)}"
        self._told: dict[str, Callable[[Event], None]] = {}
        self._workers: dict[str, str] = {}
        self._kit = _kit()
        try:
            client.wait_for_workers(1, timeout=CONNECT_S)
        except TimeoutError:
            raise InputError(
                f"cluster {address!r}: has no worker; nothing was run (start some: dask worker {address})"
            ) from None
        self._check_workers()
        client.subscribe_topic(self.topic, self._relay)

    @property
    def slots(self) -> int:
        """How many runs can go on at once."""
        return min(MOST_AT_ONCE, sum(map(int, self.client.nthreads().values())))

    def check(self, plans: list[Plan], options: Options) -> None:
        """Raise InputError where a plan or an option cannot be had on a cluster."""
        for plan in plans:
            check_can_travel(plan)
        if options.keep_kernel is not None:
            raise InputError(
                "--keep-kernel-on-failure: keeps kernels of this machine alone: run it here (--cluster none)"
            )

    def __call__(
        self, plan: Plan, project: Path, folder: Path, tell: Callable[[Event], None], options: Options
    ) -> Ended:
        """Let a worker execute a plan, and put what it sends back into the run's folder."""
        from distributed import Event as Flag

        run_id = folder.name
        self._told[run_id] = tell
        try:
            travelling, packed = pack_plan(plan, project)
            order = pickle.dumps(Order(run_id, travelling, options, packed, self._kit, self.topic))
            key = f"lepton_run-{secrets.token_hex(16)}"
            return self._ended(self.client.submit(carry_out, order, key=key, pure=False, retries=0), folder)
        except CancelledError:
            return Ended("failed", self._lost_scheduler(run_id))
        except Exception as error:  # the manifest must name it
            return Ended("failed", error if self.client.status == "running" else self._lost_scheduler(run_id))
        finally:
            self._told.pop(run_id, None)
            if self.client.status == "running":
                with suppress(Exception):  # a flag that is left there harms nobody
                    Flag(run_id, client=self.client).clear()

    def _ended(self, future: Future[Returned | None], folder: Path) -> Ended:
        """Wait for a run, and take in what comes back."""
        from distributed.scheduler import KilledWorker

        done, run_id = threading.Event(), folder.name
        future.add_done_callback(lambda _: done.set())
        stopped = None
        try:
            while not done.wait(LONGEST_WAIT_S):
                deliver()
        except KeyboardInterrupt as interrupt:
            stopped = interrupt
            if not self._told_to_stop(run_id) or not done.wait(STOP_S):
                future.cancel()
                return Ended("cancelled", stopped)
        try:
            returned = future.result()
        except KilledWorker:
            returned = None
        if returned is None:
            where = self._workers.get(run_id, f"of cluster {self.address!r}")
            lost = WorkerLost(f"worker {where} was lost while it ran this; nothing of it came back")
            return Ended("kernel_died", lost) if stopped is None else Ended("cancelled", stopped)
        unpack_run(returned.packed, folder)
        error = stopped or (FailedThere(*returned.error) if returned.error else None)
        return Ended("cancelled" if stopped else returned.status, error, returned.environment)

    def _told_to_stop(self, run_id: str) -> bool:
        """Ask the worker of a run to end it; say whether one has begun it, and could be asked."""
        with suppress(Exception):
            if run_id in self._workers and self.client.status == "running":
                self.client.run(_stop_here, run_id, workers=[self._workers[run_id]], callback_timeout=CONNECT_S)
                return True
        return False

    def _relay(self, event: tuple[float, dict[str, Any]]) -> None:
        """Tell what a worker says of a run that still goes on."""
        told = Event(**event[1]["event"])
        self._workers[told.run_id] = event[1]["worker"]
        if (tell := self._told.get(told.run_id)) is not None:
            tell(told)

    def _lost_scheduler(self, run_id: str) -> InputError:
        where = f"this ran on worker {self._workers[run_id]}" if run_id in self._workers else "this waited for a worker"
        return InputError(f"cluster {self.address!r}: its scheduler was lost while {where}; nothing of it came back")

    def _check_workers(self) -> None:
        kits = self.client.sync(self._kits, sorted(self.client.nthreads()))
        if silent := [worker for worker, theirs in kits.items() if isinstance(theirs, TimeoutError)]:
            raise InputError(
                f"cluster {self.address!r}: no answer within {CONNECT_S:g} s from {', '.join(silent)}; nothing was run "
                "(end these workers, or wait until they answer)"
            )
        for worker, theirs in kits.items():
            if isinstance(theirs, BaseException):
                words = f"has no lepton-kit that can run notebooks for others ({type(theirs).__name__}: {theirs})"
            elif theirs != self._kit:
                words = f"has lepton-kit {_shown(theirs)}, here is {_shown(self._kit)}"
            else:
                continue
            raise InputError(
                f"cluster {self.address!r}: worker {worker} {words}; nothing was run (install the same on all)"
            )

    async def _kits(self, workers: list[str]) -> dict[str, Any]:
        """Return what each worker says of its kit, or why it says nothing."""

        async def ask(worker: str) -> Any:
            try:
                said = await self.client.run(
                    _kit, workers=[worker], on_error="return", asynchronous=True, callback_timeout=CONNECT_S
                )
            except TimeoutError as error:
                return error
            return said[worker]

        return dict(zip(workers, await asyncio.gather(*map(ask, workers)), strict=True))


def carry_out(pickled: bytes) -> Returned | None:
    """Execute an order on this worker; None where another worker has begun it, and was lost since."""
    from distributed import Event as Flag
    from distributed import get_worker

    order: Order = pickle.loads(pickled)
    worker = get_worker()
    if (mine := _kit()) != order.kit:  # this worker came after the run was asked for
        raise InputError(f"worker {worker.address}: has lepton-kit {_shown(mine)}, needed is {_shown(order.kit)}")
    began = Flag(order.run_id)
    if began.is_set():
        return None
    began.set()

    def tell(event: Event) -> None:
        worker.log_event(order.topic, {"event": asdict(event)})  # dask adds the worker's address

    tell(Event("run_placed", order.run_id, order.plan.name, text=f"runs on worker {worker.address}"))
    scratch = tempfile.TemporaryDirectory(dir=worker.local_directory, prefix="run-", ignore_cleanup_errors=True)
    with scratch as root, stoppable_by(_is_stopped(worker, order.run_id)):
        returned = _carried_out(order, Path(root).resolve(), tell)
    return replace(returned, environment=returned.environment.model_copy(update={"worker": worker.address}))


def _carried_out(order: Order, root: Path, tell: Callable[[Event], None]) -> Returned:
    """Execute an order in a copy of the project, made in an empty folder."""
    plan = unpack_plan(order.plan, order.packed, root)
    folder = root / "runs" / order.run_id
    (folder / "artifacts").mkdir(parents=True)
    before = files_in(root)
    try:
        ended = execute_here(plan, root, folder, tell, order.options)
    finally:
        ensure_event_loop().close()  # of this thread
    status, error = ended.status, None
    if (raised := ended.error) is not None:
        error = getattr(raised, "ename", type(raised).__name__), str(getattr(raised, "evalue", raised))
    left = sorted(name for name, found in files_in(root).items() if before.get(name) != found)
    if left and status == "succeeded":
        words = f"the notebook wrote outside of its run folder, and no worker keeps that: {', '.join(left[:5])}"
        advice = "leave files by lk.artifact, or run it here (--cluster none)"
        status, error = "failed", (InputError.__name__, f"{words}; {advice}")
    return Returned(pack_run(folder), status, error, environment(plan.kernel.name))


def _is_stopped(worker: Any, run_id: str) -> Callable[[], bool]:
    """Return what says whether a run is to be stopped: by who asked for it, or because nobody waits for it any more."""
    key = worker.get_current_task()

    def asked() -> bool:
        task = worker.state.tasks.get(key)
        return run_id in _asked_to_stop or task is None or task.state == "cancelled"

    return asked


def _stop_here(run_id: str) -> None:
    _asked_to_stop.add(run_id)


def _kit() -> tuple[str, str]:
    return __version__, code_sha256()


def _shown(kit: tuple[str, str]) -> str:
    return f"{kit[0]} (code {kit[1][:12]})"
