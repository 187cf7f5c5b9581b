"""What a service says of itself: in lepton.toml, above what the server that runs it wrote."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lepton_kit.errors import InputError
from lepton_kit.files import read_object
from lepton_kit.project.settings import Settings, read_settings
from lepton_kit.telemetry.declaration import Declaration, objectives_folder

WRITTEN = "declaration.json"
"""What `lepton serve` writes into `services/<name>/` when it starts."""

TOGETHER = ("actions",)
"""Entries whose own entries stand above each other one by one; the others are replaced as a whole."""


def declared(project: Path, name: str, settings: Settings | None = None) -> Declaration:
    """Return a service's declaration: the entries of lepton.toml above those that its server wrote.

    Raises
    ------
    InputError
        When neither names the service, or an entry is not what it may be; the message gives its key.
    """
    settings = settings or read_settings(project)
    own, path = settings.services.get(name), project / "services" / name / WRITTEN
    if own is None and not path.is_file():
        known = ", ".join(services(project, settings)) or "none"
        raise InputError(f"service {name!r}: neither in lepton.toml nor in services/ (there are: {known})")
    written = read_object(path, "start the service again") if path.is_file() else {}
    given = own.model_dump(mode="json", exclude_unset=True) if own is not None else {}
    for entry in TOGETHER:
        given[entry] = {**written.get(entry, {}), **given.get(entry, {})}
    try:
        return Declaration.model_validate({"objectives": objectives_folder(name), **written, **given})
    except ValidationError as error:
        raise InputError(f"{path}: {told(error, f'services.{name}')}") from error


def find_declaration(name: str, project: Path) -> Declaration:
    """Return what declares a service: the project's settings, or else `subjects/<name>/declaration.toml`.

    Raises
    ------
    InputError
        When there is neither; it names those that there are.
    """
    services = dict(read_settings(project).services)
    for path in sorted((project / "subjects").glob("*/declaration.toml")):
        services = Settings.model_validate(tomllib.loads(path.read_text(encoding="utf-8"))).services | services
    if name not in services:
        raise InputError(f"subject = {name!r}: must be a declared service: {', '.join(sorted(services)) or 'none is'}")
    return services[name]


def services(project: Path, settings: Settings) -> list[str]:
    """Return the names of all services that are declared, in lepton.toml or by their server."""
    written = sorted(path.parent.name for path in (project / "services").glob(f"*/{WRITTEN}"))
    return list(dict.fromkeys([*settings.services, *written]))


def told(error: ValidationError, before: str = "") -> str:
    """Return the first mistake of settings: its key, the value, and what is allowed."""
    first = error.errors()[0]
    key = ".".join([*([before] if before else []), *(str(part) for part in first["loc"] if not _is_of_pydantic(part))])
    return f"{key} = {first['input']!r}: {first['msg']}"


def _is_of_pydantic(part: Any) -> bool:
    """Say whether a part of a place names the choice of a type, which nobody wrote."""
    return isinstance(part, str) and (part.startswith("function-") or part in ("Command", "Http"))
