"""Teaches nbval the kit's results: numbers with their tolerance, texts exactly; not pictures, timings and stderr.

Loaded with `pytest --nbval -p lepton_kit.runs.nbval_plugin`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from nbformat import NotebookNode
from nbval.plugin import IPyNbCell, IPyNbFile

from lepton_kit.notebook import CHART, EXPECTATION, INPUT, RESULT, payloads
from lepton_kit.runs.client import STARTUP
from lepton_kit.runs.comparison import Difference, compare_results

PICTURES = ("image/png", "image/jpeg", "image/svg+xml", "application/pdf", CHART)
SECONDS_FOR_OUTPUT = 60  # nbval gives a cell's output 5 s, too short for a machine that runs other tests too


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that names a file for the differences found, one JSON object a line."""
    parser.addoption("--lepton-differences", default=None, help="Write differing results to this file as JSON lines.")


def pytest_collectstart(collector: pytest.Collector) -> None:
    """Compare no pictures, and prepare the kernel as for a run."""
    if isinstance(collector, IPyNbFile):
        collector.skip_compare = (*collector.skip_compare, *PICTURES)
        start = collector.setup

        def setup() -> None:
            start()
            if collector.nb.metadata.get("language_info", {}).get("name", "python") == "python":
                collector.kernel.kc.execute(STARTUP, silent=True, store_history=False)

        collector.setup = setup
        collector.displays = Displays(collector.get_kernel_message)
        collector.get_kernel_message = collector.displays.next_message


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Note the cell whose messages come next."""
    if isinstance(item, IPyNbCell):
        item.parent.displays.begin(item)


class Displays:
    """Updates displays and clears outputs of the cell that runs, as a notebook does; nbval only adds up what comes."""

    def __init__(self, receive: Callable[..., dict[str, Any]]) -> None:
        self.receive = receive

    def begin(self, cell: Any) -> None:
        """Note that a cell begins."""
        self.cell = cell
        self.places: dict[str, list[int]] = {}  # of each display, among the cell's outputs
        self.clears = False  # with the next output

    def next_message(self, *options: Any, **named: Any) -> dict[str, Any]:
        """Return the next message, once what it means for earlier outputs is done."""
        message = self.receive(*options, **named)
        kind, content, outputs = message["msg_type"], message["content"], self.cell.test_outputs
        display = (content.get("transient") or {}).get("display_id")
        shows = kind in ("stream", "display_data", "execute_result", "error")
        if (shows and self.clears) or (kind == "clear_output" and not content.get("wait")):
            outputs.clear()
            self.places.clear()
        self.clears = (kind == "clear_output" and bool(content.get("wait"))) or (self.clears and not shows)
        if display is not None:
            for place in self.places.get(display, []):
                outputs[place]["data"] = content["data"]
            if shows:
                self.places.setdefault(display, []).append(len(outputs))
        return message


def pytest_itemcollected(item: pytest.Item) -> None:
    """Put the comparison of recorded results before nbval's own."""
    if isinstance(item, IPyNbCell):
        item.output_timeout = SECONDS_FOR_OUTPUT
        compare_rest = item.compare_outputs

        # A cell whose other output is not compared may still record results: those always count.
        item.options["check"], compares_rest = True, item.options["check"]

        def compare_outputs(new: list[Any], old: list[Any], skip_compare: Any = None) -> bool:
            differences = compare_results(_results(old), _results(new)) + _compare_expectations(old, new)
            agrees = not compares_rest or compare_rest(_rest(new), _rest(old), skip_compare)
            if differences:
                # nbval starts a new list of its own; ours come first because they name the result.
                item.comparison_traceback = [*map(str, differences), *getattr(item, "comparison_traceback", [])]
                _report(item, differences)
            return agrees and not differences

        item.compare_outputs = compare_outputs


def _results(outputs: list[Any]) -> dict[str, Any]:
    return {payload["name"]: payload for payload in payloads(outputs, RESULT)}


def _compare_expectations(old: list[Any], new: list[Any]) -> list[Difference]:
    was, now = ([(p["message"], p["passed"]) for p in payloads(outputs, EXPECTATION)] for outputs in (old, new))
    return [] if was == now else [Difference("expectations", was, now, "the same expectations, met alike")]


def _rest(outputs: list[Any]) -> list[Any]:
    """Return what nbval compares: not what is compared above, and of a table its text, which says the same.

    Text on stderr is no output: a warning names places of the machine, a progress bar the time.
    """
    kept = []
    for output in outputs:
        data = output.get("data", {})
        if RESULT in data or EXPECTATION in data or output.get("name") == "stderr":
            continue
        same = INPUT if INPUT in data else "text/html" if _says_something(data.get("text/plain", "")) else None
        if same in data:
            output = NotebookNode({**output, "data": {kind: shown for kind, shown in data.items() if kind != same}})
        kept.append(output)
    return kept


def _says_something(text: str) -> bool:
    return bool(text) and not text.startswith("<IPython.core.display.")


def _report(item: pytest.Item, differences: list[Difference]) -> None:
    if path := item.config.getoption("--lepton-differences"):
        with Path(path).open("a", encoding="utf-8") as file:
            for difference in differences:
                file.write(json.dumps(vars(difference)) + "\n")
