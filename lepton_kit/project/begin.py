"""Begins a project: its `lepton.toml`, objectives for its service, and copies of what the kit ships."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from lepton_kit.errors import InputError
from lepton_kit.files import write_atomically
from lepton_kit.project.settings import read_settings
from lepton_kit.runs.notebooks import locate_notebook
from lepton_kit.runs.project import SETTINGS
from lepton_kit.runs.shipped import name_of, shipped
from lepton_kit.telemetry.declaration import READY, Declaration, TaskName, signals_of
from lepton_kit.telemetry.selectors import parse_selector
from lepton_kit.telemetry.signals import presets

TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"), undefined=StrictUndefined, keep_trailing_newline=True,
    autoescape=False,
)  # fmt: skip


def begin(folder: Path, service: str | None = None, example: str | None = None, **given: Any) -> list[Path]:
    """Begin a project in a folder, which is made where there is none, and return the files that were written.

    It declares a service by its name and the entries given (`task`, `address`, `signals`), or one of `examples()`;
    without either the declaration is a comment. What lies in the folder already stays.

    Raises InputError when the folder holds a project already, or what is given declares no service.
    """
    path = folder / SETTINGS
    if path.exists():
        raise InputError(f"{path}: exists already; nothing is overwritten")
    if example is not None and example not in examples():
        raise InputError(f"--example {example!r}: must be one of {', '.join(examples()) or 'none'}")
    folder.mkdir(parents=True, exist_ok=True)
    parts = _copied(example, folder) if example else []
    declared = (shipped() / "subjects" / example / "declaration.toml").read_text(encoding="utf-8") if example else ""
    entries = {"task": None, "address": None, "signals": (), **given}
    text = TEMPLATES.get_template("lepton.toml.j2").render(
        service=service, example=declared.strip(), tasks=get_args(TaskName), ready=READY, presets=presets(), **entries
    )
    write_atomically(path, text)
    try:
        declarations = read_settings(folder).services
        parts += [one for declared in declarations.values() for one in _with_objectives(declared, folder)]
        made = [file for name, one in declarations.items() for file in write_objectives(folder, name, one)]
    except InputError:
        path.unlink()  # a project that cannot be read is none
        raise
    readme = folder / "README.md"
    if not readme.exists():
        title = service or folder.resolve().name
        write_atomically(readme, TEMPLATES.get_template("README.md.j2").render(title=title, example=example))
        made.append(readme)
    return [path, *parts, *made]


def examples() -> tuple[str, ...]:
    """Return the names of the subjects that the kit ships."""
    return tuple(sorted(path.parent.name for path in (shipped() / "subjects").glob("*/declaration.toml")))


def _copied(example: str, folder: Path) -> list[Path]:
    target = folder / "subjects" / example
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
    if not target.exists():
        shutil.copytree(shipped() / "subjects" / example, target, ignore=ignored)
    for shared in (shipped() / "subjects").glob("*.py"):  # what several simulations share
        if not (made := target.parent / shared.name).exists():
            shutil.copy(shared, made)
    return [target]


def _with_objectives(declaration: Declaration, folder: Path) -> list[Path]:
    """Copy the objectives of an example, where they do not lie in its own folder."""
    source, target = shipped() / declaration.objectives, folder / declaration.objectives
    if target.exists() or not source.is_dir():
        return []
    shutil.copytree(source, target)
    return [target]


def copy_notebook(given: str, project: Path) -> Path:
    """Copy one of the kit's notebooks or runbooks into the project, to be changed there, and return the copy.

    Raises InputError when there is none of this name, or the project has it already.
    """
    source = locate_notebook(given, project)
    if source.is_relative_to(project.resolve()):
        raise InputError(f"notebook {given!r}: {name_of(source, project)} is in the project already")
    target = project / name_of(source, project)
    target.parent.mkdir(exist_ok=True)
    shutil.copy(source, target)
    return target


# --- objectives -------------------------------------------------------------------------------------------------------


def write_objectives(project: Path, name: str, declaration: Declaration) -> list[Path]:
    """Write objectives of what a service's signals count, where its folder holds none, and return their files."""
    folder = project / declaration.objectives
    if any(folder.glob("*.y*ml")):
        return []
    made = []
    for one in templates_of(name, declaration):
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{one['name']}.yaml"
        write_atomically(path, TEMPLATES.get_template("objective.yaml.j2").render(**one))
        made.append(path)
    return made


LATENCIES: Sequence[tuple[str, str, str, str, str, float]] = (
    ("latency", "latency", "Latency", "Requests answered within 1 s.", "1.0", 0.99),
    ("time_to_first_token", "first-token", "First token", "Answers that began within 1 s.", "1.0", 0.95),
)
"""Signal, name, title, description, bound of the bucket (s) and target of the objectives of a time."""


def templates_of(name: str, declaration: Declaration) -> list[Mapping[str, Any]]:
    """Return what can be promised of a service: an objective for each pair of counters that its signals tell.

    How good its answers are is promised where the service counts those that came true: that takes counters of its own,
    and no template can name them.
    """
    signals = signals_of(declaration)
    found: list[Mapping[str, Any]] = []
    if "requests_total" in signals and "errors" in signals:
        found.append(
            {
                "name": "availability", "title": "Availability", "target": 0.999, "events": "bad",
                "description": "Requests that the service answered without failing.",
                "selector": signals["errors"].selector, "total": signals["requests_total"].selector,
            }
        )  # fmt: skip
    for role, called, title, description, bound, target in LATENCIES:
        parts = signals[role].parts("histogram") if role in signals else {}
        if "bucket" in parts:
            bucket = parse_selector(parts["bucket"]).within({"le": bound})
            found.append(
                {
                    "name": called, "title": title, "description": description, "target": target, "events": "good",
                    "selector": str(bucket), "total": parts["count"],
                }
            )  # fmt: skip
    return [{"service": name, **one} for one in found]
