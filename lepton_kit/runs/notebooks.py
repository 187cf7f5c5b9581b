"""Reads notebooks: their cells, title, language and kernel; finds them."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from lepton_kit.errors import InputError
from lepton_kit.runs.shipped import NOTEBOOKS, shipped

SKIPPED, NBVAL_SKIPPED = "skip-execution", "nbval-skip"
"""The tags of nbclient and of nbval for a cell that is not to be run."""

TEXT = (".py", ".md")
"""The endings of notebooks as text, as Jupytext writes and JupyterLab opens them; they hold no outputs."""

CONDITION = re.compile(r"(if|unless):(\w+)=(.+)")


@dataclass(frozen=True)
class Kernel:
    """A kernel that is installed here; `instead_of` is the one that the notebook names, where that is not."""

    name: str
    title: str
    language: str
    instead_of: str | None = None


def read_notebook(path: Path) -> Any:
    """Read a notebook of any format that Jupyter opens, or one as text, as a notebook of format 4.5.

    Raises InputError when there is no such file, or it is not a notebook.
    """
    from lepton_kit.runs.upgrade import of_text, parse  # nbformat takes a third of a second that `--help` need not pay

    if not path.is_file():
        raise InputError(f"notebook {str(path)!r}: no such file")
    try:
        content = path.read_bytes()
        return of_text(content, path.suffix) if is_text(path) else parse(content)
    except OSError as error:
        raise InputError(f"notebook {str(path)!r} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"notebook {str(path)!r}: not a Jupyter notebook: {error}") from error


def is_text(path: Path) -> bool:
    """Say whether a notebook is text, by its name.

    >>> is_text(Path("a.py")), is_text(Path("a.ipynb"))
    (True, False)
    """
    return path.suffix in TEXT


def tags(cell: Any) -> list[str]:
    """Return the tags of a cell."""
    return list(cell.metadata.get("tags", []))


def is_counted(cell: Any) -> bool:
    """Say whether it is a code cell that the person who wrote the notebook sees: papermill adds one with values."""
    return cell.cell_type == "code" and "injected-parameters" not in tags(cell)


def language_of(notebook: Any) -> str:
    """Return the language of a notebook's cells in small letters; empty where the notebook does not say it.

    >>> from nbformat.v4 import new_notebook
    >>> language_of(new_notebook(metadata={"kernelspec": {"name": "ir", "display_name": "R", "language": "R"}}))
    'r'
    """
    metadata = notebook.metadata
    named = metadata.get("language_info", {}).get("name") or metadata.get("kernelspec", {}).get("language") or ""
    return "python" if str(named).lower() in ("python", "ipython", "python3", "python2") else str(named).lower()


def title_of(notebook: Any, default: str) -> str:
    """Return the text of the first heading of level 1, written with `#` or underlined with `=`; none is in code."""
    for cell in notebook.cells:
        if cell.cell_type != "markdown":
            continue
        lines, is_code = cell.source.splitlines(), False
        for line, below in zip(lines, [*lines[1:], ""], strict=True):
            is_code ^= line.lstrip().startswith(("```", "~~~"))
            if not is_code and line.startswith("# "):
                return str(line.removeprefix("# ").strip())
            if not is_code and line.strip() and below.startswith("=") and not below.strip("= "):
                return str(line.strip())
    return default


def source_sha256(notebook: Any) -> str:
    """Return the hash of what a notebook does: its cells without outputs, so that new outputs are no change."""
    cells = [[cell.cell_type, tags(cell), cell.source] for cell in notebook.cells]
    return hashlib.sha256(json.dumps(cells).encode()).hexdigest()


def chosen_cells(notebook: Any, values: Mapping[str, Any]) -> Any:
    """Return a notebook without the cells that its parameters rule out, such as those of another subject's story.

    A cell tagged `if:NAME=PATTERN` is kept where the parameter has such a value (`*` stands for any letters), one
    tagged `unless:NAME=PATTERN` where it has not. What is kept so loses the tags by which other tools skip it.
    """
    kept = []
    for cell in notebook.cells:
        conditions = [found for tag in tags(cell) if (found := CONDITION.fullmatch(tag))]
        if all(fnmatchcase(str(values.get(one[2])), one[3]) == (one[1] == "if") for one in conditions):
            if conditions:
                cell.metadata["tags"] = [tag for tag in tags(cell) if tag not in (SKIPPED, NBVAL_SKIPPED)]
            kept.append(cell)
    notebook.cells = kept
    return notebook


def find_notebooks(project: Path) -> list[Path]:
    """Return the project's notebooks and runbooks, in reading order, and those of the kit that it has no copy of.

    Of a notebook that is paired with text the `.ipynb` counts; a `.py` or `.md` is one where its head says `jupytext`.
    """
    found: dict[str, Path] = {}
    for root in (project, shipped()):
        for folder in NOTEBOOKS:
            text = [path for ending in TEXT for path in (root / folder).glob(f"[!.]*{ending}") if _names_jupytext(path)]
            for path in [*sorted((root / folder).glob("[!.]*.ipynb")), *sorted(text)]:
                found.setdefault(f"{folder}/{path.stem}", path)
    return [found[name] for name in sorted(found)]


def _names_jupytext(path: Path) -> bool:
    with path.open("rb") as file:
        return b"jupytext:" in file.read(2000)


def modules_in(folder: Path) -> list[Path]:
    """Return the modules and packages in a folder, which a notebook beside them can import."""
    return [path for path in sorted(folder.glob("*")) if path.suffix == ".py" or (path / "__init__.py").is_file()]


def locate_notebook(given: str, project: Path) -> Path:
    """Find a notebook by its path, its name (`01-data-cleaning`), or a beginning that is of one name alone (`01`).

    Raises InputError when it is none of these, or several names begin so; the message names the notebooks that there
    are.
    """
    for candidate in (Path(given), project / given, shipped() / given):
        if candidate.is_file():
            return candidate.resolve()
    known: dict[str, Path] = {}
    for path in find_notebooks(project):
        known.setdefault(path.stem, path)
    names = list(known)
    meant = [given] if given in known else [name for name in names if given and name.startswith(given)]
    if len(meant) == 1:
        return known[meant[0]]
    if meant:
        raise InputError(f"notebook {given!r}: matches {len(meant)} notebooks: {', '.join(meant)}")
    close = difflib.get_close_matches(Path(given).name.removesuffix(".ipynb"), names, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    there = f"there are: {', '.join(names) or 'none'}"
    raise InputError(f"notebook {given!r}: no such file, and no notebook of that name ({there}){hint}")


def installed_kernel(notebook: Any, origin: str, asked: str | None = None) -> Kernel:
    """Return the kernel that runs a notebook here: the one asked for, its own, or this Python's for Python.

    Raises InputError when the kernel asked for is not installed, or the notebook is of another language than Python and
    its own is not, or names one that is not installed and no language.
    """
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    manager = KernelSpecManager()
    named = notebook.metadata.get("kernelspec", {}).get("name")
    language = language_of(notebook)
    wanted = asked or named or ("python3" if language in ("", "python") else None)
    try:
        if wanted is not None:
            spec = manager.get_kernel_spec(wanted)
            return Kernel(wanted, spec.display_name, spec.language)
    except NoSuchKernel:
        if asked is None and language == "python":
            here = manager.get_kernel_spec("python3")
            return Kernel("python3", here.display_name, here.language, instead_of=named)
    known = ", ".join(sorted(manager.find_kernel_specs())) or "none"
    said = f"its kernel {wanted!r} is not installed" if asked is None else f"kernel {asked!r} is not installed"
    if language not in ("", "python"):
        said = f"its language is {language}, and {said if wanted else 'it names no kernel'}"
    raise InputError(f"{origin}: {said} (installed are: {known}; `--kernel NAME` runs it with another)")
