"""Lets SIGINT and SIGTERM wait until a program is at a place where it can be stopped.

Python raises KeyboardInterrupt between any two of its instructions: also with a lock held that is then never released,
with half a message read, with a process started of which nobody knows yet, or where the exception is swallowed. While
signals are deferred they are only noted, and `deliver` hands them to the handlers that stood before.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

STOPS = (signal.SIGINT, signal.SIGTERM)


class _Deferred:
    """The signals that came while they were deferred, and the handlers that they are for."""

    def __init__(self) -> None:
        self.pid = os.getpid()  # a fork defers nothing, until it says so itself
        self.received: list[int] = []
        self.handlers: dict[int, Any] = {}

    def hold(self) -> None:
        for number in STOPS:
            handler = signal.getsignal(number)
            if handler not in (None, signal.SIG_IGN):
                self.handlers[number] = handler
                signal.signal(number, self.note)

    def note(self, number: int, _frame: object) -> None:
        self.received.append(number)

    def deliver(self) -> None:
        received, self.received = self.received, []
        for number in dict.fromkeys(received):  # a terminal and a parent may both have sent the same
            handler = self.handlers[number]
            if callable(handler):
                handler(number, None)
            else:  # the default: it ends this process
                signal.signal(number, handler)
                signal.raise_signal(number)

    def let_go(self) -> None:
        for number, handler in self.handlers.items():
            if signal.getsignal(number) == self.note:  # else a handler has put another in its place
                signal.signal(number, handler)


_now: _Deferred | None = None
_stop = threading.Event()
_this_thread = threading.local()


@contextmanager
def deferred() -> Iterator[None]:
    """Note signals until the end of this, and deliver them there at the latest; within another it changes nothing.

    Examples
    --------
    >>> with deferred():
    ...     signal.raise_signal(signal.SIGINT)
    ...     print("whole")
    ...     try:
    ...         deliver()
    ...     except KeyboardInterrupt:
    ...         print("stopped")
    whole
    stopped
    """
    global _now
    if threading.current_thread() is not threading.main_thread() or _is_deferred():
        yield  # signals interrupt the main thread alone
        return
    held = _now = _Deferred()
    try:
        held.hold()
        yield
    finally:
        _now = None
        held.let_go()
        held.deliver()


def deliver() -> None:
    """Hand the signals that were noted to their handlers, which may raise KeyboardInterrupt.

    In another thread than the main one raise it, once, when `stoppable_threads` or `stoppable_by` says so.
    """
    if threading.current_thread() is threading.main_thread():
        if _now is not None and _is_deferred():
            _now.deliver()
    elif not getattr(_this_thread, "is_stopped", False):
        asked = getattr(_this_thread, "asked", None)
        if _stop.is_set() or (asked is not None and asked()):
            _this_thread.is_stopped = True
            raise KeyboardInterrupt


def pause(seconds: float) -> None:
    """Wait, or be interrupted."""
    if threading.current_thread() is threading.main_thread():
        time.sleep(seconds)
    else:
        _stop.wait(seconds)
    deliver()


@contextmanager
def stoppable_threads() -> Iterator[Callable[[], None]]:
    """Yield what interrupts the other threads of this process, each where it next calls `deliver`."""
    _stop.clear()
    try:
        yield _stop.set
    finally:
        _stop.clear()


@contextmanager
def stoppable_by(asked: Callable[[], bool]) -> Iterator[None]:
    """Interrupt this thread, where it next calls `deliver`, once `asked` returns true; the main thread never.

    Examples
    --------
    >>> def work():
    ...     with stoppable_by(lambda: True):
    ...         try:
    ...             deliver()
    ...         except KeyboardInterrupt:
    ...             print("stopped")
    >>> thread = threading.Thread(target=work)
    >>> thread.start(); thread.join()
    stopped
    """
    _this_thread.asked, _this_thread.is_stopped = asked, False
    try:
        yield
    finally:
        _this_thread.asked, _this_thread.is_stopped = None, False


def _is_deferred() -> bool:
    return _now is not None and _now.pid == os.getpid()
