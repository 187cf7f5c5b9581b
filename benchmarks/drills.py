"""How well faults are diagnosed and repaired: `python benchmarks/drills.py [--count 7] [--seed 0]`.

Simulated drills of three services whose models, columns and metrics have nothing in common, as `lepton drill` goes
through them: of every fault that each can have, over the range of its severities, what fired, what the diagnosis named,
whether its remedy was the right one, and whether the objective came back. What is learnt (the temperature that makes
the probabilities honest) is learnt without the type of fault that is scored, whichever service it struck, and so are
the baselines, which know the price service alone. Writes a section of RESULTS.md, and the drills into `drills/`, from
where `lepton publish --drills` takes them.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.tree import DecisionTreeClassifier

sys.path.insert(0, str(Path(__file__).parents[1]))

from calibration import Known, calibrate

from benchmarks.results import PATH, write_section
from lepton_kit.data.drift import effect_sizes
from lepton_kit.diagnosis.causes import decide
from lepton_kit.diagnosis.ranking import Likelihoods, by_cause, probabilities, read_likelihoods
from lepton_kit.models.tasks import covered
from lepton_kit.ops.drill_results import Drill, Drilled, write_results
from lepton_kit.ops.drill_scores import SCORED, by_type, confusion, drill_rows, reliability, scores
from lepton_kit.ops.drills import drawn_drills, drill_simulated, known_faults, one_thread
from lepton_kit.ops.simulation import find_simulation
from lepton_kit.telemetry.recordings import Recording

ROOT = Path(__file__).parents[1]
SERVICES = ("goog", "scoring", "chat")
BASELINES = "goog"
"""The service whose signs the baselines know."""

SCORED_BY = "first diagnoses, by a temperature that was fitted without the type of fault which is scored"


@dataclass(frozen=True)
class Scored:
    """A drill, the evidence of its first diagnosis, and the signs that baselines use."""

    drilled: Drilled
    known: Known
    signs: dict[str, float]
    seconds: float


def scored(service: str, drill: Drill) -> Scored:
    """Go through a drill, and keep what its first diagnosis saw."""
    began = time.perf_counter()
    made = drill_simulated(drill, find_simulation(ROOT, service))
    seconds, first = time.perf_counter() - began, made.diagnoses[0]
    known = Known(first.evidence, frozenset(made.drilled.causes))  # type: ignore[arg-type]
    return Scored(made.drilled, known, signs_of(first.case.recording) if service == BASELINES else {}, seconds)


# --- baselines ----------------------------------------------------------------------------------------------------


def signs_of(recording: Recording) -> dict[str, float]:
    """Return what a dashboard shows of the last quarter of a recording, beside its first half."""
    requests = recording.requests
    before, during = requests.iloc[: len(requests) // 2], requests.iloc[-len(requests) // 4 :]
    features = recording.features(requests).to_numpy(float)
    sides = [recording.features(side).dropna() for side in (before, during)]
    moved = effect_sizes(*sides)["ks"].max() if min(map(len, sides)) > 1 and "ks" in effect_sizes(*sides) else 0.0
    rows = {"before": before, "during": during}
    signs = {"drift": float(moved), "missing": float(np.isnan(features[-len(during) :]).any(axis=1).mean())}
    for name, side in rows.items():
        judged = side.dropna(subset=["lower", "upper", "actual"])
        signs[f"coverage {name}"] = float(covered(judged, judged["actual"]).mean()) if len(judged) else 1.0
        signs[f"latency {name}"] = float(side["latency_ms"].quantile(0.95))
        signs[f"failed {name}"] = float(side["status"].ge(500).mean())
        signs[f"refused {name}"] = float(side["status"].eq(429).mean())
        signs[f"invalid {name}"] = float(side["status"].eq(422).mean())
        signs[f"rate {name}"] = len(side) / max(1.0, (side["time"].iloc[-1] - side["time"].iloc[0]).total_seconds())
    return signs


def by_threshold(signs: dict[str, float]) -> str:
    """Name a cause by fixed limits, as an operator's first runbook would."""
    if signs["invalid during"] > 0.02 or signs["missing"] > 0.02 or signs["drift"] > 0.3:
        return "data"
    if signs["latency during"] > 100 or signs["refused during"] > 0.001:
        return "compute"
    if signs["failed during"] > 0.01 or signs["coverage during"] < 0.85:
        return "model"
    return "none"


