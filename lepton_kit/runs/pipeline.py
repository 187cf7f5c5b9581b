"""Runs a pipeline: notebooks one after another, skipping what has not changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lepton_kit.errors import InputError
from lepton_kit.runs.manifest import Manifest, finished_runs
from lepton_kit.runs.notebooks import locate_notebook
from lepton_kit.runs.runner import Event, Plan, Request, execute, prepare
from lepton_kit.runs.settings import Pipeline, read_settings


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
    name: str, project: Path, *, force: bool = False, on_event: Callable[[Event], None] | None = None
) -> list[StepRun]:
    """Run the steps of a pipeline in order, up to the first that does not succeed.

    Parameters
    ----------
    name
        The pipeline's name in `lepton.toml`.
    project
        The project's root.
    force
        Run every step, also those whose notebook, parameters, inputs and code have not changed since they succeeded.
    on_event
        Called as runs and cells start and end; a skipped step gives one `run_skipped`.

    Returns
    -------
    list of StepRun
        One for each step that was run or skipped; the last one's status tells whether the pipeline succeeded.
    """
    done: list[StepRun] = []
    for step in find_pipeline(name, project).steps:
        request = Request(
            locate_notebook(step.notebook, project),
            step.parameters,
            given_by=f"lepton.toml, pipeline {name}",
            trigger=f"pipeline:{name}",
            # A step reads what this pipeline made, not what somebody else ran later with other parameters.
            pipeline_runs={earlier.run.name: earlier.run.run_id for earlier in done},
        )
        done.append(_run_step(prepare(request, project), project, force, on_event))
        if done[-1].run.status != "succeeded":
            break
    return done


def _run_step(plan: Plan, project: Path, force: bool, on_event: Callable[[Event], None] | None) -> StepRun:
    earlier = None if force else _unchanged_run(plan, project)
    if earlier is None:
        return StepRun(execute(plan, project, on_event), skipped=False)
    if on_event:
        on_event(Event("run_skipped", earlier.run_id, plan.name, status=earlier.status))
    return StepRun(earlier, skipped=True)


def _unchanged_run(plan: Plan, project: Path) -> Manifest | None:
    """Return the newest successful run with the plan's key whose artifacts all still lie there."""
    for run in finished_runs(project):
        if plan.key and run.key == plan.key and run.status == "succeeded":
            folder = run.folder(project) / "artifacts"
            if all((folder / artifact.file).is_file() for artifact in run.artifacts):
                return run
    return None
