"""Graphs that `torch.export.save` wrote, loaded without executing anything that the file holds.

`torch.export.load` reads pickles (sample inputs, weights of some kinds, constants), evaluates expressions and guards,
calls whatever function of torch a node names, and writes names into source code. So the archive is read here first,
what needs none of that is checked against narrow patterns, and only that is written into the archive that torch loads.
"""

from __future__ import annotations

import ast
import io
import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from lepton_kit.errors import InputError

KEPT = re.compile(
    r"archive_format|archive_version|byteorder|\.data/version|models/model\.json|data/sample_inputs/model\.pt"
    r"|data/(weights|constants)/(model_\w+_config\.json|(weight|tensor)_\d+)|\.data/serialization_id"
)
OPERATOR = re.compile(
    r"torch\.ops\.aten\.(?!from_file)\w+\.\w+|_operator\.(add|sub|mul|floordiv|truediv|mod|neg|eq|ne|lt|le|gt|ge|getitem)"
)
PLAIN = re.compile(r"[\w.]*")
SYMBOLS = {
    "Symbol", "Integer", "Add", "Mul", "Pow", "Max", "Min", "Mod", "FloorDiv", "Eq", "Ne", "Lt", "Le", "Gt", "Ge",
}  # fmt: skip
PRECISIONS = {7: torch.float32, 8: torch.float64}


def load_exported(file: Path) -> tuple[Callable[..., Any], torch.dtype]:
    """Return the graph of a `*.pt2`, to call with rows (n, columns), and the precision that it wants them in.

    Raises InputError as `load_program` does.
    """
    program, precision = load_program(file)
    return program.module(), precision


def load_program(file: Path) -> tuple[torch.export.ExportedProgram, torch.dtype]:
    """Return what a `*.pt2` holds, and the precision that it wants rows in.

    Raises InputError when the file is damaged, or holds what loading would execute; the message names it.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            records = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
        program = json.loads(records["models/model.json"])
        first = program["graph_module"]["graph"]["tensor_values"][_user_input(program)]
        exported = torch.export.load(io.BytesIO(_archive(_checked(records, program))))
        return exported, PRECISIONS[first["dtype"]]
    except _Refused as error:
        raise InputError(f"{file}: {error}; not loaded, since torch would execute it") from error
    except Exception as error:  # of a damaged file, torch and zipfile raise nearly anything
        raise InputError(f"{file}: not a readable torch.export archive ({type(error).__name__}: {error})") from error


class _Refused(Exception):  # noqa: N818 - a judgement of a file
    """What a file holds could be executed."""


def _user_input(program: dict[str, Any]) -> str:
    given = [
        one["user_input"]["arg"] for one in program["graph_module"]["signature"]["input_specs"] if "user_input" in one
    ]
    if len(given) != 1 or "as_tensor" not in given[0]:
        raise ValueError(f"takes {len(given)} inputs; one tensor of rows is needed")
    return str(given[0]["as_tensor"]["name"])


def _checked(records: dict[str, bytes], program: dict[str, Any]) -> dict[str, bytes]:
    """Return the records that torch may load; raise _Refused where one could be executed."""
    if others := [name for name in records if not KEPT.fullmatch(name)]:
        raise _Refused(f"holds {others[0]!r}")
    for name in ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json"):
        for what, held in json.loads(records[name])["config"].items():
            if held["use_pickle"] or not re.fullmatch(r"(weight|tensor)_\d+", held["path_name"]):
                raise _Refused(f"{what!r} is kept as a pickle")
    for node in program["graph_module"]["graph"]["nodes"]:
        node["metadata"] = {}  # where a node came from: nothing needs it
    program |= {"guards_code": [], "torch_version": ""}
    _check(program, "")
    return {**records, "models/model.json": json.dumps(program).encode(), "data/sample_inputs/model.pt": b""}


def _check(value: Any, key: str) -> None:
    """Raise _Refused unless every text of the program is a plain name, or one of the few kinds that are known."""
    if isinstance(value, dict):
        for name, held in value.items():
            _check(name, "")
            _check(held, name)
    elif isinstance(value, list):
        for held in value:
            _check(held, key)
    elif isinstance(value, str):
        _check_text(value, key)


def _check_text(text: str, key: str) -> None:
    if key in ("in_spec", "out_spec"):
        _check_tree(json.loads(text)[1] if text else None)
    elif key == "expr_str":
        _check_expression(text)
    elif key == "as_operator" or not (OPERATOR if key == "target" else PLAIN).fullmatch(text):
        raise _Refused(f"{key or 'a name'} {text[:80]!r} is not an allowed value")


def _check_tree(tree: Any) -> None:
    if tree is not None:
        if tree["type"] not in (None, "builtins.tuple", "builtins.list", "builtins.dict"):
            raise _Refused(f"its inputs or outputs are a {str(tree['type'])[:80]!r}")
        for child in tree["children_spec"]:
            _check_tree(child)


def _check_expression(text: str) -> None:
    """Raise _Refused unless a size is made of symbols, whole numbers and sympy's arithmetic: sympy evaluates it."""
    for node in ast.walk(ast.parse(text, mode="eval")):
        is_call = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in SYMBOLS
        is_constant = isinstance(node, ast.Constant) and (
            isinstance(node.value, int) or bool(re.fullmatch(r"[a-z]\w*", str(node.value)))
        )
        is_name = isinstance(node, ast.Name) and (node.id in SYMBOLS or re.fullmatch(r"[su]\d+", node.id))
        if not (is_call or is_constant or is_name or isinstance(node, ast.Expression | ast.keyword | ast.Load)):
            raise _Refused(f"expression {text[:80]!r}")


def _archive(records: dict[str, bytes]) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_STORED) as archive:
        for name, content in records.items():
            archive.writestr(f"model/{name}", content)
    return written.getvalue()
