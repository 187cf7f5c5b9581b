"""Small notebooks built from lists of strings, and the `lepton` command."""

from __future__ import annotations

import ast
import contextlib
import http.server
import importlib.util
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import nbformat
import pytest
from matplotlib.axes import Axes
from processes import Lepton

ROOT = Path(__file__).parents[1]
PATIENCE_S = 240.0
"""Seconds after which a wait fails: each ends by its event, and this ends one whose event never comes.

What a test lets sleep, to see that it is ended, sleeps for longer than that.
"""
KERNEL = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}


def write_notebook(path: Path, cells: list[str], parameters: str | None = None, title: str = "A notebook") -> Path:
    """Write a notebook: a title, an imports cell, the parameters cell if any, and one code cell per string."""
    made = [nbformat.v4.new_markdown_cell(f"# {title}"), nbformat.v4.new_code_cell("import lepton_kit as lk")]
    if parameters is not None:
        made.append(nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    made += [nbformat.v4.new_code_cell(source) for source in cells]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=made, metadata=KERNEL), path)
    return path


def copy_folders(project: Path, *folders: str, without: tuple[str, ...] = ()) -> None:
    """Copy folders of this repository into a project, but nothing of what runs or a report have left in them here."""
    ignored = [line for line in (ROOT / ".gitignore").read_text().splitlines() if line]
    here = {ROOT / line.strip("/") for line in ignored if line.startswith("/")}
    anywhere = (line.strip("/") for line in ignored if not line.startswith("/"))
    by_name = shutil.ignore_patterns(*anywhere, ".building-*", "*.quarto_ipynb", *without)

    def ignore(folder: str, names: list[str]) -> set[str]:
        return by_name(folder, names) | {name for name in names if Path(folder, name) in here}

    for folder in folders:
        shutil.copytree(ROOT / folder, project / folder, ignore=ignore)


def copy_project(project: Path, *folders: str) -> Path:
    """Make a project with this repository's settings and folders of it."""
    copy_folders(project, *folders)
    shutil.copy(ROOT / "lepton.toml", project)
    return project


def unhurried(objective: Path) -> None:
    """Let an objective of latency allow 10 s: on a busy machine answers are slow, and that is another incident."""
    written = objective.read_text()
    assert len(re.findall(r'le="[0-9.]+"', written)) == 1
    objective.write_text(re.sub(r'le="[0-9.]+"', 'le="10.0"', written))


def lepton(*words: str, project: Path, timeout: float = 1800) -> subprocess.CompletedProcess[str]:
    """Run the `lepton` command in a project, as a person would."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("LEPTON_", "PYTEST_", "COLUMNS"))}
    with tempfile.TemporaryDirectory() as folder:
        out, errors = Path(folder, "out"), Path(folder, "errors")
        process = Lepton(*words, project=project, environment=environment, out=out, errors=errors)
        try:
            code = process.wait(timeout)
        finally:
            process.kill()
        return subprocess.CompletedProcess(process.args, code, out.read_text(), errors.read_text())


def lepton_here(*words: str, project: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the `lepton` command in this process, for what is refused at once: another takes seconds to import all."""
    from lepton_kit import cli

    command = ["lepton", *words]
    told, errors = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
    at_sigterm = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as here, contextlib.redirect_stdout(told), contextlib.redirect_stderr(errors):
        for name in [name for name in os.environ if name.startswith(("LEPTON_", "COLUMNS"))]:
            here.delenv(name)
        for name, value in environment.items():
            here.setenv(name, value)
        here.chdir(project)
        here.setattr(sys, "argv", command)
        try:
            cli.main()
        except SystemExit as ended:
            code = ended.code
        finally:
            signal.signal(signal.SIGTERM, at_sigterm)
    for stream in (told, errors):
        stream.seek(0)
    assert isinstance(code, int)
    return subprocess.CompletedProcess(command, code, told.read(), errors.read())


def figures_of(notebook: Path) -> dict[str, Callable[..., Axes]]:
    """Return what a notebook's own cells define to draw its figures: what takes `axes` and returns them, by name."""
    code = [cell.source for cell in nbformat.read(notebook, 4).cells if cell.cell_type == "code"]
    tree = [line for source in code if "axes" in source or "import " in source for line in ast.parse(source).body]
    drawing = [one for one in tree if isinstance(one, ast.FunctionDef) and "axes" in (w.arg for w in one.args.args)]
    imports = [one for one in tree if isinstance(one, ast.Import | ast.ImportFrom)] if drawing else []
    names: dict[str, Any] = {}
    exec(compile(ast.Module([*imports, *drawing], []), str(notebook), "exec"), names)
    return {one.name: names[one.name] for one in drawing if isinstance(one.body[-1], ast.Return)}


@contextlib.contextmanager
def listening(handler: Callable[..., http.server.BaseHTTPRequestHandler]) -> Iterator[str]:
    """Let a handler answer what is asked on loopback, and give the address."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


class Files(http.server.SimpleHTTPRequestHandler):
    """Answers with the files of its `directory`."""

    def log_message(self, *_: Any) -> None: ...


def contents(folder: Path) -> Iterator[tuple[Path, bytes]]:
    """Give each file of a folder that processes still write into; what is gone by the time it is read is left out."""
    for place, _, names in os.walk(folder):
        for path in (Path(place, name) for name in names):
            try:
                content = path.read_bytes()
            except FileNotFoundError:
                continue
            yield path, content


def truth_of(recording: Path) -> dict[str, object]:
    """Return what was really done to make a recording; nothing where nobody wrote it down."""
    path = recording / "truth.json"
    return json.loads(path.read_text()) if path.exists() else {}


def benchmark(name: str) -> ModuleType:
    """Return a module of `benchmarks/`, which is no package."""
    spec = importlib.util.spec_from_file_location(f"benchmarks.{name}", ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