SIGMA_GROUPS = {
    "data": ("invalid", "missing", "drift"),
    "compute": ("latency", "refused"),
    "model": ("coverage", "failed"),
}


def by_sigma(rows: pd.DataFrame, healthy: pd.DataFrame) -> list[str]:
    """Name the cause whose sign lies furthest from healthy drills, in their standard deviations; none below 3."""
    columns = [name for name in rows if name.endswith("during") or name in ("drift", "missing")]
    spread = healthy[columns].std().clip(lower=1e-3)
    distance = ((rows[columns] - healthy[columns].mean()) / spread).abs()
    found = []
    for _, row in distance.iterrows():
        worst = {
            cause: max(row[name] for name in columns if name.split()[0] in group)
            for cause, group in SIGMA_GROUPS.items()
        }
        best = max(worst, key=lambda cause: worst[cause])
        found.append(best if worst[best] > 3 else "none")
    return found


# --- scores -------------------------------------------------------------------------------------------------------


def leave_one_out(all_scored: Sequence[Scored]) -> tuple[list[Drilled], pd.DataFrame]:
    """Return the drills, and a row for each: what was true, and what methods name that have never seen its type."""
    types = sorted({one.drilled.fault for one in all_scored})
    judged = []
    for left_out in types:
        rest = [one for one in all_scored if one.drilled.fault != left_out]
        asked = [one for one in all_scored if one.drilled.fault == left_out]
        judged.append(_judged(asked, rest))
    drilled = [one for made, _ in judged for one in made]
    return drilled, pd.concat([rows for _, rows in judged], ignore_index=True)


def _judged(asked: Sequence[Scored], rest: Sequence[Scored]) -> tuple[list[Drilled], pd.DataFrame]:
    table = calibrate([one.known for one in rest], read_likelihoods())
    drilled = [_named_by(table, one) for one in asked]
    rows = drill_rows(drilled).assign(service=[one.service for one in drilled])
    asked, rest = ([one for one in side if one.signs] for side in (asked, rest))
    if not (asked and rest):
        return drilled, rows
    signs, learnt = (pd.DataFrame([one.signs for one in side]) for side in (asked, rest))
    first = [one.drilled.causes[0] for one in rest]
    healthy = learnt[[one.drilled.causes == ("none",) for one in rest]]
    tree = DecisionTreeClassifier(max_depth=5, random_state=0).fit(learnt.fillna(0), first)
    told = {
        "threshold rules": [by_threshold(one.signs) for one in asked],
        "N-sigma": by_sigma(signs, healthy),
        "decision tree": [str(cause) for cause in tree.predict(signs.fillna(0))],
        "majority": [pd.Series(first).mode().iloc[0]] * len(asked),
    }
    baselines = pd.DataFrame(told, index=rows.index[rows["service"] == BASELINES])
    return drilled, rows.join(baselines)


def _named_by(table: Likelihoods, one: Scored) -> Drilled:
    hypotheses = probabilities(one.known.evidence, table)
    cause, *also = decide(one.known.evidence, hypotheses, table) or ("unknown",)
    likely = by_cause(hypotheses)
    named = {"cause": cause, "also": also, "probability": round(likely.get(cause, max(likely.values())), 4)}
    return replace(one.drilled, extra={**one.drilled.extra, SCORED: named})


METHODS = {"kit": "named", **{name: name for name in ("decision tree", "threshold rules", "N-sigma", "majority")}}


