"""Compares two runs: what they were given, what they ran on, what they found, and their notebooks."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lepton_kit.runs.manifest import NOTEBOOK, Manifest, Result
from lepton_kit.runs.notebooks import is_counted, read_notebook
from lepton_kit.runs.repeat import ResultPair, pair_results

SHOWN = 60  # characters of a value in a table


@dataclass(frozen=True)
class Change:
    """A named fact that is not the same in both runs; None where one has no such fact."""

    name: str
    before: str | None
    after: str | None


@dataclass(frozen=True)
class RunDiff:
    """What differs between two runs, and the results of both."""

    before: Manifest
    after: Manifest
    parameters: list[Change]
    inputs: list[Change]
    versions: list[Change]
    results: list[ResultPair]
    notebook: str

    @property
    def is_same(self) -> bool:
        """Whether nothing differs but what may differ from run to run."""
        changed = self.parameters or self.inputs or self.versions or self.notebook
        same = all(pair.verdict in ("same", "not compared") for pair in self.results)
        return not changed and same and self.before.status == self.after.status

    def sections(self) -> dict[str, tuple[list[str], list[list[str]]]]:
        """Return the tables to show, by heading: their columns and rows."""
        runs = [self.before.run_id, self.after.run_id]
        facts = [["status", self.before.status, self.after.status], ["took", *map(_took, (self.before, self.after))]]
        tables = {"runs": (["", *runs], facts)}
        named = {"parameters": self.parameters, "inputs": self.inputs, "versions": self.versions}
        for heading, changes in named.items():
            rows = [[change.name, change.before or "–", change.after or "–"] for change in changes]
            tables[heading] = (["changed", "before", "after"], rows)
        rows = [[pair.name, _shown(pair.before), _shown(pair.after), _verdict(pair)] for pair in self.results]
        tables["results"] = (["result", "before", "after", "verdict"], rows)
        return {heading: table for heading, table in tables.items() if table[1]}


def diff(before: Manifest, after: Manifest, project: Path) -> RunDiff:
    """Compare two runs; results with the tolerances that the first declared."""
    return RunDiff(
        before,
        after,
        parameters=_changes(before.parameters, after.parameters),
        inputs=_changes(_contents(before), _contents(after)),
        versions=_changes(_versions(before), _versions(after)),
        results=pair_results(before.results, after.results),
        notebook=_notebook_diff(before.folder(project) / NOTEBOOK, after.folder(project) / NOTEBOOK),
    )


def _changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    def text(values: Mapping[str, Any], name: str) -> str | None:
        return str(values[name]) if name in values else None

    names = [name for name in dict.fromkeys([*before, *after]) if before.get(name, ...) != after.get(name, ...)]
    return [Change(name, text(before, name), text(after, name)) for name in names]


def _contents(run: Manifest) -> dict[str, str]:
    """Return the hash of each input; a parameter's under its name, since the reference names a run each time anew."""
    return {f"{i.parameter}" if i.parameter else i.ref: (i.sha256 or i.ref)[:12] for i in run.inputs}


def _versions(run: Manifest) -> dict[str, str]:
    git = f"{run.git.commit[:12]}{' with changes' if run.git.dirty else ''}" if run.git else "none"
    ours = {"lepton_kit (code)": run.code_sha256[:12], "project (git)": git}
    machine = {"python": run.environment.python, "platform": run.environment.platform}
    return {**ours, **machine, **run.environment.packages}


def _notebook_diff(before: Path, after: Path) -> str:
    """Return nbdime's account of what differs in sources and outputs; empty when nothing does."""
    from nbdime.diffing.notebooks import diff_notebooks
    from nbdime.prettyprint import PrettyPrintConfig, pretty_print_notebook_diff

    one, other = _plain(before), _plain(after)
    if not (found := diff_notebooks(one, other)):
        return ""
    told = io.StringIO()
    pretty_print_notebook_diff(
        "before", "after", one, found, PrettyPrintConfig(out=told, use_color=False, use_git=False, use_diff=False)
    )
    return told.getvalue().partition("\n## ")[2].strip()


def _plain(path: Path) -> Any:
    """Return a notebook without what every run writes anew: times, counts, ids, and its parameters."""
    notebook = read_notebook(path)
    notebook.metadata.clear()
    notebook.cells = [cell for cell in notebook.cells if cell.cell_type != "code" or is_counted(cell)]
    for index, cell in enumerate(notebook.cells):
        cell.id = f"cell-{index}"
        cell.metadata.clear()
        if cell.cell_type == "code":
            cell.execution_count = None
            cell.outputs = [output for output in cell.outputs if not _is_recorded(output)]
            for output in cell.outputs:
                if "execution_count" in output:
                    output.execution_count = None
    return notebook


def _is_recorded(output: Any) -> bool:
    """Whether an output is a result or the like: those are compared already, with tolerances."""
    return any(media_type.startswith("application/vnd.lepton.") for media_type in output.get("data", {}))


def _took(run: Manifest) -> str:
    return f"{run.duration_s} s"


def _shown(result: Result | None) -> str:
    text = "–" if result is None else result.line
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def _verdict(pair: ResultPair) -> str:
    return f"{pair.verdict}: {'; '.join(pair.differences[:3])}" if pair.differences else pair.verdict
