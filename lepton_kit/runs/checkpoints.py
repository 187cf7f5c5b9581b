"""Stores what a notebook computed at length, in open formats, so that a resumed run need not compute it again.

Beside each value lies a note of what it follows from: the source of the cells executed so far (with the injected
parameters), the kit's code, the installed packages, the project's own modules and the content of every input read.
A value is taken again only where all of these are as they were.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lepton_kit.errors import InputError
from lepton_kit.files import sha256_of, write_atomically

ALLOWED = (
    "a DataFrame, a Series, a tensor, an array, a dict of only tensors or only arrays, or what JSON holds "
    "(text, whole numbers, finite numbers, truth values, None, lists, dicts with text as keys)"
)
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
ENDINGS = {"parquet": ".parquet", "safetensors": ".safetensors", "json": ".json"}
NOTE = ".checkpoint"  # <name>.checkpoint: the note beside the file; written last, so that it vouches for the file
KEY = ".key"  # in a resumable folder: the hash of what its content follows from


@dataclass(frozen=True)
class Stored:
    """The note beside a checkpoint's file: how to read it, and what it follows from.

    `details` is what the format itself does not keep; `inputs` and `modules` map references and files to their
    sha256 (None for what is not a local file).
    """

    name: str
    kind: str
    format: str
    file: str
    sha256: str
    bytes: int
    key: str | None
    details: dict[str, Any]
    inputs: dict[str, str | None]
    modules: dict[str, str]


def check_name(name: str) -> None:
    """Refuse a name that cannot be a file's."""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise InputError(f"checkpoint {name!r}: its name must be of letters, digits, '.', '_' and '-' (at most 100)")


def store(
    name: str, value: Any, folder: Path, key: str | None, inputs: Mapping[str, str | None], modules: Mapping[str, str]
) -> Stored:
    """Write a value into a folder, whole or not at all, and its note after it.

    Raises InputError when the value is of a type that no open format keeps, or does not come back equal.
    """
    kind, details = _kind(name, value)
    format_ = {"frame": "parquet", "series": "parquet", "json": "json"}.get(kind, "safetensors")
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{name}{ENDINGS[format_]}"
    handle, draft_name = tempfile.mkstemp(dir=folder, prefix=".draft-", suffix=ENDINGS[format_])
    os.close(handle)
    draft = Path(draft_name)
    try:
        _write(name, kind, value, draft)
        _check_comes_back(name, kind, value, draft, details)
        sha256, size = sha256_of(draft), draft.stat().st_size
        with draft.open("rb") as written:
            os.fsync(written.fileno())
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)
    stored = Stored(name, kind, format_, target.name, sha256, size, key, details, dict(inputs), dict(modules))
    _write_note(stored, folder)
    return stored


