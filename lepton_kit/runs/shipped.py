"""What the package ships beside its code: notebooks, runbooks, the frame of the report site and example subjects."""

from __future__ import annotations

from pathlib import Path

from lepton_kit.errors import InputError

NOTEBOOKS = ("notebooks", "runbooks")


def shipped() -> Path:
    """Return the folder that holds them: `lepton_kit/shipped` as installed, the checkout's root where it is edited."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "shipped"
    return installed if installed.is_dir() else package.parent


def in_project_or_shipped(name: str | Path, project: Path) -> Path:
    """Return a file or folder of the project, or where it has none of that name, the shipped one.

    Raises InputError when neither has it.
    """
    path = Path(name).expanduser()
    for candidate in [path] if path.is_absolute() else [project / path, shipped() / path]:
        if candidate.exists():
            return candidate.resolve()
    own = path if path.is_absolute() else project / path
    raise InputError(f"no file or folder {str(name)!r} (looked for {own}, and among what the kit ships)")


def folder_of(name: str, project: Path) -> Path:
    """Return the folder that a notebook lies in, or lay in: of the project, or shipped."""
    own, theirs = project / name, shipped() / name
    return (theirs if theirs.exists() and not own.exists() else own).resolve().parent


def name_of(path: Path, project: Path) -> str:
    """Return how settings and manifests name a file: relative to the project, or to what is shipped; else in full."""
    for root in (project.resolve(), shipped()):
        if path.resolve().is_relative_to(root):
            return path.resolve().relative_to(root).as_posix()
    return str(path)
