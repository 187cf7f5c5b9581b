"""Finds Quarto, renders with it, and brings it where it is missing: `python -m lepton_kit.reports.quarto [SECONDS]`."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lepton_kit.errors import InputError, LeptonError

OLDEST = (1, 7)
VARIABLE = "LEPTON_QUARTO"
BY_HAND = "install it from https://quarto.org (1.7 or newer)"
ADVICE = f"{BY_HAND}, or run `pip install quarto-cli`"


@dataclass(frozen=True)
class Quarto:
    """A Quarto that is new enough."""

    program: Path
    version: str


def find_quarto() -> Quarto | None:
    """Return the first Quarto that is new enough, or None where there is none at all.

    Looked for in this order: the environment variable `LEPTON_QUARTO` (a program, and then no other; or `none`), the
    search path, and beside the running Python.

    Raises InputError when `LEPTON_QUARTO` names no program, or every Quarto found is older than 1.7.
    """
    programs = list(_programs())
    found = [Quarto(program, _version(program)) for program in programs]
    usable = [quarto for quarto in found if version_key(quarto.version) >= OLDEST]
    if found and not usable:
        seen = ", ".join(f"{quarto.version} at {quarto.program}" for quarto in found)
        raise InputError(f"Quarto {seen}: must be 1.7 or newer; {ADVICE}, and set {VARIABLE} to it if it is not found")
    return usable[0] if usable else None


def render(quarto: Quarto, folder: Path, target: Path, on_line: Callable[[str], None]) -> None:
    """Render a Quarto project into another folder, telling each line that Quarto writes.

    Raises LeptonError when Quarto fails; the message ends with its last lines.
    """
    command = [str(quarto.program), "render", str(folder), "--output-dir", os.path.relpath(target, folder)]
    last: deque[str] = deque(maxlen=20)
    with subprocess.Popen(
        command, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        encoding="utf-8", errors="replace", env={**os.environ, "QUARTO_PYTHON": sys.executable},
    ) as process:  # fmt: skip
        assert process.stdout is not None
        for line in map(without_colours, process.stdout):
            last.append(line)
            on_line(line)
    if process.returncode != 0:
        told = "\n".join(last).strip()
        raise LeptonError(f"Quarto {quarto.version} could not render {folder} (exit {process.returncode}):\n{told}")


MODULE = 'import * as tabsets from "./tabsets/tabsets.js";\n'


def let_work_from_a_folder(site: Path) -> None:
    """Let pages of Quarto 1.7 work when they are opened from a folder, where a browser loads no JavaScript module.

    Its two modules become plain scripts, and its search no longer gives up there (`reports/header.html` brings it its
    index). A Quarto whose scripts are made otherwise is left as it is.
    """
    search = site / "site_libs" / "quarto-search" / "quarto-search.js"
    if search.is_file():
        gives_up = 'window.location.protocol === "file:" && !shownWarning'
        search.write_text(search.read_text(encoding="utf-8").replace(gives_up, "false"), encoding="utf-8")
    script = site / "site_libs" / "quarto-html" / "quarto.js"
    tabsets = script.parent / "tabsets" / "tabsets.js"
    code = script.read_text(encoding="utf-8") if script.is_file() and tabsets.is_file() else ""
    if not code.startswith(MODULE):
        return
    inner = tabsets.read_text(encoding="utf-8").replace("export function init", "function init")
    tabsets_there = f"const tabsets = (() => {{\n{inner}\nreturn {{ init }};\n}})();\n"
    script.write_text(f"(() => {{\n{tabsets_there}{code.removeprefix(MODULE)}\n}})();\n", encoding="utf-8")
    for page in site.rglob("*.html"):
        markup = page.read_text(encoding="utf-8")
        markup = re.sub(r'<script src="[^"]*/tabsets\.js" type="module"></script>\n?', "", markup)
        markup = re.sub(r'(<script src="[^"]*/quarto\.js") type="module">', r"\1 defer>", markup)
        page.write_text(markup, encoding="utf-8")


def version_key(version: str) -> tuple[int, ...]:
    """Return a version's leading numbers, which compare as versions do.

    Examples
    --------
    >>> version_key("1.10.2-rc1") > version_key("1.7.34")
    True
    """
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


def install(seconds: float = 180) -> str:
    """Try to install Quarto beside the running Python, and return one line about the result.

    Nothing depends on its success: without Quarto, pages are plain.
    """
    try:
        if quarto := find_quarto():
            return f"Quarto {quarto.version} is there: {quarto.program}"
    except InputError as error:
        if os.environ.get(VARIABLE):
            return str(error)
    outcome = _pip_install(seconds)
    try:
        quarto = find_quarto()
    except InputError as error:
        return str(error)
    if quarto is not None:
        return f"Quarto {quarto.version} was installed: {quarto.program}"
    return f"Quarto was not installed ({outcome}); reports will be plain pages. To have Quarto's, {BY_HAND}"


def _programs() -> Iterator[Path]:
    given = os.environ.get(VARIABLE)
    if given == "none":
        return
    if given:
        if not os.access(given, os.X_OK) or Path(given).is_dir():
            raise InputError(f"{VARIABLE} = {given!r}: no such program; give Quarto's own, or `none`")
        yield Path(given)
        return
    if on_path := shutil.which("quarto"):
        yield Path(on_path)
    if beside := shutil.which("quarto", path=str(Path(sys.executable).parent)):
        yield Path(beside)


def _version(program: Path) -> str:
    try:
        asked = subprocess.run([program, "--version"], capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        raise InputError(
            f"{program} does not print its version ({error}): repair it, or set {VARIABLE}=none"
        ) from error
    return asked.stdout.strip()


def without_colours(line: str) -> str:
    """Return what a program wrote to a terminal as plain text."""
    return re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip()


def _pip_install(seconds: float) -> str:
    """Run pip for a bounded time, with all it starts, and return the outcome."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "quarto-cli>=1.7"]
    try:
        pip = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )
    except OSError as error:
        return str(error)
    try:
        told, _ = pip.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(pip.pid, signal.SIGKILL)
        pip.communicate()
        return f"pip took longer than {seconds:g} s"
    lines = [line for line in told.splitlines() if line.strip().startswith("ERROR")] or told.splitlines()
    return "pip: " + (lines[-1].strip() if lines else "done") if pip.returncode else "pip has installed it elsewhere"


def _main() -> None:
    try:
        seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 180.0
    except ValueError:
        sys.exit(f"time {sys.argv[1]!r}: must be a number of seconds")
    print(install(seconds))


if __name__ == "__main__":
    _main()
