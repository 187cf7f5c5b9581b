"""Shows runs as they go: bars in a terminal, one plain line per event that matters elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from lepton_kit.runs.runner import Event

MARKS = {"succeeded": "[green]✓[/]", "skipped": "[dim]–[/]"}


class RunProgress:
    """A bar for the notebooks, and one for the cells of each; `on_event` is what a runner calls.

    Examples
    --------
    >>> with RunProgress(Console(force_terminal=False), notebooks=1) as progress:
    ...     progress.on_event(Event("run_started", "id", "01-data-cleaning"))
    01-data-cleaning: started
    """

    def __init__(self, console: Console, notebooks: int) -> None:
        self.console = console
        self.bars = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[unit]}"),
            TimeElapsedColumn(), console=console, disable=not console.is_terminal,
        )  # fmt: skip
        self.notebooks = self.bars.add_task("notebooks", total=notebooks, unit="")
        self.cells: dict[str, TaskID] = {}
        self.started: dict[str, float] = {}

    def __enter__(self) -> RunProgress:
        self.bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.bars.stop()

    def on_event(self, event: Event) -> None:
        """Take in one event."""
        match event.kind:
            case "run_started":
                self.started[event.run_id] = time.monotonic()
                self.cells[event.run_id] = self.bars.add_task(f"  {event.name}", total=None, unit="cells")
                self._line(f"{event.name}: started")
            case "cell_started" | "cell_ended":
                done = event.cell - (event.kind == "cell_started")
                self.bars.update(self.cells[event.run_id], completed=done, total=event.cells)
            case "run_ended":
                took = time.monotonic() - self.started[event.run_id]
                self.bars.advance(self.notebooks)
                mark = MARKS.get(event.status, "[red]✗[/]")
                self.bars.update(self.cells[event.run_id], description=f"{mark} {event.name}")
                self._line(f"{event.name}: {event.status} in {took:.1f} s")
            case "run_skipped":
                self.bars.advance(self.notebooks)
                self.bars.add_task(f"{MARKS['skipped']} {event.name} (unchanged)", total=1, completed=1, unit="")
                self._line(f"{event.name}: unchanged since {event.run_id}, skipped")

    def _line(self, text: str) -> None:
        if not self.console.is_terminal:
            self.console.print(text, markup=False, highlight=False, soft_wrap=True)
