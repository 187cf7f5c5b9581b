"""Runs a pipeline: notebooks one after another, skipping what has not changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from lepton_kit.errors import InputError
from lepton_kit.files import sha256_of
from lepton_kit.project.settings import Pipeline, Step, read_settings
from lepton_kit.runs.manifest import Manifest, finished_runs
from lepton_kit.runs.notebooks import locate_notebook, read_notebook
from lepton_kit.runs.parameters import check_values, read_parameters
from lepton_kit.runs.runner import Event, Plan, Request, execute, prepare


@dataclass(frozen=True)
class StepRun:
    """A step and the run that stands for it: a new one, or an earlier one when nothing has changed."""

    run: Manifest
    skipped: bool


def find_pipeline(name: str, project: Path) -> Pipeline:
    """Return a pipeline of `lepton.toml`."""
    pipelines = read_settings(project).pipelines
    if name not in pipelines:
        known = ", ".join(pipelines) or "none"
        raise InputError(f"pipeline {name!r}: not in {project / 'lepton.toml'} (there are: {known})")
    return pipelines[name]


def run_pipeline(
    name: str,
    project: Path,
    *,
    force: bool = False,
    kernel: str | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> list[StepRun]:
    """Run the steps of a pipeline in order, up to the first that does not succeed, whose status tells how it went.

    A step whose notebook, parameters, inputs and code have not changed since it succeeded is skipped, unless `force`:
    it gives one event `run_skipped`.
    """
    done: list[StepRun] = []
    steps = find_pipeline(name, project).steps
    for step, request in zip(steps, _requests(name, steps, project), strict=True):
        # A step reads what this pipeline made, not what somebody else ran later with other parameters.
        made_here = {earlier.run.name: earlier.run.run_id for earlier in done}
        request = replace(request, pipeline_runs=made_here, kernel=kernel)
        must_run = force or not all((project / path).exists() for path in step.leaves)
        done.append(_run_step(prepare(request, project), project, must_run, on_event))
        if done[-1].run.status != "succeeded":
            break
    return done


def _requests(name: str, steps: list[Step], project: Path) -> list[Request]:
    """Return what the steps ask for; a wrong name or type in the last step is reported before the first step runs."""
    origin = f"lepton.toml, pipeline {name}"
    requests = [
        Request(locate_notebook(step.notebook, project), step.parameters, origin, trigger=f"pipeline:{name}")
        for step in steps
    ]
    for request in requests:
        notebook = request.notebook.name
        parameters = read_parameters(read_notebook(request.notebook), notebook)
        check_values(parameters, request.parameters, None, notebook, origin)
    return requests


def _run_step(plan: Plan, project: Path, must_run: bool, on_event: Callable[[Event], None] | None) -> StepRun:
    earlier = None if must_run else unchanged_run(plan, project)
    if earlier is None:
        return StepRun(execute(plan, project, on_event), skipped=False)
    if on_event:
        on_event(Event("run_skipped", earlier.run_id, plan.name, status=earlier.status))
    return StepRun(earlier, skipped=True)


def _is_what_was_left(path: Path, sha256: str) -> bool:
    return path.is_file() and sha256_of(path) == sha256


def unchanged_run(plan: Plan, project: Path) -> Manifest | None:
    """Return the newest successful run with the plan's key whose artifacts are all still what it left."""
    for run in finished_runs(project):
        if plan.key and run.key == plan.key and run.status == "succeeded":
            folder = run.folder(project) / "artifacts"
            if all(_is_what_was_left(folder / artifact.file, artifact.sha256) for artifact in run.artifacts):
                return run
    return None
