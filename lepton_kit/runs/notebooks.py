"""Reads notebooks: their cells, title and parameters cell."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from lepton_kit.errors import InputError


def read_notebook(path: Path) -> Any:
    """Read a notebook in format 4.

    Raises
    ------
    InputError
        When there is no such file, or it is not a valid notebook.
    """
    import nbformat  # a third of a second that `lepton runs` or `--help` need not pay

    if not path.is_file():
        raise InputError(f"notebook {str(path)!r}: no such file")
    try:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise InputError(f"notebook {str(path)!r}: not a Jupyter notebook (JSON, nbformat 4): {reason}") from error
    return notebook


def tags(cell: Any) -> list[str]:
    """Return the tags of a cell."""
    return list(cell.metadata.get("tags", []))


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


def find_notebooks(project: Path) -> list[Path]:
    """Return the project's notebooks and runbooks, in reading order."""
    return [
        path
        for folder in ("notebooks", "runbooks")
        for path in sorted((project / folder).glob("*.ipynb"))
        if not path.name.startswith(".")
    ]


def locate_notebook(given: str, project: Path) -> Path:
    """Find a notebook by its path, or by its name alone (`01-data-cleaning`).

    Raises
    ------
    InputError
        When it is neither; the message names the notebooks that there are.
    """
    for candidate in (Path(given), project / given):
        if candidate.is_file():
            return candidate.resolve()
    named = [path for path in find_notebooks(project) if path.stem == given]
    if named:
        return named[0]
    known = ", ".join(path.stem for path in find_notebooks(project)) or "none"
    raise InputError(f"notebook {given!r}: no such file, and no notebook of that name (there are: {known})")
