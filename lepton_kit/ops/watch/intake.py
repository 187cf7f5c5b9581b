"""Takes alerts from many who post at once, and commits them together: one wait to be stored answers all of them."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future

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
        self._waiting: queue.Queue[_Post | None] = queue.Queue(MOST_WAITING)
        self._thread = threading.Thread(target=self._write, name="intake", daemon=True)
        self._thread.start()

    async def take(self, alerts: Sequence[Alert]) -> None:
        """Return when posted alerts are on the disk.

        Raises Full when too many wait. Raises InputError when they could not be written.
        """
        await asyncio.wrap_future(self.submit(alerts, "webhook"))

    def submit(self, alerts: Sequence[Alert], origin: str) -> Future[None]:
        """Hand alerts over; the future is done when they are on the disk."""
        done: Future[None] = Future()
        try:
            self._waiting.put_nowait((alerts, origin, done))
        except queue.Full:
            raise Full("too many alerts wait to be stored") from None
        return done

    def close(self) -> None:
        """Write what waits, and end."""
        self._waiting.put(None)
        self._thread.join()

    def _write(self) -> None:
        while (first := self._waiting.get()) is not None:
            batch, is_last = [first], False
            while len(batch) < MOST_AT_ONCE and not self._waiting.empty():
                following = self._waiting.get()
                if following is None:
                    is_last = True
                    break
                batch.append(following)
            self._commit(batch)
            if is_last:
                return

    def _commit(self, batch: list[_Post]) -> None:
        wanted = [post for post in batch if post[2].set_running_or_notify_cancel()]
        try:
            self._kept.receive_all([(alerts, origin) for alerts, origin, _ in wanted], self._router)
        except Exception as error:  # whatever it was, who posted must hear that nothing was kept
            if len(wanted) > 1 and not isinstance(error, InputError):
                for post in wanted:  # one that cannot be kept must not stand in the way of the others
                    self._commit_alone(post)
            else:
                for _, _, done in wanted:
                    done.set_exception(_told(error))
        else:
            for _, _, done in wanted:
                done.set_result(None)
        self._on_work()

    def _commit_alone(self, post: _Post) -> None:
        alerts, origin, done = post
        try:
            self._kept.receive(alerts, origin, self._router)
        except Exception as error:
            done.set_exception(_told(error))
        else:
            done.set_result(None)


def _told(error: Exception) -> InputError:
    if isinstance(error, InputError):
        return error
    logger.error("alerts could not be stored", exc_info=error)
    return InputError(f"the alerts could not be stored: {type(error).__name__}")
