"""Runs a run again: one that succeeded, to see whether its results come out the same; or one that did not, to go on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from lepton_kit.errors import InputError
from lepton_kit.runs.check import check_untouched
from lepton_kit.runs.comparison import compare_results
from lepton_kit.runs.manifest import NOTEBOOK, Manifest, Result, finished_runs
from lepton_kit.runs.notebooks import locate_notebook
from lepton_kit.runs.runner import Event, Plan, Request, execute, prepare
from lepton_kit.runs.shipped import folder_of

Listener = Callable[[Event], None] | None
Verdict = Literal["same", "different", "missing", "new", "not compared"]


@dataclass(frozen=True)
class ResultPair:
    """One result of two runs; `before` or `after` is None where that run has none of this name."""

    name: str
    before: Result | None
    after: Result | None
    verdict: Verdict
    differences: list[str]


@dataclass(frozen=True)
class Verification:
    """A run, its repetition, and what became of each result."""

    run: Manifest
    repeated: Manifest
    results: list[ResultPair]

    @property
    def is_same(self) -> bool:
        """Whether the repetition succeeded and every result that is compared is the same."""
        ended_well = self.repeated.status == "succeeded"
        return ended_well and all(pair.verdict in ("same", "not compared") for pair in self.results)


def verify(run: Manifest, project: Path, on_event: Listener = None) -> Verification:
    """Repeat a run: its own notebook as it was, its parameters, and its inputs, whose content is checked first.

    The repetition is a run of its own, called `verify-<name>`, so that nothing takes its artifacts for the originals.

    Raises InputError when the run did not succeed, or its folder or an input is no longer what it was.
    """
    check_untouched(run, project)
    request = Request(
        run.folder(project) / NOTEBOOK,
        run.given_parameters,
        given_by=f"run {run.run_id}",
        trigger=f"verify:{run.run_id}",
        beside=folder_of(run.notebook, project),
    )
    plan = replace(prepare(request, project), name=f"verify-{run.name}", title=run.title)
    repeated = execute(plan, project, on_event)
    return Verification(run, repeated, pair_results(run.results, repeated.results))


def pair_results(before: dict[str, Result], after: dict[str, Result]) -> list[ResultPair]:
    """Compare two runs' results by name, with the tolerances of the first."""
    return [_pair(name, before.get(name), after.get(name)) for name in dict.fromkeys([*before, *after])]


def _pair(name: str, before: Result | None, after: Result | None) -> ResultPair:
    if before is None or after is None:
        return ResultPair(name, before, after, "new" if before is None else "missing", [])
    if not before.compare:
        return ResultPair(name, before, after, "not compared", [])
    found = compare_results({name: before.model_dump()}, {name: after.model_dump()})
    return ResultPair(name, before, after, "different" if found else "same", [str(each) for each in found])


def resume(run: Manifest, project: Path, on_event: Listener = None, kernel: str | None = None) -> Manifest:
    """Run a run's notebook again with its parameters; `lk.checkpoint` takes what is still valid from it.

    `kernel` names another kernel than the notebook does. The new run's `resumed_from` names the old one; it can be
    resumed as well. Raises InputError when the run still goes on or has succeeded, or its notebook or a parameter is no
    longer what is needed.
    """
    if run.status in ("running", "queued"):
        raise InputError(f"run {run.run_id!r}: is {run.status}; if it was killed, `lepton runs --repair` marks it so")
    if run.status == "succeeded":
        raise InputError(
            f"run {run.run_id!r}: has succeeded, so there is nothing to resume; `lepton verify` repeats it"
        )
    request = Request(
        locate_notebook(run.notebook, project),
        run.given_parameters,
        given_by=f"run {run.run_id}",
        trigger=f"resume:{run.run_id}",
        kernel=kernel,
    )
    return execute(replace(prepare(request, project), resumed_from=run.run_id), project, on_event)


def unfinished(plan: Plan, project: Path) -> str | None:
    """Return the newest run of the very same plan (cells, values, inputs, code), if that did not succeed; else None."""
    newest = next((run for run in finished_runs(project) if run.name == plan.name and run.key == plan.key), None)
    return newest.run_id if newest and newest.key and newest.status != "succeeded" else None
