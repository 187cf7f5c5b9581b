"""What drills came to, as a file: `drills/<time>-<kind>-<seed>.json`, written once and published as a page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from lepton_kit import __version__
from lepton_kit.errors import InputError
from lepton_kit.files import write_atomically
from lepton_kit.ops.drills import Drilled

FORMAT = "lepton-drills/2"
TIME = "%Y%m%dT%H%M%SZ"


@dataclass(frozen=True)
class Results:
    """Drills that were made together.

    `made` is when they ended (UTC), `kit` the version of this package, `command` what makes them again, `faults` what
    each fault is, by its name, and `scored_by` how the names that are scored came about, where they are not those that
    the drills acted on.
    """

    kind: Literal["simulated", "live"]
    seed: int
    drills: tuple[Drilled, ...]
    made: datetime
    kit: str = "not told"
    command: str = ""
    faults: Mapping[str, str] = field(default_factory=dict)
    scored_by: str = ""

    def plain(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        drills = [one.plain() for one in self.drills]
        made = self.made.isoformat(timespec="seconds")
        return {"format": FORMAT, **vars(self), "faults": dict(self.faults), "made": made, "drills": drills}


def write_results(
    drilled: Sequence[Drilled],
    folder: Path,
    seed: int,
    live: bool,
    command: str = "",
    faults: Mapping[str, str] | None = None,
    scored_by: str = "",
) -> Path:
    """Write drills, in the order in which they were made, as JSON into a folder, and return the file; see `Results`."""
    kind: Literal["simulated", "live"] = "live" if live else "simulated"
    now = datetime.now(UTC)
    held = Results(kind, seed, tuple(drilled), now, __version__, command, dict(faults or {}), scored_by)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{now:{TIME}}-{kind}-{seed}.json"
    write_atomically(path, json.dumps(held.plain(), indent=1) + "\n")
    return path


def read_results(path: Path) -> Results:
    """Read what `write_results` wrote.

    Raises InputError when the file is missing, or does not hold results of drills.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
            raise ValueError(f"its `format` must be {FORMAT!r}")
        return _RESULTS.validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(
            f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}; `lepton drill` writes it"
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not results of drills ({error}); `lepton drill` writes them") from error


def newest_results(folder: Path) -> Path:
    """Return the newest results in a folder; their names begin with their time.

    Raises InputError when there are none.
    """
    found = sorted(folder.glob("*-*-*.json"))
    if not found:
        raise InputError(f"no results of drills in {folder}: make some with `lepton drill`, or give their file")
    return found[-1]


_RESULTS = TypeAdapter(Results)
