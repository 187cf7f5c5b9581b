"""Runs a notebook again that did not get to its end, with the checkpoints that it had reached."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from lepton_kit.errors import InputError
from lepton_kit.runs.manifest import Manifest
from lepton_kit.runs.notebooks import locate_notebook
from lepton_kit.runs.runner import Event, Request, execute, prepare


def resume(
    run: Manifest,
    project: Path,
    on_event: Callable[[Event], None] | None = None,
    kernel: str | None = None,
) -> Manifest:
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
