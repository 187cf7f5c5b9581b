"""Takes alerts from many who post at once, and commits them together: one wait to be stored answers all of them."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from lepton_kit.errors import InputError, LeptonError
from lepton_kit.ops.watch.queue import Queue, Router
from lepton_kit.ops.watch.webhook import Alert

logger = logging.getLogger(__name__)
MOST_WAITING = 5000  # posts; further ones are refused with Retry-After
MOST_AT_ONCE = 500  # posts in one commit: the first of them waits some 20 ms at most


_Post = tuple[Sequence[Alert], str, "Future[None]"]


class Full(LeptonError):  # noqa: N818 - an answer, not a fault
    """Too many posts wait to be stored; no further one is accepted."""


class Intake:
    """The one thread that writes what was posted into the queue; `on_work` is called after each commit."""

    def __init__(self, kept: Queue, router: Router, on_work: Callable[[], None]) -> None:
        self._kept, self._router, self._on_work = kept, router, on_work
        self._waiting: deque[_Post] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="intake")

    async def take(self, alerts: Sequence[Alert]) -> None:
        """Return when posted alerts are on the disk.

        Raises Full when too many wait. Raises InputError when they could not be written.
        """
        await asyncio.wrap_future(self.submit(alerts, "webhook"))

    def submit(self, alerts: Sequence[Alert], origin: str) -> Future[None]:
        """Hand alerts over; the future is done when they are on the disk."""
        if len(self._waiting) >= MOST_WAITING:
            raise Full("too many alerts wait to be stored")
        done: Future[None] = Future()
        self._waiting.append((alerts, origin, done))
        self._thread.submit(self._write)
        return done

    def close(self) -> None:
        """Write what waits, and end."""
        self._thread.shutdown()

    def _write(self) -> None:
        """Commit all that waits by now; who handed over later finds nothing left to do."""
        batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), MOST_AT_ONCE))]
        if wanted := [post for post in batch if post[2].set_running_or_notify_cancel()]:
            self._commit(wanted)
            self._on_work()

    def _commit(self, posts: Sequence[_Post]) -> None:
        try:
            self._kept.receive_all([(alerts, origin) for alerts, origin, _ in posts], self._router)
        except Exception as error:  # whatever it was, who posted must hear that nothing was kept
            if len(posts) > 1 and not isinstance(error, InputError):
                for post in posts:  # one that cannot be kept must not stand in the way of the others
                    self._commit([post])
                return
            for *_, done in posts:
                done.set_exception(_told(error))
        else:
            for *_, done in posts:
                done.set_result(None)


def _told(error: Exception) -> InputError:
    if isinstance(error, InputError):
        return error
    logger.error("alerts could not be stored", exc_info=error)
    return InputError(f"the alerts could not be stored: {type(error).__name__}")
