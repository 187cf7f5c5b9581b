"""Files that are whole or absent, their hashes, JSON in them, and locks."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import json
import os
import re
import secrets
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import date, time
from pathlib import Path
from types import ModuleType
from typing import Any

from lepton_kit.errors import InputError

SINGLE_NAME = re.compile(r"(?!\.)[^\x00-\x1f\x7f/\\\ud800-\udfff]{1,255}")


def single_name(name: str, what: str) -> str:
    r"""Return a name that becomes a file's or a folder's.

    Parameters
    ----------
    name
        The name, from wherever it came: a manifest, a ledger, a file that somebody sent.
    what
        What it names, for the message: `run`, `incident`.

    Raises
    ------
    InputError
        When it could lead out of the folder it belongs to: it holds `/`, `\\`, a control character or half of a
        surrogate pair, begins with a dot, or is empty or longer than a file's name may be.

    Examples
    --------
    >>> single_name("20261123T101500Z-incident-diagnosis-3f9a2c", "run")
    '20261123T101500Z-incident-diagnosis-3f9a2c'
    >>> single_name("../victim", "run")
    Traceback (most recent call last):
    ...
    lepton_kit.errors.InputError: run '../victim': must be a single name, without '/', '\' or a leading dot
    """
    if not isinstance(name, str) or not SINGLE_NAME.fullmatch(name):
        raise InputError(f"{what} {str(name)[:300]!r}: must be a single name, without '/', '\\' or a leading dot")
    return name


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, or of a folder: the names and hashes of all files in it."""
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file() and "__pycache__" not in file.parts)
        listing = "".join(f"{sha256_of(file)}  {file.relative_to(path).as_posix()}\n" for file in files)
        return hashlib.sha256(os.fsencode(listing)).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, text: str | bytes) -> None:
    """Write a file so that a reader, or a crash, sees the old or the new content and nothing between.

    Raises
    ------
    InputError
        When it cannot be written (full disk, no right to write); the earlier content is intact.
    """
    try:
        _write_atomically(path, text.encode() if isinstance(text, str) else text)
    except OSError as error:
        raise InputError(f"file {str(path)!r} cannot be written: {error.strerror}") from error


def _write_atomically(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            temporary.chmod(path.stat().st_mode)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def import_file(path: Path, said: str) -> ModuleType:
    """Import a Python file of the user's, which executes it; `said` is the option or setting that named it.

    Raises InputError when there is no such file, or it cannot be imported.
    """
    if not path.is_file():
        raise InputError(f"{said} {path}: no such file")
    spec = importlib.util.spec_from_file_location(f"lepton_file_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise InputError(f"{said} {path}: must be a Python file, such as mine.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise InputError(f"{said} {path}: cannot be imported ({type(error).__name__}: {error})") from error
    return module


def sync_folder(folder: Path) -> None:
    """Make a new name in a folder outlive a power cut."""
    if os.name == "nt":
        return  # Windows cannot open a folder
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_object(path: Path, advice: str = "restore it") -> dict[str, Any]:
    """Return the JSON object in a file; InputError where it cannot be read or is something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not readable as JSON ({error}); {advice}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a {type(content).__name__}, not an object; {advice}")
    return content


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON that people can read, too."""
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def as_toml(value: Any) -> str:
    r"""Return a value of JSON, or a time, as TOML.

    >>> [as_toml(value) for value in (True, 1.5, 'say "hi"\n', [1], {"a b": "\x7f"})]
    ['true', '1.5', '"say \\"hi\\"\\n"', '[1]', '{ "a b" = "\\u007f" }']
    """
    match value:
        case None:
            raise InputError("a value is null, which TOML cannot hold: leave it out, or let it have another")
        case str():
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case Mapping():
            return "{ " + ", ".join(f"{as_toml(key)} = {as_toml(item)}" for key, item in value.items()) + " }"
        case list():
            return "[" + ", ".join(map(as_toml, value)) + "]"
        case float():
            return repr(value)  # also inf and nan
        case date() | time():
            return value.isoformat()
    return json.dumps(value)


def append_line(path: Path, entry: Mapping[str, Any]) -> None:
    """Append an object to a file of JSON lines."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")  # one write: two who append do not mix their lines


def read_lines(path: Path, what: str, check: Callable[[dict[str, Any]], object]) -> list[dict[str, Any]]:
    """Return the objects of a file of JSON lines, oldest first; none where there is no file.

    Raises InputError when one is damaged, or `check` raises ValueError, TypeError or LookupError: it is not `what`.
    """
    found = []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    for number, line in enumerate(lines, 1):
        if line:
            try:
                found.append(dict(json.loads(line)))
                check(found[-1])
            except (ValueError, TypeError, LookupError) as error:
                raise InputError(f"{path}: line {number} {line[:80]!r} is not {what}; restore the file") from error
    return found


@contextmanager
def locked(path: Path, busy: str | None = None) -> Iterator[None]:
    """Wait until no other process holds this file, and hold it (`fcntl` knows Linux and macOS, not Windows).

    Raises InputError when it cannot be written; with `busy`, which waits for nobody, those words when another holds it.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.open("w")
    except OSError as error:
        raise InputError(f"{path.parent}: cannot be written ({error.strerror})") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy else 0))
        except BlockingIOError:
            raise InputError(str(busy)) from None
        yield
