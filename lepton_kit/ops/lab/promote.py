"""Writes a schedule into lepton.toml; all that stands there stays as it is, comments too."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lepton_kit.errors import InputError
from lepton_kit.files import write_atomically
from lepton_kit.ops.watch.policy import RECORDING
from lepton_kit.ops.watch.schedules import checked_schedule
from lepton_kit.project.settings import Schedule, read_settings
from lepton_kit.runs.manifest import Manifest
from lepton_kit.runs.project import SETTINGS

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,59}")


def promote(run: Manifest, name: str, cron: str, timezone: str, service: str, project: Path) -> None:
    """Let a run's notebook run with its values at the times of a cron expression.

    A schedule of a `service` is given its newest evidence as `recording`, in place of the run's.

    Raises
    ------
    InputError
        When the name is taken or not one, the schedule is not what `lepton watch` takes, or lepton.toml would not say
        the same of all else; nothing is written then.
    """
    if not NAME.fullmatch(name):
        raise InputError(f"name {name!r}: must be small letters, digits and hyphens, such as 'nightly-health'")
    path, settings = project / SETTINGS, read_settings(project)
    if name in settings.schedules:
        raise InputError(f"name {name!r}: lepton.toml has a schedule of this name already")
    parameters = {key: value for key, value in run.given_parameters.items() if not (service and key == RECORDING)}
    section = {"notebook": run.notebook, "cron": cron.strip(), "timezone": timezone.strip() or "UTC"}
    section |= {"service": service} if service else {}
    given: dict[str, Any] = {**section, **({"parameters": parameters} if parameters else {})}
    try:
        checked_schedule(name, Schedule.model_validate(given), settings, project)
    except ValidationError as error:
        raise InputError(f"schedule {name!r}: {error.errors()[0]['msg']}") from error
    before = path.read_text(encoding="utf-8")
    after = f"{before.rstrip()}\n\n{as_section(name, given)}".lstrip()
    wanted = tomllib.loads(before)
    wanted["schedules"] = {**wanted.get("schedules", {}), name: given}
    try:
        is_whole = tomllib.loads(after) == wanted
    except tomllib.TOMLDecodeError:
        is_whole = False
    if not is_whole:
        section_text = as_section(name, given)
        raise InputError(f"{path}: nothing can be added after its end; write it in yourself:\n{section_text}")
    write_atomically(path, after)


def as_section(name: str, given: Mapping[str, Any]) -> str:
    """Return a schedule as TOML.

    >>> print(as_section("nightly", {"notebook": "a.ipynb", "parameters": {"days": 3, "of": ["x"]}}), end="")
    [schedules.nightly]
    notebook = "a.ipynb"
    parameters = { "days" = 3, "of" = ["x"] }
    """
    lines = [f"{key} = {as_toml(value)}" for key, value in given.items()]
    return "\n".join([f"[schedules.{name}]", *lines, ""])


def as_toml(value: Any) -> str:
    r"""Return a JSON value as TOML.

    >>> [as_toml(value) for value in (True, 1.5, 'say "hi"\n', [1], {"a b": "\x7f"})]
    ['true', '1.5', '"say \\"hi\\"\\n"', '[1]', '{ "a b" = "\\u007f" }']
    """
    match value:
        case None:
            raise InputError("a value is null, which lepton.toml cannot hold: leave it out, or let it have another")
        case str():
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case Mapping():
            return "{ " + ", ".join(f"{as_toml(key)} = {as_toml(item)}" for key, item in value.items()) + " }"
        case list():
            return "[" + ", ".join(map(as_toml, value)) + "]"
    return json.dumps(value)
