"""Where a service answers, what can be done to it, and how it is.

Light to import: `lepton watch` looks at every service by it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from lepton_kit.diagnosis.means import Way
from lepton_kit.telemetry.declaration import READY, Declaration
from lepton_kit.tls import trusted

OWN_WAYS: frozenset[Way] = frozenset({"fix_inputs", "roll_back", "deploy", "scale", "restart"})
"""What the control folder of `lepton serve` lets an operator do."""

NO_SUCH_PATH = (404, 405)


def is_served_here(name: str, project: Path) -> bool:
    """Whether `lepton serve` was ever started for a service in this project."""
    return (project / "services" / name / "service.json").is_file()


def ways_of(name: str, declaration: Declaration, project: Path) -> frozenset[Way]:
    """Return what can be done to a service: what it declares, and what the control folder of `lepton serve` lets."""
    return frozenset(declaration.actions) | (OWN_WAYS if is_served_here(name, project) else frozenset())


def service_address(name: str, declaration: Declaration, project: Path) -> str | None:
    """Return where a service answers: as it is declared, or as `lepton serve` wrote it; None while it is stopped."""
    if declaration.address is not None:
        return declaration.address.rstrip("/")
    try:
        return (project / "services" / name / "address").read_text(encoding="utf-8").strip() or None
    except OSError:
        return None


@dataclass(frozen=True)
class Readiness:
    """How a service answered: whether at all, whether it is ready, its version where it says so, and what is wrong."""

    is_up: bool
    is_ready: bool = False
    version: str = ""
    problem: str = ""


def readiness(address: str, declaration: Declaration, seconds: float = 3.0) -> Readiness:
    """Ask a service whether it is ready: at its declared path, or at the first of `READY` that there is."""
    # What `lepton serve` starts is asked where it names its version.
    paths = (declaration.ready,) if declaration.ready else READY if declaration.address else ("/readyz",)
    for path in paths:
        try:
            answer = httpx.get(
                address + path, timeout=seconds, trust_env=False, follow_redirects=True, verify=trusted()
            )
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return Readiness(False, problem=f"does not answer ({type(error).__name__})")
        if answer.status_code not in NO_SUCH_PATH:
            said = _object(answer)
            is_ready = answer.status_code == 200
            problem = "" if is_ready else str(said.get("error") or f"{path} answers {answer.status_code}")
            return Readiness(True, is_ready, str(said.get("version") or ""), problem)
    return Readiness(True, problem=f"answers none of {', '.join(paths)}: declare `ready`")


def _object(answer: httpx.Response) -> Mapping[str, Any]:
    try:
        said = answer.json()
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}
