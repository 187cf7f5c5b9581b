"""Shows runs as they go: bars in a terminal, one plain line per event that matters elsewhere, or JSON lines."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from typing import IO

from rich.console import Console
from rich.markup import escape

from lepton_kit.runs.runner import Event

MARKS = {"succeeded": "[green]✓[/]", "skipped": "[dim]–[/]"}


@contextmanager
def run_progress(console: Console, notebooks: int, events: IO[str] | None = None) -> Iterator[Callable[[Event], None]]:
    """Yield what shows an event as suits the place: a JSON line to `events` if given, bars in a terminal, else lines.

    Examples
    --------
    >>> with run_progress(Console(force_terminal=False), notebooks=1) as show:
    ...     show(Event("run_started", "id", "01-data-cleaning"))
    01-data-cleaning: started
    """
    if events:
        yield partial(print_json, events)
    elif console.is_terminal:
        bars = Bars(console, notebooks)
        with bars.bars:
            yield bars.show
    else:
        yield Lines(console).show


def print_json(stream: IO[str], event: Event) -> None:
    """Print an event as a JSON line."""
    told = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), **asdict(event)}
    print(json.dumps(told), file=stream, flush=True)


class Lines:
    """One line when a run starts, ends, is skipped, or is tried again; a log stays readable."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.started: dict[str, float] = {}

    def show(self, event: Event) -> None:
        """Print a line, if the event deserves one."""
        if event.kind == "run_started":
            self.started[event.run_id] = time.monotonic()
        if line := self.line(event):
            self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def line(self, event: Event) -> str | None:
        """Return what is to be read of an event later."""
        match event.kind:
            case "run_started":
                return f"{event.name}: started"
            case "run_ended":
                return f"{event.name}: {event.status} in {time.monotonic() - self.started[event.run_id]:.1f} s"
            case "run_skipped":
                return f"{event.name}: unchanged since {event.run_id}, skipped"
            case "run_placed" | "run_retried" | "kernel_kept" | "kernel_replaced" | "not_tracked":
                return f"{event.name}: {event.text}"
        return None


class Bars(Lines):
    """A bar for the notebooks, and one for the cells of each that runs now, with its last line of output."""

    def __init__(self, console: Console, notebooks: int) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
        from rich.table import Column

        super().__init__(console)
        self.bars = Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[output]}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
            console=console, expand=True,
        )  # fmt: skip
        self.notebooks = self.bars.add_task("notebooks", total=notebooks, output="", visible=notebooks > 1)
        self.cells: dict[str, TaskID] = {}

    def show(self, event: Event) -> None:
        """Move a bar, or print a line above the bars."""
        match event.kind:
            case "run_started":
                self.started[event.run_id] = time.monotonic()
                self.cells[event.run_id] = self.bars.add_task(escape(event.name), total=None, output="")
                return
            case "cell_started" | "cell_ended":
                done = event.cell - (event.kind == "cell_started")
                self.bars.update(self.cells[event.run_id], completed=done, total=event.cells)
            case "run_placed":
                self.bars.update(self.cells[event.run_id], output=escape(event.text))
                return
            case "cell_output":
                self.bars.update(self.cells[event.run_id], output=escape(event.text))
            case "run_ended" | "run_skipped":
                self.bars.advance(self.notebooks)
        if event.kind == "run_ended":
            self.bars.remove_task(self.cells.pop(event.run_id))
        if line := self.line(event):
            mark = MARKS.get("skipped" if event.kind == "run_skipped" else event.status, "[red]✗[/]")
            self.console.print(f"{mark} {escape(line)}", highlight=False, soft_wrap=True)
