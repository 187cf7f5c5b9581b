"""How well faults of all three subjects are diagnosed: `python benchmarks/subjects.py [--count 5] [--seed 0]`.

Simulated drills of services whose model, columns and metrics have nothing in common. Each type of fault is scored with
a temperature that was fitted without it, whichever subject it struck. Writes a section of RESULTS.md.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
from sklearn.metrics import f1_score

sys.path.insert(0, str(Path(__file__).parents[1]))

from calibration import Known, calibrate

from benchmarks.drills import _markdown, _one_thread
from benchmarks.results import PATH, write_section
from lepton_kit.diagnosis.case import build_case
from lepton_kit.diagnosis.causes import conclude
from lepton_kit.diagnosis.evidence import gather
from lepton_kit.diagnosis.likelihoods import read_likelihoods
from lepton_kit.ops.drills import Drill, all_names, drawn_drills
from lepton_kit.ops.faults import FAULTS, find_fault
from lepton_kit.ops.faults.edge import EDGE
from lepton_kit.ops.simulation import strike
from lepton_kit.telemetry.slo import read_objectives
from subjects.simulated import SameVersion

ROOT = Path(__file__).parents[1]
KNOWN = {**EDGE, **FAULTS, SameVersion.name: SameVersion}
ANY = ("", "crowd", "cpu-taken", "queue-saturation", "bad-version", "same-version", "surge", "seasonal-growth")
TYPES = {
    "prices": ("", *all_names()),
    "scoring": (*ANY, "scaled-column", "renamed-category", "stale-feed", "nulls", "lost-worker"),
    "chat": ANY,
}
OBJECTIVES = {"prices": "slo/goog", "scoring": "subjects/scoring/slo", "chat": "subjects/chat/slo"}
SURE = 0.8
"""From this probability on a repair starts by itself (`remedies.least_probability`)."""


@dataclass(frozen=True)
class Scored:
    """A drill of a subject: what was true, whether an alert fired, and what the evidence says."""

    subject: str
    fault: str
    alert: str
    known: Known
    case: Any
    seconds: float


def scored(task: tuple[str, Drill]) -> Scored:
    """Go through a drill until its diagnosis."""
    subject, drill = task
    began = time.perf_counter()
    fault = find_fault(drill.fault, drill.seed, drill.severity, KNOWN) if drill.fault else None
    plant = importlib.import_module(f"subjects.{subject}.simulated" + (".service" if subject == "prices" else "")).plant
    with TemporaryDirectory() as scratch:
        struck = strike(fault, drill.seed, Path(scratch), read_objectives(ROOT / OBJECTIVES[subject]), plant)
        case = build_case(struck.record())
        known = Known(gather(case), frozenset(fault.causes if fault else {"none"}))  # type: ignore[arg-type]
    slim = replace(case, recording=replace(case.recording, metrics=case.recording.metrics.head(0), models={}))
    alert = str(struck.alerts[0]["labels"]["alertname"]) if struck.alerts else ""
    return Scored(subject, drill.fault or "nothing", alert, known, slim, time.perf_counter() - began)


def leave_one_out(all_scored: Sequence[Scored]) -> pd.DataFrame:
    """Return a row for each drill: what was true, and what is named by what was fitted without its type."""
    rows = []
    for left_out in sorted({one.fault for one in all_scored}):
        table = calibrate([one.known for one in all_scored if one.fault != left_out], read_likelihoods())
        for one in (one for one in all_scored if one.fault == left_out):
            found = conclude(one.case, one.known.evidence, table)
            true = found.cause if found.cause in one.known.causes else sorted(one.known.causes)[0]
            rows.append((one.subject, one.fault, one.alert, true, found.cause, float(found.probability)))
    return pd.DataFrame(rows, columns=["subject", "fault", "alert", "true", "named", "probability"])


def scores(rows: pd.DataFrame) -> dict[str, float]:
    """Return the macro-F1 over the causes, and the share of benign drills that a repair by itself would follow on."""
    benign = rows[rows["true"] == "none"]
    repaired = benign["named"].isin(["data", "model", "compute"]) & (benign["probability"] >= SURE)
    causes = sorted(rows["true"].unique())
    return {
        "drills": len(rows),
        "macro-F1": float(f1_score(rows["true"], rows["named"], labels=causes, average="macro", zero_division=0)),
        "right": float((rows["true"] == rows["named"]).mean()),
        "unknown": float((rows["named"] == "unknown").mean()),
        "benign": len(benign),
        "false repairs": float(repaired.mean()) if len(benign) else float("nan"),
    }


def report(rows: pd.DataFrame, seconds: float, seed: int) -> str:
    """Return the section of RESULTS.md."""
    by_subject = {name: scores(held) for name, held in rows.groupby("subject")} | {"all": scores(rows)}
    alerted = rows[rows["alert"] != ""]
    by_fault = pd.DataFrame({name: scores(held) for name, held in rows.groupby(["subject", "fault"])}).T
    by_fault.index = [f"{subject}: {fault}" for subject, fault in by_fault.index]
    return "\n\n".join(
        [
            "## Drills of three subjects: which cause",
            f"`python benchmarks/subjects.py` · {len(rows)} simulated drills, seed {seed}; {seconds:.1f} s each. Each "
            "type of fault is scored with a temperature that was fitted without it. A false repair is a benign drill "
            f"whose diagnosis names a cause with {SURE:.0%} or more.",
            _markdown(pd.DataFrame(by_subject).T, "subject"),
            "The same where an alert fired:",
            _markdown(pd.DataFrame({name: scores(held) for name, held in alerted.groupby("subject")}).T, "subject"),
            "By type of fault:",
            _markdown(by_fault[["drills", "right", "unknown"]], "fault"),
        ]
    )


def main(arguments: Sequence[str]) -> int:
    """Go through the drills, and write what came of them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=7, help="drills of each type")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--subjects", nargs="*", default=list(TYPES))
    parser.add_argument("--results", type=Path, default=PATH)
    chosen = parser.parse_args(arguments)
    tasks = [
        (subject, drill)
        for subject in chosen.subjects
        for drill in drawn_drills(TYPES[subject], chosen.count, chosen.seed, KNOWN)
    ]
    made: list[Scored] = []
    with ProcessPoolExecutor(chosen.processes, initializer=_one_thread) as pool:
        for one in pool.map(scored, tasks):
            made.append(one)
            print(f"{len(made)}/{len(tasks)} {one.subject}: {one.fault} {one.alert} [{one.seconds:.1f} s]", flush=True)
    rows = leave_one_out(made)
    text = report(rows, sum(one.seconds for one in made) / len(made), chosen.seed)
    write_section(text, chosen.results)
    print(rows[rows["true"] != rows["named"]].to_string())
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