def report(rows: pd.DataFrame, seconds: Sequence[float], seed: int) -> str:
    """Return the section of RESULTS.md."""
    alerted = rows[rows["alert"] != ""]
    types = by_type(rows.assign(fault=rows["service"] + ": " + rows["fault"]))
    parts = [
        "## Drills: which cause, which remedy, and whether it recovers",
        f"`python benchmarks/drills.py` · {len(rows)} simulated drills of {rows['fault'].nunique()} types of faults in "
        f"{rows['service'].nunique()} services, seed {seed}; {np.mean(seconds):.1f} s each (wall clock). Each type is "
        "scored with a temperature, and baselines, that were fitted without it. Of two faults at once either counts as "
        "the first. A false repair is a benign drill of which any cause is named. The likelihood ratios were chosen by "
        "reason, and corrected on drills of the same simulators with other seeds.",
        _markdown(_by_service(rows), "service"),
        f"The same of the {len(alerted)} drills in which an alert fired:",
        _markdown(_by_service(alerted), "service"),
        *_beside_baselines(rows[rows["service"] == BASELINES]),
        "Confusion (rows: true, columns: named):",
        _markdown(confusion(rows), "true"),
        "By type of fault:",
        _markdown(types, "fault"),
        "How sure it is, and how right (reliability):",
        _markdown(reliability(rows).set_index("probability"), "probability"),
    ]
    return "\n\n".join(parts) + "\n"


def _beside_baselines(prices: pd.DataFrame) -> list[str]:
    if prices.empty:
        return []
    table = pd.DataFrame({name: scores(prices, column) for name, column in METHODS.items()}).T
    return ["Beside baselines, which know the signs of the price service alone:", _markdown(table, "method")]


def _by_service(rows: pd.DataFrame) -> pd.DataFrame:
    parts = {"all": rows, **dict(iter(rows.groupby("service", sort=False)))}
    return pd.DataFrame({name: {"drills": len(part), **scores(part)} for name, part in parts.items()}).T


def _markdown(table: pd.DataFrame, heading: str) -> str:
    columns = [heading, *map(str, table.columns)]
    lines = [" | ".join(columns), " | ".join("---" for _ in columns)]
    for index, row in table.iterrows():
        lines.append(" | ".join([str(index), *(_cell(value) for value in row)]))
    return "\n".join(f"| {line} |" for line in lines)


def _cell(value: Any) -> str:
    if isinstance(value, float | np.floating):
        return "–" if np.isnan(value) else f"{value:.3f}".rstrip("0").rstrip(".") if value % 1 else f"{value:.0f}"
    return str(value)


def main(arguments: Sequence[str]) -> int:
    """Go through the drills, and write what came of them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=7, help="drills of each type")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--services", nargs="*", default=SERVICES)
    parser.add_argument("--types", nargs="*", help="types of faults; all that a service can have unless given")
    parser.add_argument("--results", type=Path, default=PATH)
    chosen = parser.parse_args(arguments)
    asked = [
        (service, drill)
        for service in chosen.services
        for drill in drawn_drills(
            chosen.types or ["", *find_simulation(ROOT, service).faults], chosen.count, chosen.seed
        )
    ]
    made: list[Scored] = []
    with ProcessPoolExecutor(chosen.processes, initializer=one_thread) as pool:
        for number, one in enumerate(pool.map(scored, *zip(*asked, strict=True)), 1):
            made.append(one)
            held = one.drilled
            told = f"{held.service}: {held.fault} ({held.severity:.2f}): {held.cause} {held.probability:.3f}"
            mark = "  " if held.is_as_it_should_be else "✗ "
            print(f"{mark}{number}/{len(asked)} {told} → {held.verdict} [{one.seconds:.1f} s]", flush=True)
    drilled, rows = leave_one_out(made)
    command = shlex.join(["python", "benchmarks/drills.py", *arguments])
    told = {name: fault.description for name, fault in known_faults().items()}
    held = write_results(drilled, ROOT / "drills", chosen.seed, False, command, told, SCORED_BY)
    text = report(rows, [one.seconds for one in made], chosen.seed)
    write_section(text, chosen.results)
    print(f"{text}\nresults: {held} (`lepton publish --drills` makes a page of them)")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
