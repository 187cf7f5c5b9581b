"""Finds Quarto, and renders with it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lepton_kit.errors import InputError, LeptonError

OLDEST = (1, 7)
VARIABLE = "LEPTON_QUARTO"
ADVICE = "install it from https://quarto.org (1.7 or newer), or run `pip install quarto-cli`"


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