def find(name: str, folder: Path) -> Stored | None:
    """Return the note of a checkpoint, or None where there is none that can be read."""
    try:
        stored = Stored(**json.loads((folder / f"{name}{NOTE}").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    is_own = stored.name == name and stored.file in {f"{name}{ending}" for ending in ENDINGS.values()}
    return stored if is_own else None


def why_not(stored: Stored, folder: Path, key: str | None, project: Path) -> str | None:
    """Return why a stored value cannot be taken again, or None when it can."""
    from lepton_kit.runs.references import is_remote, resolve

    if key is None or stored.key != key:
        return "the cells before it, its parameters, the packages or the kit have changed"
    for reference, sha256 in stored.inputs.items():
        if reference.startswith("http"):
            return f"input {reference} is not a local file: whether it has changed is unknown"
        try:
            now = None if is_remote(reference) else sha256_of(resolve(reference, project).path)
        except (InputError, OSError):
            return f"input {reference} is gone"
        if now != sha256:
            return f"input {reference} has changed"
    for module, sha256 in stored.modules.items():
        if not (project / module).is_file() or sha256_of(project / module) != sha256:
            return f"the project's module {module} has changed"
    path = folder / stored.file
    if not path.is_file() or sha256_of(path) != stored.sha256:
        return "its file is damaged"
    return None


def reuse(
    name: str, source: Path, folder: Path, key: str | None, project: Path
) -> tuple[Any, Stored | None, str | None]:
    """Take a value from the run that is resumed: (value, its note, None), or (None, None, why not)."""
    stored = find(name, source)
    if stored is None:
        damaged = (source / f"{name}{NOTE}").exists()
        return None, None, "its note is damaged" if damaged else None
    if reason := why_not(stored, source, key, project):
        return None, None, reason
    try:
        value = _read(stored.kind, source / stored.file, stored.details)
        _keep(stored, source, folder)
    except Exception as error:  # whatever makes it unusable, computing it again is right, and the line says why
        return None, None, f"its file cannot be read here: {error}"
    return value, stored, None


def _keep(stored: Stored, source: Path, folder: Path) -> None:
    """Put a reused checkpoint into the new run's folder too, so that this run can be resumed in its turn."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / stored.file
    target.unlink(missing_ok=True)
    try:
        os.link(source / stored.file, target)
    except OSError:  # another file system
        shutil.copyfile(source / stored.file, target)
    _write_note(stored, folder)


def take_over(name: str, folder: Path, resumed: str | None) -> Path:
    """Return the folder `name`, empty, or as the resumed run left it where what it follows from is as it was."""
    target, key = folder / name, present_key()
    shutil.rmtree(target, ignore_errors=True)
    left = Path(resumed) / name if resumed else target
    if key and (left / KEY).is_file() and (left / KEY).read_text(encoding="utf-8") == key:
        shutil.copytree(left, target)
        return target
    target.mkdir(parents=True)
    if key:
        write_atomically(target / KEY, key)
    return target


def present_key() -> str | None:
    """Return the hash of the source executed so far and of the software; None where no kernel keeps its source."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if shell is None:
        return None
    from lepton_kit.runs.manifest import code_sha256, packages

    sources = [source for source in shell.history_manager.input_hist_raw if source.strip()]
    text = json.dumps([sources, code_sha256(), packages(), sys.version])
    return hashlib.sha256(text.encode()).hexdigest()


def declared_inputs(run_folder: Path) -> dict[str, str | None]:
    """Return the inputs that the run's manifest declares, with their hashes."""
    try:
        manifest = json.loads((run_folder / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {each["ref"]: each["sha256"] for each in manifest.get("inputs", [])}


def project_modules(project: Path) -> dict[str, str]:
    """Return the project's own modules that are imported now (relative path: sha256); not installed packages."""
    found = {}
    outside = {Path(sys.prefix).resolve(), Path(__file__).resolve().parents[1]}
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if not isinstance(file, str) or not Path(file).is_absolute():  # torch names files that are none
            continue
        path = Path(file).resolve()
        if path.is_relative_to(project.resolve()) and not any(path.is_relative_to(each) for each in outside):
            found[path.relative_to(project.resolve()).as_posix()] = sha256_of(path)
    return found


def _kind(name: str, value: Any) -> tuple[str, dict[str, Any]]:
    """Say how a value is stored, and note what its format does not keep."""
    pandas, torch, numpy = (sys.modules.get(module) for module in ("pandas", "torch", "numpy"))
    if pandas is not None and isinstance(value, pandas.DataFrame | pandas.Series):
        details = {"freq": getattr(value.index, "freqstr", None)}
        if isinstance(value, pandas.DataFrame):
            return "frame", details
        if value.name is not None and not isinstance(value.name, str):
            raise InputError(f"checkpoint {name!r}: the Series' name {value.name!r} must be text or None")
        return "series", {**details, "name": value.name}
    classes = {"tensor": torch and torch.Tensor, "array": numpy and numpy.ndarray}
    for kind, one in ((kind, one) for kind, one in classes.items() if one):
        if isinstance(value, dict) and value and all(isinstance(each, one) for each in value.values()):
            _check_json(name, dict.fromkeys(value), "the value")
            kind = f"{kind}s"
        elif not isinstance(value, one):
            continue
        held = _several(kind, value)
        return kind, {"devices": {key: str(each.device) for key, each in held.items()}} if one is classes[
            "tensor"
        ] else {}
    _check_json(name, value, "the value")
    return "json", {}


def _several(kind: str, value: Any) -> dict[str, Any]:
    """Return tensors or arrays by name, as safetensors keeps them; one by itself is called `value`."""
    return value if kind.endswith("s") else {"value": value}


def _check_json(name: str, value: Any, place: str) -> None:
    """Refuse what JSON would not give back as it was (a tuple would come back as a list)."""
    if type(value) is dict:
        for key, item in value.items():
            if type(key) is not str:
                raise InputError(f"checkpoint {name!r}: key {key!r} is a {type(key).__name__}; keys must be text")
            _check_json(name, item, f"{place}[{key!r}]")
    elif type(value) is list:
        for index, item in enumerate(value):
            _check_json(name, item, f"{place}[{index}]")
    elif type(value) is float and not math.isfinite(value):
        raise InputError(f"checkpoint {name!r}: {place} is {value}, which JSON cannot hold; allowed: {ALLOWED}")
    elif value is not None and type(value) not in (bool, int, float, str):
        raise InputError(f"checkpoint {name!r}: {place} is a {type(value).__name__}; allowed: {ALLOWED}")


def _write(name: str, kind: str, value: Any, path: Path) -> None:
    try:
        if kind in ("frame", "series"):
            (value if kind == "frame" else value.to_frame("value")).to_parquet(path, engine="pyarrow")
        elif kind == "json":
            path.write_text(json.dumps(value, ensure_ascii=False, allow_nan=False), encoding="utf-8")
        elif kind.startswith("tensor"):
            from safetensors.torch import save_file as save_tensors

            tensors = _several(kind, value)
            if trained := [key for key, tensor in tensors.items() if tensor.requires_grad]:
                raise InputError(f"tensor {trained[0]!r} requires gradients, which are not stored; give `.detach()`")
            # copies: tensors that share memory (tied weights) are refused otherwise
            save_tensors({key: tensor.contiguous().clone() for key, tensor in tensors.items()}, path)
        else:
            import numpy
            from safetensors.numpy import save_file as save_arrays

            save_arrays({key: numpy.array(array, order="C") for key, array in _several(kind, value).items()}, path)
    except OSError:
        raise
    except Exception as error:  # each library refuses in its own way
        raise InputError(f"checkpoint {name!r}: {type(value).__name__} cannot be stored: {error}") from error


def _read(kind: str, path: Path, details: Mapping[str, Any]) -> Any:
    if kind == "json":
        return json.loads(path.read_text(encoding="utf-8"))
    if kind in ("frame", "series"):
        import pandas

        frame = pandas.read_parquet(path, engine="pyarrow")
        if details["freq"]:
            frame.index.freq = details["freq"]  # type: ignore[attr-defined]
        return frame if kind == "frame" else frame["value"].rename(details["name"])
    if kind.startswith("array"):
        from safetensors.numpy import load_file as load_arrays

        held: dict[str, Any] = load_arrays(path)
    else:
        from safetensors.torch import load_file as load_tensors

        tensors: dict[str, Any] = load_tensors(path)
        held = {key: tensors[key].to(device) for key, device in details["devices"].items()}
    return held if kind.endswith("s") else held["value"]


def _check_comes_back(name: str, kind: str, value: Any, path: Path, details: Mapping[str, Any]) -> None:
    """Read a value back and compare: a resumed run must go on with exactly what was computed."""
    again = _read(kind, path, details)
    try:
        if kind in ("frame", "series"):
            from pandas.testing import assert_frame_equal, assert_series_equal

            (assert_frame_equal if kind == "frame" else assert_series_equal)(value, again, check_exact=True)
            assert value.attrs == again.attrs, "its `attrs` differ"
        elif kind.startswith("tensor"):
            from torch.testing import assert_close

            assert_close(again, value, rtol=0, atol=0, equal_nan=True)
        elif kind.startswith("array"):
            from numpy.testing import assert_array_equal

            for key, array in _several(kind, value).items():
                assert_array_equal(_several(kind, again)[key], array, strict=True)
    except AssertionError as error:
        lost = " ".join(str(error).split())[:200]
        raise InputError(
            f"checkpoint {name!r}: does not come back equal from the stored file ({lost}); allowed: {ALLOWED}"
        ) from error


def _write_note(stored: Stored, folder: Path) -> None:
    write_atomically(folder / f"{stored.name}{NOTE}", json.dumps(asdict(stored), indent=1) + "\n")
