"""Versions of models in the project's store of files: sent there whole, and fetched by another host that needs one."""

from __future__ import annotations

from pathlib import Path

from lepton_kit.models.flavors import CHECKSUMS
from lepton_kit.models.registry import VERSION, Registry, verify_checksums
from lepton_kit.runs.store import fetch, send

FOLDER = "models"


def send_version(project: Path, name: str, version: str, where: str) -> str:
    """Copy a version into a store, and return its address there.

    Raises InputError when it is missing or damaged here, or the store cannot take it or holds another by its name.
    """
    folder = Registry(project / FOLDER).verify(name, version)
    return send(folder, f"{FOLDER}/{name}/{folder.name}", CHECKSUMS, where)


def fetch_version(project: Path, name: str, version: str) -> None:
    """Bring a version that is not here from the project's store, if it has both; only its name says which.

    Raises InputError when the store cannot be read, or what it holds is not what its checksums say.
    """
    if VERSION.fullmatch(version) and version not in Registry(project / FOLDER).versions(name):
        fetch(project, f"{FOLDER}/{name}/{version}", CHECKSUMS, verify_checksums)
