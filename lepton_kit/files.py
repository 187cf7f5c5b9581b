"""Files that are whole or absent, and their hashes."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from pathlib import Path

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


def sync_folder(folder: Path) -> None:
    """Make a new name in a folder outlive a power cut."""
    if os.name == "nt":
        return  # Windows cannot open a folder
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
