"""Keeps copies of folders in a store that outlives this machine, such as a bucket: any address that fsspec opens.

Runs, recordings and versions of models are made on the local disk; the store that `[track]` names gets each once it is
whole. The file that makes a folder whole is sent last, so that one which was broken off is never taken for whole.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

from lepton_kit.errors import InputError
from lepton_kit.runs.project import setting
from lepton_kit.runs.targets import set_targets
from lepton_kit.secrets import without_password

STORE = "store"
"""Its name among the trackers of lepton.toml."""


def store_of(project: Path) -> str | None:
    """Return the address of a project's store; None where `[track]` names none.

    Raises InputError when the section is not what it must be, or the address cannot be read from where it is kept.
    """
    target = set_targets(project).get(STORE) if setting(project, "track") else None
    return None if target is None else target.address(project)


class TakenError(InputError):
    """A store holds another folder by the name of one that was to be sent."""


def send(folder: Path, name: str, last: str, where: str) -> str:
    """Copy a folder into a store as `name`, and return its address there; one that is there whole stays as it is.

    Hidden files stay here, and the file `last` is sent last. Raises TakenError when the store holds another folder by
    this name, and InputError when it cannot be reached or written: what was sent until then counts for nothing.
    """
    with _opened(where, f"{name} cannot be sent; it is kept whole in {folder}") as (files, root):
        there, shown = f"{root}/{name}", without_password(f"{where.rstrip('/')}/{name}")
        if files.exists(f"{there}/{last}"):
            if files.cat_file(f"{there}/{last}") != (folder / last).read_bytes():
                raise TakenError(f"{shown}: holds another {last} than {folder}, and stays as it is")
            return shown
        has_folders = Path(root).is_absolute()  # a bucket has none, and to make one could make the bucket
        for path in (*(one for one in _files(folder) if one != folder / last), folder / last):
            to = f"{there}/{path.relative_to(folder).as_posix()}"
            if has_folders:
                files.makedirs(to.rpartition("/")[0], exist_ok=True)
            is_by_half = has_folders and path == folder / last  # in a bucket a file appears when all of it is there
            files.put_file(str(path), f"{there}/.{last}" if is_by_half else to)
            if is_by_half:
                files.mv(f"{there}/.{last}", to)
        return shown


def fetch(project: Path, name: str, last: str, check: Callable[[Path], object] = lambda _: None) -> bool:
    """Bring a folder that is not here from the project's store, whole or not at all.

    `name` is its path in the project and in the store, and `last` the file without which it is not whole. Returns
    false where the project has no store, or that has no such folder that is whole. Raises InputError when the store
    cannot be read, the folder cannot be written, or `check` refuses what came.
    """
    if (where := store_of(project)) is None:
        return False
    folder = project / name
    with _opened(where, f"{name} cannot be fetched") as (files, root):
        there = f"{root}/{name}"
        if not files.exists(f"{there}/{last}"):
            return False
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetched-") as scratch:
            half = Path(scratch) / folder.name
            for path in files.find(there):
                inside = PurePosixPath(path).relative_to(there)
                if ".." in inside.parts:
                    raise InputError(f"store {without_password(where)!r}: {name} holds {str(inside)!r}, outside of it")
                (half / inside).parent.mkdir(parents=True, exist_ok=True)
                files.get_file(path, str(half / inside))
            try:
                check(half)
            except InputError as error:
                why = str(error).replace(f"{half}/", "")
                raise InputError(f"store {without_password(where)!r}: {name} is damaged there: {why}") from error
            try:
                half.rename(folder)
            except OSError:
                if not (folder / last).is_file():  # else another process has fetched it meanwhile
                    raise
    return True


@contextmanager
def _opened(where: str, failed: str) -> Iterator[tuple[Any, str]]:
    """Give a store's file system and its path there; `failed` is what cannot be done where that goes wrong."""
    import fsspec

    try:
        files, root = fsspec.url_to_fs(where)
        files.invalidate_cache()  # others write there, too
        yield files, root.rstrip("/")
    except InputError:
        raise
    except Exception as error:  # each file system raises what its library raises
        why = (error.strerror if isinstance(error, OSError) else None) or f"{type(error).__name__}: {error}"
        if isinstance(error, ImportError) and where.startswith(("s3:", "s3a:")):
            why = "s3fs is not installed: pip install 'lepton-kit[s3]'"
        for password in re.findall(r"://[^/@:\s]*:([^\s'\"]+)@", where):  # a library may say it without its address
            why = why.replace(password, "***").replace(unquote(password), "***")
        raise InputError(f"store {without_password(where)!r}: {failed} ({why})") from error


def _files(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        inside = path.relative_to(folder)
        if path.is_file() and not inside.parts[0].startswith(".") and "__pycache__" not in inside.parts:
            yield path
