"""Reads `lepton.toml`, one project's settings."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lepton_kit.errors import InputError
from lepton_kit.runs.project import SETTINGS


class Section(BaseModel):
    """Base of all sections: a misspelt setting is an error, not a silent default."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Step(Section):
    """One notebook of a pipeline, with values for its parameters.

    `leaves` names what the notebook writes outside of its run, relative to the project: while that is missing, the
    step is not skipped.
    """

    notebook: str
    parameters: dict[str, Any] = {}
    leaves: list[str] = []


class Pipeline(Section):
    """Notebooks that run one after another."""

    title: str = ""
    steps: list[Step] = Field(min_length=1)


class Settings(Section):
    """The whole of `lepton.toml`."""

    pipelines: dict[str, Pipeline] = {}


def read_settings(project: Path) -> Settings:
    """Read a project's settings.

    Raises
    ------
    InputError
        When the file is not TOML, or a setting is unknown, missing or of the wrong type.
    """
    path = project / SETTINGS
    try:
        return Settings.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not TOML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(f"{path}: setting {where!r} = {first['input']!r}: {first['msg']}") from error
