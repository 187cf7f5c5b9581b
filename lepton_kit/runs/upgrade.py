"""Makes a notebook of format 4.5 of what other tools, older ones and hands leave, as far as Jupyter opens it too."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator
from typing import Any

import yaml

FORMAT = (4, 5)
CELL_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")
WHAT_FAILS = (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError)
"""What reading something that is no notebook ends in; jsonschema's own error is named where it is caught."""


def parse(content: bytes) -> Any:
    """Return the notebook in a file's content (UTF-8, with or without a byte order mark) in format 4.5.

    Raises ValueError, whose message fits on a line, when it is not JSON, not a notebook, or of a format that is not
    known.
    """
    import nbformat

    try:
        document = json.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start} is not UTF-8") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error}") from error
    except RecursionError as error:
        raise ValueError("its JSON is nested too deeply") from error
    major = document.get("nbformat") if isinstance(document, dict) else None
    if not isinstance(major, int) or isinstance(major, bool):
        raise ValueError("it has no number `nbformat`, so it is not a Jupyter notebook")
    if not 1 <= major <= FORMAT[0]:
        raise ValueError(f"its format is {major}; known are 1 to {FORMAT[0]}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nbformat warns of what is repaired below
        try:
            if major < FORMAT[0]:
                document = nbformat.convert(nbformat.versions[major].to_notebook_json(document), FORMAT[0])
            notebook = nbformat.from_dict(_notebook(document))
            nbformat.validate(notebook)
        except (nbformat.ValidationError, *WHAT_FAILS) as error:
            reason = getattr(error, "message", None) or str(error) or type(error).__name__
            raise ValueError(str(reason).strip().splitlines()[0][:200]) from error
    return notebook


def of_text(content: bytes, ending: str) -> Any:
    """Return the notebook in a text (UTF-8) by Jupytext, whose cells are named by their places.

    Raises ValueError, whose message fits on a line, when it is not UTF-8, or Jupytext cannot read it.
    """
    import jupytext

    try:
        notebook = jupytext.reads(content.decode("utf-8-sig"), fmt=ending.removeprefix("."))
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start} is not UTF-8") from error
    except (jupytext.formats.JupytextFormatError, yaml.YAMLError, *WHAT_FAILS) as error:
        raise ValueError(" ".join(str(error).split())[:200] or type(error).__name__) from error
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"
    return parse(json.dumps(notebook).encode())


def _notebook(document: dict[str, Any]) -> dict[str, Any]:
    cells = document.get("cells")
    if not isinstance(cells, list) or not all(isinstance(cell, dict) for cell in cells):
        raise ValueError("its `cells` are not a list of objects")
    metadata = _object(document.get("metadata"))
    language = _text(_object(metadata.get("kernelspec")).get("language"))
    for name in ("kernelspec", "language_info"):
        if not _text(_object(metadata.get(name)).get("name")):
            metadata.pop(name, None)  # what has no name names no kernel
    if "language_info" not in metadata and language:
        metadata["language_info"] = {"name": language}
    if "kernelspec" in metadata:
        metadata["kernelspec"] = {"display_name": metadata["kernelspec"]["name"], **metadata["kernelspec"]}
    ids = _ids(cells)
    made = [_cell(cell, next(ids)) for cell in cells]
    return {"cells": made, "metadata": metadata, "nbformat": FORMAT[0], "nbformat_minor": FORMAT[1]}


def _ids(cells: list[dict[str, Any]]) -> Iterator[str]:
    """Yield an id for each cell: its own, unless that is missing, not allowed, or taken by a cell before it."""
    taken: set[str] = set()
    own = {cell["id"] for cell in cells if isinstance(cell.get("id"), str)}
    for number, cell in enumerate(cells):
        id = cell.get("id")
        if not isinstance(id, str) or not CELL_ID.fullmatch(id) or id in taken:
            id = f"cell-{number}"
            while id in taken | own:
                id += "-"
        taken.add(id)
        yield id


def _cell(cell: dict[str, Any], id: str) -> dict[str, Any]:
    kind = cell.get("cell_type")
    kind = kind if kind in ("code", "markdown") else "raw"
    made = {"cell_type": kind, "id": id, "metadata": _cell_metadata(cell), "source": _text(cell.get("source"))}
    if kind == "code":
        outputs = cell.get("outputs")
        made["execution_count"] = _count(cell)
        made["outputs"] = [_output(one) for one in outputs if _is_output(one)] if isinstance(outputs, list) else []
    elif isinstance(cell.get("attachments"), dict):
        made["attachments"] = cell["attachments"]
    return made


def _cell_metadata(cell: dict[str, Any]) -> dict[str, Any]:
    metadata = _object(cell.get("metadata"))
    for name, kind in (("collapsed", bool), ("name", str), ("jupyter", dict), ("execution", dict), ("format", str)):
        if name in metadata and not isinstance(metadata[name], kind):
            del metadata[name]
    if metadata.get("scrolled", "auto") not in (True, False, "auto"):
        del metadata["scrolled"]
    if "tags" in metadata:  # Jupyter leaves out what is no list
        tags = metadata["tags"] if isinstance(metadata["tags"], list) else []
        metadata["tags"] = list(dict.fromkeys(tag for tag in tags if isinstance(tag, str) and tag and "," not in tag))
    return metadata


def _is_output(output: Any) -> bool:
    return isinstance(output, dict) and output.get("output_type") in (
        "stream", "display_data", "execute_result", "error"
    )  # fmt: skip


def _output(output: dict[str, Any]) -> dict[str, Any]:
    kind = output["output_type"]
    if kind == "stream":
        name = output.get("name")
        name = name if isinstance(name, str) else "stdout"
        return {"output_type": kind, "name": name, "text": _text(output.get("text"))}
    if kind == "error":
        lines = output.get("traceback")
        lines = [_text(line) for line in lines] if isinstance(lines, list) else []
        named = {part: _text(output.get(part)) for part in ("ename", "evalue")}
        return {"output_type": kind, **named, "traceback": lines}
    made = {"output_type": kind, "data": _data(output.get("data")), "metadata": _object(output.get("metadata"))}
    return made | ({"execution_count": _count(output)} if kind == "execute_result" else {})


def _data(data: Any) -> dict[str, Any]:
    """Return what is shown, by media type: JSON as it is, all else as text."""
    return {
        kind: shown if kind == "application/json" or kind.endswith("+json") else _text(shown)
        for kind, shown in _object(data).items()
        if isinstance(kind, str)
    }


def _object(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, dict) else {}


def _count(holder: dict[str, Any]) -> int | None:
    count = holder.get("execution_count")
    return count if isinstance(count, int) and not isinstance(count, bool) and count >= 0 else None


def _text(value: Any) -> str:
    """Return a text, which may be a list of its lines."""
    if isinstance(value, list):
        return "".join(line for line in value if isinstance(line, str))
    return value if isinstance(value, str) else ""
