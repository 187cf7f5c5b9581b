"""Reads notebooks: their cells, title and parameters cell."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from lepton_kit.errors import InputError
from lepton_kit.runs.shipped import NOTEBOOKS, shipped

SKIPPED, NBVAL_SKIPPED = "skip-execution", "nbval-skip"
"""The tags of nbclient and of nbval for a cell that is not to be run."""

CONDITION = re.compile(r"(if|unless):(\w+)=(.+)")


def read_notebook(path: Path) -> Any:
    """Read a notebook of any format that Jupyter opens, as one of format 4.5.

    Raises
    ------
    InputError
        When there is no such file, or it is not a notebook.
    """
    from lepton_kit.runs.upgrade import parse  # nbformat takes a third of a second that `--help` need not pay

    if not path.is_file():
        raise InputError(f"notebook {str(path)!r}: no such file")
    try:
        return parse(path.read_bytes())
    except OSError as error:
        raise InputError(f"notebook {str(path)!r} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"notebook {str(path)!r}: not a Jupyter notebook: {error}") from error


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
    """Return the project's notebooks and runbooks, in reading order, and those of the kit that it has no copy of."""
    found: dict[str, Path] = {}
    for root in (project, shipped()):
        for folder in NOTEBOOKS:
            for path in sorted((root / folder).glob("[!.]*.ipynb")):
                found.setdefault(f"{folder}/{path.name}", path)
    return [found[name] for name in sorted(found)]


def locate_notebook(given: str, project: Path) -> Path:
    """Find a notebook by its path, its name (`01-data-cleaning`), or a beginning that is of one name alone (`01`).

    Raises
    ------
    InputError
        When it is none of these, or several names begin so; the message names the notebooks that there are.
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
        raise InputError(f"notebook {given!r}: {len(meant)} names begin so: {', '.join(meant)}")
    close = difflib.get_close_matches(Path(given).name.removesuffix(".ipynb"), names, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    there = f"there are: {', '.join(names) or 'none'}"
    raise InputError(f"notebook {given!r}: no such file, and no notebook of that name ({there}){hint}")
