"""Shows runs as they go: bars in a terminal, one plain line per event that matters elsewhere, or JSON lines."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from typing import IO, Protocol

from rich.console import Console
from rich.markup import escape

from lepton_kit.runs.runner import Event

MARKS = {"succeeded": "[green]✓[/]", "skipped": "[dim]–[/]"}


class Progress(Protocol):
    """What a runner tells its events to."""

    def on_event(self, event: Event) -> None:
        """Take in one event."""


@contextmanager
def run_progress(console: Console, notebooks: int, events: IO[str] | None = None) -> Iterator[Progress]:
    """Show runs as suits the place: as JSON lines to `events` if given, bars in a terminal, else plain lines.

    Examples
    --------
    >>> with run_progress(Console(force_terminal=False), notebooks=1) as progress:
    ...     progress.on_event(Event("run_started", "id", "01-data-cleaning"))
    01-data-cleaning: started
    """
    if events:
        yield JsonLines(events)
    elif console.is_terminal:
        with _bars(console, notebooks) as bars:
            yield bars
    else:
        yield PlainLines(console)


class JsonLines:
    """One JSON object per event, for programs: the event's fields and `time`, in UTC."""

    def __init__(self, stream: IO[str]) -> None:
        self.stream = stream

    def on_event(self, event: Event) -> None:
        """Write one line, at once."""
        told = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), **asdict(event)}
        print(json.dumps(told), file=self.stream, flush=True)


class PlainLines:
    """One line when a run starts, ends, is skipped, or is tried again; a log stays readable."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.started: dict[str, float] = {}

    def on_event(self, event: Event) -> None:
        """Write a line, if the event deserves one."""
        if event.kind == "run_started":
            self.started[event.run_id] = time.monotonic()
        if line := _line(event, self.started):
            self.console.print(line, markup=False, highlight=False, soft_wrap=True)


class Bars:
    """A bar for the notebooks, and one for the cells of each that runs now, with its last line of output."""

    def __init__(self, console: Console, notebooks: int) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as RichProgress
        from rich.table import Column

        self.console = console
        self.bars = RichProgress(
            TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[output]}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
            console=console, expand=True,
        )  # fmt: skip
        self.notebooks = self.bars.add_task("notebooks", total=notebooks, output="", visible=notebooks > 1)
        self.cells: dict[str, TaskID] = {}
        self.started: dict[str, float] = {}

    def on_event(self, event: Event) -> None:
        """Move a bar, or write a line above the bars for what shall stay to be read."""
        match event.kind:
            case "run_started":
                self.started[event.run_id] = time.monotonic()
                self.cells[event.run_id] = self.bars.add_task(escape(event.name), total=None, output="")
            case "cell_started" | "cell_ended":
                done = event.cell - (event.kind == "cell_started")
                self.bars.update(self.cells[event.run_id], completed=done, total=event.cells)
            case "cell_output":
                self.bars.update(self.cells[event.run_id], output=escape(event.text))
            case _:
                self._keep_line(event)

    def _keep_line(self, event: Event) -> None:
        if event.kind in ("run_ended", "run_skipped"):
            self.bars.advance(self.notebooks)
        if event.kind == "run_ended":
            self.bars.remove_task(self.cells.pop(event.run_id))
        if line := _line(event, self.started):
            mark = MARKS.get("skipped" if event.kind == "run_skipped" else event.status, "[red]✗[/]")
            self.console.print(f"{mark} {escape(line)}", highlight=False, soft_wrap=True)


@contextmanager
def _bars(console: Console, notebooks: int) -> Iterator[Bars]:
    shown = Bars(console, notebooks)
    with shown.bars:
        yield shown


def _line(event: Event, started: dict[str, float]) -> str | None:
    match event.kind:
        case "run_started":
            return f"{event.name}: started"
        case "run_ended":
            return f"{event.name}: {event.status} in {time.monotonic() - started[event.run_id]:.1f} s"
        case "run_skipped":
            return f"{event.name}: unchanged since {event.run_id}, skipped"
        case "run_retried" | "kernel_kept" | "kernel_replaced":
            return f"{event.name}: {event.text}"
        case _:
            return None
