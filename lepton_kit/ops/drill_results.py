"""What drills came to, as a file: `drills/<time>-<kind>-<seed>.json`, written once and published as a page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from lepton_kit import __version__
from lepton_kit.errors import InputError
from lepton_kit.files import write_atomically

FORMAT = "lepton-drills/2"
TIME = "%Y%m%dT%H%M%SZ"

GOOD_ENDS = ("recovered", "acted without an alert", "left alone", "unnoticed")

VERDICTS = {
    "recovered": "an alert fired, the cause was found, and its remedy restored the objective",
    "acted without an alert": "a scheduled diagnosis found the cause, and its remedy was carried out; no alert had "
    "fired, so that no recovery can be shown",
    "left alone": "nothing was wrong, and nothing was done",
    "unnoticed": "the fault broke no objective, and no diagnosis named it",
    "asked a person": "an alert fired, and the evidence did not decide",
    "wrong cause": "another cause was named, and its remedy was carried out",
    "false repair": "nothing was wrong, and something was done",
    "not recovered": "the cause was found, but its remedy did not bring the objective back in time",
    "false alarm": "an alert fired before the fault began",
}
"""How a drill may end, and what that means; only `GOOD_ENDS` are as they should be."""

Stage = Literal["simulated", "served", "declared"]
"""Where a drill happens: under a virtual clock, on the reference server, or on a declared service that runs itself."""


@dataclass(frozen=True)
class Basis:
    """What a drill rested on when it began.

    `runbook` is that of the remedy, `model` the version in service before the fault, `sha256` the fingerprints of the
    parts (`lepton_kit.ops.proven.RESTS_ON`). A simulated drill carries out the remedy's plan, not its notebook.
    """

    stage: Stage
    runbook: str
    model: str
    sha256: Mapping[str, str]


PathFlaw = Literal["valid", "no cause", "wrong cause", "out of order", "before the fault", "other objective"]
"""What is wrong with the path that a diagnosis gives: it begins with no cause or another one, an onset is earlier than
one before it or than the fault, or it does not end in the objective that alerted."""


@dataclass(frozen=True)
class Drill:
    """A drill: the name of its fault (empty: none), the severity and the random seed."""

    fault: str
    severity: float | None
    seed: int


@dataclass(frozen=True)
class Drilled:
    """How a drill went. All times are in seconds since the fault began.

    `causes` are those that were truly at work, `cause` and `also` those that were named. `severity` is that of the
    fault, `recovery` what `judge_recovery` says of the objective that alerted, and `verdict` a key of `VERDICTS`.
    `basis` is what it rested on; without a runbook, or None, where no repair ran, or several, or that of another
    diagnosis than the one told: such a drill proves no runbook. `path` holds the steps from the cause to the
    objective, each with its seconds, and `path_flaw` what is wrong with it, None where it is not scored: no alert
    fired, no fault was injected, or the diagnosis was wrong.
    """

    fault: str
    severity: float
    seed: int
    kind: str
    causes: tuple[str, ...]
    alert: str
    detected_after: float | None
    cause: str
    also: tuple[str, ...]
    probability: float
    confidence: str
    diagnosed_after: float
    remedy: str
    actions: tuple[str, ...]
    recovery: str
    recovered_after: float | None
    verdict: str
    error: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)
    service: str = ""
    basis: Basis | None = None
    path: tuple[str, ...] = ()
    path_flaw: PathFlaw | None = None

    @property
    def time_to_recover(self) -> float | None:
        """Return the seconds from the alert to the recovery; from the fault where no alert fired."""
        return None if self.recovered_after is None else round(self.recovered_after - (self.detected_after or 0.0), 1)

    @property
    def is_as_it_should_be(self) -> bool:
        """Say whether the drill ended well."""
        return self.verdict in GOOD_ENDS

    def plain(self) -> dict[str, Any]:
        """Return it as JSON can hold it; what results of earlier builds do not name is left out."""
        return {name: value for name, value in asdict(self).items() if value or name not in LATER}


LATER = ("service", "basis", "path", "path_flaw")
"""Fields that results of earlier builds do not have."""


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
