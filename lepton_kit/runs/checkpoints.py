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
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lepton_kit.errors import InputError
from lepton_kit.files import sha256_of

ALLOWED = (
    "a DataFrame, a Series, a tensor, an array, a dict of only tensors or only arrays, or what JSON holds "
    "(text, whole numbers, finite numbers, truth values, None, lists, dicts with text as keys)"
)
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
ENDINGS = {"parquet": ".parquet", "safetensors": ".safetensors", "json": ".json"}
NOTE = ".checkpoint"  # <name>.checkpoint: the note beside the file; written last, so that it vouches for the file


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

    Raises
    ------
    InputError
        When the value is of a type that no open format keeps, or does not come back equal.
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
        _sync(draft)
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
        value = load(stored, source)
        keep(stored, source, folder)
    except Exception as error:  # whatever makes it unusable, computing it again is right, and the line says why
        return None, None, f"its file cannot be read here: {error}"
    return value, stored, None


def load(stored: Stored, folder: Path) -> Any:
    """Read a value back."""
    return _read(stored.kind, folder / stored.file, stored.details)


def keep(stored: Stored, source: Path, folder: Path) -> None:
    """Put a reused checkpoint into the new run's folder too, so that this run can be resumed in its turn."""
    import shutil

    folder.mkdir(parents=True, exist_ok=True)
    target = folder / stored.file
    target.unlink(missing_ok=True)
    try:
        os.link(source / stored.file, target)
    except OSError:  # another file system
        shutil.copyfile(source / stored.file, target)
    _write_note(stored, folder)


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
    for kind, found in (
        ("tensor", torch is not None and torch.Tensor), ("array", numpy is not None and numpy.ndarray),
    ):  # fmt: skip
        if found and isinstance(value, found):
            return kind, _devices({"value": value}) if kind == "tensor" else {}
        if found and isinstance(value, dict) and value and all(isinstance(each, found) for each in value.values()):
            _check_keys(name, value)
            return f"{kind}s", _devices(value) if kind == "tensor" else {}
    _check_json(name, value, "the value")
    return "json", {}


def _devices(tensors: Mapping[str, Any]) -> dict[str, Any]:
    return {"devices": {key: str(tensor.device) for key, tensor in tensors.items()}}


def _check_keys(name: str, value: dict[Any, Any]) -> None:
    for key in value:
        if type(key) is not str:
            raise InputError(f"checkpoint {name!r}: key {key!r} is a {type(key).__name__}; keys must be text")


def _check_json(name: str, value: Any, place: str) -> None:
    """Refuse what JSON would not give back as it was (a tuple would come back as a list)."""
    if type(value) is dict:
        _check_keys(name, value)
        for key, item in value.items():
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
        if kind == "frame":
            value.to_parquet(path, engine="pyarrow")
        elif kind == "series":
            value.to_frame("value").to_parquet(path, engine="pyarrow")
        elif kind == "json":
            path.write_text(json.dumps(value, ensure_ascii=False, allow_nan=False), encoding="utf-8")
        elif kind.startswith("tensor"):
            _write_tensors(value if kind == "tensors" else {"value": value}, path)
        else:
            import numpy
            from safetensors.numpy import save_file

            arrays = value if kind == "arrays" else {"value": value}
            save_file({key: numpy.array(array, order="C") for key, array in arrays.items()}, path)
    except OSError:
        raise
    except Exception as error:  # each library refuses in its own way
        raise InputError(f"checkpoint {name!r}: {type(value).__name__} cannot be stored: {error}") from error


def _write_tensors(tensors: Mapping[str, Any], path: Path) -> None:
    from safetensors.torch import save_file

    for key, tensor in tensors.items():
        if tensor.requires_grad:
            raise InputError(f"tensor {key!r} requires gradients, which are not stored; give `.detach()`")
    # copies: tensors that share memory (tied weights) are refused otherwise
    save_file({key: tensor.contiguous().clone() for key, tensor in tensors.items()}, path)


def _read(kind: str, path: Path, details: Mapping[str, Any]) -> Any:
    if kind == "json":
        return json.loads(path.read_text(encoding="utf-8"))
    if kind in ("frame", "series"):
        import pandas

        frame = pandas.read_parquet(path, engine="pyarrow")
        if details["freq"]:
            frame.index.freq = details["freq"]  # type: ignore[attr-defined]
        return frame if kind == "frame" else frame["value"].rename(details["name"])
    if kind in ("array", "arrays"):
        from safetensors.numpy import load_file as load_arrays

        arrays = load_arrays(path)
        return arrays["value"] if kind == "array" else arrays
    from safetensors.torch import load_file

    tensors = {key: tensor.to(details["devices"][key]) for key, tensor in load_file(path).items()}
    return tensors["value"] if kind == "tensor" else {key: tensors[key] for key in details["devices"]}


def _check_comes_back(name: str, kind: str, value: Any, path: Path, details: Mapping[str, Any]) -> None:
    """Read a value back and compare: a resumed run must go on with exactly what was computed."""
    again = _read(kind, path, details)
    lost = f"checkpoint {name!r}: {{}} does not come back equal from the stored file; allowed: {ALLOWED}"
    if kind in ("frame", "series"):
        _check_frame(value, again, lost)
    elif kind.startswith("tensor"):
        one, other = (value, again) if kind == "tensors" else ({"value": value}, {"value": again})
        for key, tensor in one.items():
            if tensor.dtype != other[key].dtype or not _same_bytes(tensor.cpu(), other[key].cpu()):
                raise InputError(lost.format(f"tensor {key!r}"))
    elif kind.startswith("array"):
        one, other = (value, again) if kind == "arrays" else ({"value": value}, {"value": again})
        for key, array in one.items():
            same = array.dtype == other[key].dtype and array.shape == other[key].shape
            if not same or array.tobytes() != other[key].tobytes():
                raise InputError(lost.format(f"array {key!r}"))


def _same_bytes(one: Any, other: Any) -> bool:
    if one.shape != other.shape:
        return False
    return bool(((one == other) | ((one != one) & (other != other))).all())  # NaN is the same as NaN here


def _check_frame(value: Any, again: Any, lost: str) -> None:
    from pandas.testing import assert_frame_equal, assert_series_equal

    frames = hasattr(value, "columns")
    try:
        (assert_frame_equal if frames else assert_series_equal)(value, again, check_exact=True)
    except AssertionError as error:
        raise InputError(lost.format(_first_lost_column(value, again) if frames else "the Series")) from error
    if value.attrs != again.attrs:
        raise InputError(lost.format("`attrs`"))


def _first_lost_column(value: Any, again: Any) -> str:
    from pandas.testing import assert_series_equal

    for number, column in enumerate(value.columns):
        try:
            assert_series_equal(value.iloc[:, number], again.iloc[:, number], check_exact=True, check_index=False)
        except (AssertionError, IndexError):
            return f"column {column!r} ({value.dtypes.iloc[number]})"
    return "the index or the columns' names"


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _write_note(stored: Stored, folder: Path) -> None:
    from lepton_kit.files import write_atomically

    write_atomically(folder / f"{stored.name}{NOTE}", json.dumps(asdict(stored), indent=1) + "\n")
