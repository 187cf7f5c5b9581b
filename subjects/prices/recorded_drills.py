"""Simulated drills that ship with the kit as recordings: an incident of each cause, and what followed its repair.

Each is written twice: `NAME` is the incident, up to its diagnosis, and `NAME-after` begins when its remedy was carried
out. Everything but the simulated machine is what it is elsewhere in the kit, and all of it is the same each time.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType

from lepton_kit.diagnosis.evidence import Cause
from lepton_kit.errors import LeptonError
from lepton_kit.ops.drills import plan_of
from lepton_kit.ops.faults import Fault, find_fault
from lepton_kit.ops.simulation import inject
from lepton_kit.runs.project import find_project
from lepton_kit.telemetry.recordings import Recording, write_recording
from lepton_kit.telemetry.slo import read_objectives
from subjects.prices.simulated.service import SimulatedService
from subjects.prices.simulated.setting import Setting

FOLLOWED = 60.0
"""Seconds after the repair that are recorded."""


KEPT_INFO = 10


@dataclass(frozen=True)
class Recorded:
    """A drill to record: the fault, its severity, its cause, and the seed of all chance."""

    fault: str
    severity: float
    cause: Cause
    seed: int


DRILLS: Mapping[str, Recorded] = MappingProxyType(
    {
        "missing-values": Recorded("nulls", 0.5, "data", seed=11),
        "diverged-retrain": Recorded("diverged-retrain", 0.9, "model", seed=12),
        "queue-saturation": Recorded("queue-saturation", 0.62, "compute", seed=13),
    }
)

SMALL = Setting(rate=6.0, workers=2, service=0.035, kind="ewma")
"""A service with few requests, so that its recordings are small."""


def _small(_: Fault | None, seed: int, scratch: Path) -> SimulatedService:
    return SimulatedService(seed, scratch, SMALL)


def record_drill(name: str, folder: Path) -> Path:
    """Record a drill of `DRILLS` into `folder/NAME` and what followed its repair into `folder/NAME-after`.

    Raises
    ------
    LeptonError
        When no alert fired: there is no incident to record then.
    """
    drill = DRILLS[name]
    fault = find_fault(drill.fault, drill.seed, drill.severity)
    objectives = read_objectives(find_project() / "slo/goog")
    with tempfile.TemporaryDirectory() as scratch:
        injected = inject(fault, drill.seed, Path(scratch), objectives, _small)
        if injected.alerted is None:
            raise LeptonError(f"drill {name}: no alert fired, so there is no incident to record")
        service, incident = injected.service, injected.record(name)
        plan = plan_of(drill.cause, incident, objectives)
        done = plan.carry_out(service) if plan else ()
        service.settle()
        repaired_at = service.now
        service.advance(FOLLOWED)
        after = service.record(repaired_at, service.now, name=f"{name}-after")
        write_recording(small(after), folder / f"{name}-after", {**injected.truth(), "repaired": list(done)})
        return write_recording(small(incident), folder / name, injected.truth())


def small(recording: Recording) -> Recording:
    """Return a recording with 1 in `KEPT_INFO` of its INFO lines, as `capture` does with too many, and a note of it."""
    logs = recording.logs
    usual = logs["level"].eq("INFO") & logs["message"].str.contains("answered")
    kept = logs[~usual | (usual.cumsum() % KEPT_INFO == 0)].reset_index(drop=True)
    held = recording.incident.provenance
    note = f"log lines of level INFO: 1 in {KEPT_INFO} is kept"
    provenance = held.model_copy(update={"derived": (*held.derived, note)})
    return replace(recording, logs=kept, incident=recording.incident.model_copy(update={"provenance": provenance}))


RECORDERS: dict[str, Callable[[Path], Path]] = {name: partial(record_drill, name) for name in DRILLS}
