"""Writes a schedule into lepton.toml; all that stands there stays as it is, comments too."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lepton_kit.errors import InputError
from lepton_kit.files import as_toml, write_atomically
from lepton_kit.ops.watch.policy import RECORDING
from lepton_kit.ops.watch.schedules import checked_schedule
from lepton_kit.project.settings import Schedule, read_settings
from lepton_kit.runs.manifest import Manifest
from lepton_kit.runs.notebooks import locate_notebook, read_notebook
from lepton_kit.runs.parameters import read_parameters
from lepton_kit.runs.project import SETTINGS
from lepton_kit.runs.references import RUN_SCHEME

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,59}")


def promote(run: Manifest, name: str, cron: str, timezone: str, service: str, project: Path) -> None:
    """Let a run's notebook run with its values at the times of a cron expression.

    A schedule of a `service` is given its newest evidence as `recording`, in place of the run's. Where the run took the
    notebook's own default `run:NOTEBOOK/FILE`, the schedule takes it too: the newest run's file, each time.

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
    asked = read_parameters(read_notebook(locate_notebook(run.notebook, project)), run.notebook) or []
    own = {one.name: one.default for one in asked if one.holds_path}
    parameters = {
        key: value
        for key, value in run.given_parameters.items()
        if not (service and key == RECORDING) and not is_pinned(value, own.get(key))
    }
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


def is_pinned(value: Any, default: Any) -> bool:
    """Say whether a value is a default with the run of each reference filled in.

    >>> value = "run:20260102T030405Z-01-clean-0a1b2c/clean.parquet"
    >>> [is_pinned(value, f"run:{default}") for default in ("01-clean/clean.parquet", "eu/01-clean/clean.parquet", "x")]
    [True, True, False]
    >>> is_pinned([value, "a.csv"], ["run:01-clean/clean.parquet", "a.csv"]), is_pinned(value, value)
    (True, False)
    """
    if isinstance(value, Mapping) and isinstance(default, Mapping):
        return value.keys() == default.keys() and is_pinned(list(value.values()), [default[key] for key in value])
    if isinstance(value, list) and isinstance(default, list | tuple):
        pairs = list(zip(value, default, strict=False))
        is_same = len(value) == len(default) and all(one == its or is_pinned(one, its) for one, its in pairs)
        return is_same and value != list(default)
    if not isinstance(value, str) or not isinstance(default, str):
        return False
    run_id, _, file = value.removeprefix(RUN_SCHEME).partition("/")
    name = run_id.partition("-")[2].rpartition("-")[0]
    return bool(name) and re.fullmatch(f"{RUN_SCHEME}([^/]+/)?{re.escape(name)}/{re.escape(file)}", default) is not None


def as_section(name: str, given: Mapping[str, Any]) -> str:
    """Return a schedule as TOML.

    >>> print(as_section("nightly", {"notebook": "a.ipynb", "parameters": {"days": 3, "of": ["x"]}}), end="")
    [schedules.nightly]
    notebook = "a.ipynb"
    parameters = { "days" = 3, "of" = ["x"] }
    """
    lines = [f"{key} = {as_toml(value)}" for key, value in given.items()]
    return "\n".join([f"[schedules.{name}]", *lines, ""])
