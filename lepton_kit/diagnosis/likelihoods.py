"""The table of likelihood ratios that ranks the causes, read from `likelihoods.toml`, which an operator can edit.

A file of one's own holds only what differs; it is laid over the one that ships with the kit.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pydantic
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat

from lepton_kit.errors import InputError
from lepton_kit.telemetry.recordings import printable

SHIPPED = Path(__file__).with_name("likelihoods.toml")

HYPOTHESES: Mapping[str, tuple[str, ...]] = {
    "nothing": (),
    "world": ("world",),
    "data": ("data",),
    "model": ("model",),
    "compute": ("compute",),
    "data and model": ("data", "model"),
    "data and compute": ("data", "compute"),
    "model and compute": ("model", "compute"),
}
"""What may have happened, and what is at work then. `nothing` and `world` (a true change of it) are no fault."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Decision(_Part):
    """When a cause is named; see `likelihoods.toml` for what each number means."""

    threshold: float = Field(gt=0, lt=1)
    second: float = Field(gt=0, lt=1)
    temperature: PositiveFloat
    dependent: float = Field(ge=0, le=1)
    none_needs: tuple[str, ...] = ()
    none_needs_one_of: tuple[str, ...] = ()
    world_needs: tuple[str, ...] = ()


class Ratios(_Part):
    """How many times as likely a finding is under each cause as where nothing happened; 1 where none is given."""

    world: PositiveFloat = 1.0
    data: PositiveFloat = 1.0
    model: PositiveFloat = 1.0
    compute: PositiveFloat = 1.0
    because: str = ""


class Weighed(_Part):
    """The ratios of each finding of one piece of evidence, and the group whose members tell the same fact.

    What is not evidence `alone` speaks for a hypothesis only where something else does, too.
    """

    group: str
    alone: bool = True
    findings: dict[str, Ratios]


class Likelihoods(_Part):
    """Everything that turns findings into probabilities.

    Examples
    --------
    >>> table = read_likelihoods()
    >>> table.evidence["contract"].findings["broken"].data > 10
    True
    """

    decision: Decision
    priors: dict[str, PositiveFloat]
    evidence: dict[str, Weighed]

    def ratios(self, name: str, finding: str) -> Ratios:
        """Return the ratios of a finding; all 1 where the table does not know it, as a question not answered."""
        known = self.evidence.get(name)
        return known.findings.get(finding, Ratios()) if known else Ratios()


def read_likelihoods(path: Path | str | None = None) -> Likelihoods:
    """Read the table that ships with the kit, with an operator's own file laid over it.

    Raises
    ------
    InputError
        When the file is not readable, names evidence, findings or hypotheses that there are not, or holds a number
        that none may be.
    """
    if path is None:
        return _shipped()
    shipped = _parsed(SHIPPED)
    own = _parsed(Path(path))
    if unknown := _unknown(own, shipped):
        raise InputError(f"{path}: {unknown[0]}; the table that ships with the kit has {', '.join(unknown[1])}")
    return _checked(_laid_over(shipped, own), Path(path))


@cache
def _shipped() -> Likelihoods:
    return _checked(_parsed(SHIPPED), SHIPPED)


def _parsed(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable as TOML ({printable(str(error), 200)})") from error


def _checked(table: dict[str, Any], path: Path) -> Likelihoods:
    try:
        return Likelihoods.model_validate(table)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise InputError(f"{path}: {place} = {printable(repr(first['input']), 80)}: {first['msg']}") from error


def _unknown(own: Mapping[str, Any], known: Mapping[str, Any], place: str = "") -> tuple[str, list[str]] | None:
    """Return the first key of a table that another one does not have, and what that has in its place."""
    for key, value in own.items():
        if key not in known:
            if isinstance(value, dict) or not place.startswith("evidence."):
                return f"{place}{key}: there is no such entry", list(known)
            continue  # a ratio that the shipped table leaves at 1
        if (
            isinstance(value, dict)
            and isinstance(known[key], dict)
            and (found := _unknown(value, known[key], f"{place}{key}."))
        ):
            return found
    return None


def _laid_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    both = {
        key: _laid_over(below[key], value) if isinstance(value, dict) and isinstance(below.get(key), dict) else value
        for key, value in above.items()
    }
    return {**below, **both}
