"""Runs the jobs of JupyterLab's scheduler (jupyter-scheduler) through the kit.

`Scheduler.execution_manager_class` names the class; the wheel brings that setting with it.
"""

from __future__ import annotations

import ast
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jupyter_scheduler.executors import DefaultExecutionManager
from jupyter_scheduler.orm import Job

from lepton_kit.errors import InputError, LeptonError
from lepton_kit.ops.lab.started import options_of, publish
from lepton_kit.runs.background import BackgroundRun
from lepton_kit.runs.manifest import FILE, NOTEBOOK, Manifest
from lepton_kit.runs.notebooks import read_notebook
from lepton_kit.runs.project import find_project
from lepton_kit.runs.runner import Request

TRIGGER = "jupyter-scheduler"
NOT_SEARCHED = ("runs", "jobs", "reports", "node_modules", "__pycache__")
"""Folders of a project in which no notebook is looked for: what runs and jobs have left is no original."""


class LeptonExecutionManager(DefaultExecutionManager):  # type: ignore[misc] # jupyter-scheduler ships no types
    """Runs a job as `lepton run` does: parameters checked first, retries, deadlines, redaction, resume, a manifest.

    The project is `LEPTON_PROJECT`, or that of JupyterLab's root folder. Where there is none, the job is run as
    jupyter-scheduler itself does it, which its message says; that needs a notebook that names its kernel.
    """

    def execute(self) -> None:
        """Run the job to its end; what it made is its output files, also where it failed.

        Raises LeptonError when the run did not succeed, and InputError when it was refused: the job shows the message.
        """
        try:
            project = find_project(None if os.environ.get("LEPTON_PROJECT") else Path(self.root_dir))
        except InputError as error:
            if not super().validate(self.staging_paths["input"]):
                name = Path(self.staging_paths["input"]).name
                raise InputError(f"{name}: names no kernel, which a job outside a project needs: {error}") from error
            self._say(f"Not run by Lepton Kit, but by jupyter-scheduler: {error}")
            super().execute()
            return
        run = BackgroundRun(self._request(project), project, options_of(project), resumes=True).wait()
        page = publish(run, project)
        self._leave_files(run, project, page)
        if run.status != "succeeded":
            raise LeptonError(ending_of(run))
        self._say(ending_of(run))

    def validate(self, input_path: str) -> bool:  # called with the class in place of an instance
        """Say that a notebook may be a job; a Python notebook that names no kernel has this Python's."""
        return True

    def _request(self, project: Path) -> Request:
        copy = Path(self.staging_paths["input"])
        original = original_of(copy, project)
        is_same = original is not None and original.read_bytes() == copy.read_bytes()
        beside = copy.parent if self.model.package_input_folder or original is None else original.parent
        return Request(
            original if original is not None and is_same else copy,
            {name: as_typed(text) for name, text in (self.model.parameters or {}).items()},
            given_by="the job's parameters",
            trigger=TRIGGER,
            beside=beside,
        )

    def _leave_files(self, run: Manifest, project: Path, page: Path | None) -> None:
        import nbformat
        from nbconvert import get_exporter

        folder, root = run.folder(project), Path(self.root_dir)
        if not (folder / NOTEBOOK).is_file():
            return
        for output_format in self.model.output_formats:
            # JupyterLab resolves /… from its root folder, a browser from the file, which is in jobs/NAME/.
            prefix = "/" if output_format == "ipynb" else "../../"
            notebook = read_notebook(folder / NOTEBOOK)
            words = account(run, prefix, {"Manifest": folder / FILE, "Report page": page}, root)
            notebook.cells.append(nbformat.v4.new_markdown_cell(words))
            made, _ = get_exporter(output_format)().from_notebook_node(notebook)
            Path(self.staging_paths[output_format]).write_text(made, encoding="utf-8")
        if self.model.package_input_folder:  # which has the job list all files, and offer them
            staging = Path(self.staging_paths["input"]).parent
            shutil.copy(folder / FILE, staging / FILE)
            shutil.copytree(folder / "artifacts", staging / "artifacts", dirs_exist_ok=True)
            self.add_side_effects_files(str(staging))

    def _say(self, message: str) -> None:
        with self.db_session() as session:
            session.query(Job).filter(Job.job_id == self.job_id).update({"status_message": message})
            session.commit()


def as_typed(text: str) -> Any:
    """Return a value from the dialog as `-p` takes it; Python's literals mean themselves, as with jupyter-scheduler.

    >>> [as_typed(text) for text in ("5", "prices.csv", "'prices.csv'", "True", '{"a": 1}', "(1, 2)")]
    ['5', 'prices.csv', 'prices.csv', True, '{"a": 1}', [1, 2]]
    """
    with suppress(ValueError):
        if not isinstance(json.loads(text), str):
            return text
    with suppress(ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        value = ast.literal_eval(text.strip())
        return json.loads(json.dumps(value, default=lambda _: text))
    return text


def original_of(copy: Path, project: Path) -> Path | None:
    """Return the notebook of a project that a job was made of: of the same name, and if it can be of the same content.

    jupyter-scheduler keeps a copy alone, whose folder has neither the modules nor the name that a manifest needs.
    """
    found, content = list(_named(copy.name, project)), copy.read_bytes()
    same = [path for path in found if path.read_bytes() == content]
    chosen = same[:1] or (found if len(found) == 1 else [])
    return chosen[0] if chosen else None


def _named(name: str, project: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(project):
        folders[:] = sorted(one for one in folders if not one.startswith(".") and one not in NOT_SEARCHED)
        if name in files:
            yield Path(folder, name)


def ending_of(run: Manifest) -> str:
    """Return how a run ended, in a sentence, and how it goes on where it did not succeed."""
    where = f"runs/{run.run_id}/{FILE}"
    if run.status == "succeeded":
        return f"Run {run.run_id} succeeded; its manifest is {where}"
    cell = f" in code cell {run.error.cell}" if run.error and run.error.cell is not None else ""
    why = f": {run.error.name}: {run.error.message}" if run.error else ""
    again = "a new job with the same parameters resumes it from its checkpoints"
    return f"Run {run.run_id}: {run.status}{cell}{why}\nManifest: {where}; {again}"


def account(run: Manifest, prefix: str, files: dict[str, Path | None], root: Path) -> str:
    """Return Markdown that says which run made an output, with links to its files that are in JupyterLab's folder."""
    lines = [f"---\n\nRun `{run.run_id}` of Lepton Kit: **{run.status}**"]
    for title, path in files.items():
        if path is None:
            continue
        if path.is_relative_to(root.resolve()):
            inside = path.relative_to(root.resolve()).as_posix()
            lines.append(f"[{title}]({prefix}{quote(inside)})")
        else:
            lines.append(f"{title}: `{path}`")
    return " · ".join(lines)
