"""How well faults are diagnosed and repaired: `python benchmarks/drills.py [--count 12] [--seed 0]`.

Simulated drills of every fault, over the range of its severities: what fired, what the diagnosis named, whether its
remedy was the right one, and whether the objective came back. What is learnt (the temperature that makes the
probabilities honest) is learnt without the type of fault that is scored, and so are the baselines. Writes a section of
RESULTS.md, and the confusion matrix as `benchmarks/confusion.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import confusion_matrix, f1_score
from sklearn.tree import DecisionTreeClassifier

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.results import PATH, write_section
from lepton_kit.data.drift import drift_table
from lepton_kit.diagnosis.calibration import Known, calibrate
from lepton_kit.diagnosis.case import build_case
from lepton_kit.diagnosis.causes import conclude
from lepton_kit.diagnosis.evidence import gather
from lepton_kit.diagnosis.likelihoods import read_likelihoods
from lepton_kit.files import write_atomically
from lepton_kit.models.evaluation import covered
from lepton_kit.ops.drills import Drill, Drilled, all_names, drawn_drills, drill_simulated
from lepton_kit.ops.simulation import Struck
from lepton_kit.telemetry.recordings import Recording
from lepton_kit.telemetry.slo import read_objectives

ROOT = Path(__file__).parents[1]
CAUSES = ("data", "model", "compute", "none")
NAMED = (*CAUSES, "unknown")
CONFUSION = Path(__file__).with_name("confusion.json")


@dataclass(frozen=True)
class Scored:
    """A drill, the evidence of its first diagnosis with the conclusion's inputs, and the signs that baselines use."""

    drilled: Drilled
    known: Known
    case: Any
    signs: dict[str, float]
    seconds: float


def scored(drill: Drill) -> Scored:
    """Go through a drill, and keep what its first diagnosis saw."""
    seen: list[Recording] = []
    began = time.perf_counter()

    def keep(recording: Recording, _: Struck) -> None:
        seen.append(recording)

    made = drill_simulated(drill, read_objectives(ROOT / "slo"), on_recording=keep)
    seconds = time.perf_counter() - began
    case = build_case(seen[0])
    known = Known(gather(case), frozenset(made.causes))  # type: ignore[arg-type]
    slim = replace(case, recording=replace(case.recording, metrics=case.recording.metrics.head(0), models={}))
    return Scored(made, known, slim, signs_of(seen[0]), seconds)


# --- baselines ----------------------------------------------------------------------------------------------------


def signs_of(recording: Recording) -> dict[str, float]:
    """Return what a dashboard shows of the last quarter of a recording, beside its first half."""
    requests = recording.requests
    before, during = requests.iloc[: len(requests) // 2], requests.iloc[-len(requests) // 4 :]
    features = recording.features(requests).to_numpy(float)
    sides = [recording.features(side).dropna() for side in (before, during)]
    moved = drift_table(*sides)["ks"].max() if min(map(len, sides)) > 1 and "ks" in drift_table(*sides) else 0.0
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


def leave_one_out(all_scored: Sequence[Scored]) -> pd.DataFrame:
    """Return a row per drill: what was true, and what each method names that has never seen this type of fault."""
    types = sorted({one.drilled.fault for one in all_scored})
    parts = []
    for left_out in types:
        rest = [one for one in all_scored if one.drilled.fault != left_out]
        asked = [one for one in all_scored if one.drilled.fault == left_out]
        parts.append(_judged(asked, rest))
    return pd.concat(parts, ignore_index=True)


def _judged(asked: Sequence[Scored], rest: Sequence[Scored]) -> pd.DataFrame:
    table = calibrate([one.known for one in rest], read_likelihoods())
    signs, learnt = (pd.DataFrame([one.signs for one in side]) for side in (asked, rest))
    first = [one.drilled.causes[0] for one in rest]
    healthy = learnt[[one.drilled.causes == ("none",) for one in rest]]
    tree = DecisionTreeClassifier(max_depth=5, random_state=0).fit(learnt.fillna(0), first)
    rows = []
    for place, one in enumerate(asked):
        found = conclude(one.case, one.known.evidence, table)
        drilled = one.drilled
        rows.append(
            {
                "fault": drilled.fault,
                "severity": drilled.severity,
                "causes": drilled.causes,
                "alert": drilled.alert,
                "named": found.cause,
                "also": tuple(found.also),
                "probability": found.probability,
                "threshold rules": by_threshold(one.signs),
                "N-sigma": by_sigma(signs.iloc[[place]], healthy)[0],
                "decision tree": str(tree.predict(signs.iloc[[place]].fillna(0))[0]),
                "majority": pd.Series(first).mode().iloc[0],
                "verdict": drilled.verdict,
                "detected_after": drilled.detected_after,
                "recovered_after": drilled.recovered_after,
                "actions": len(drilled.actions),
            }
        )
    return pd.DataFrame(rows)


def hit(causes: tuple[str, ...], named: str) -> str:
    """Return the true cause to score a name against: of two at once, either counts."""
    return named if named in causes else causes[0]


def scores(rows: pd.DataFrame, method: str) -> dict[str, float]:
    """Return macro-F1 over the causes there were, accuracy, right remedy first, false repairs, and abstentions."""
    true = [hit(causes, named) for causes, named in zip(rows["causes"], rows[method], strict=True)]
    benign = rows["causes"].map(lambda causes: causes == ("none",))
    right = pd.Series(true, index=rows.index) == rows[method]
    named = rows[method].isin(("data", "model", "compute"))
    present = sorted(set(true))
    return {
        "macro-F1": float(f1_score(true, rows[method], labels=present, average="macro", zero_division=0)),
        "accuracy": float(right.mean()),
        "right remedy first": float(right[~benign].mean()),
        "right where one is named": float(right[~benign & named].mean()),
        "false repairs on benign": float(named[benign].mean()),
        "abstained": float((rows[method] == "unknown").mean()),
    }


def reliability(rows: pd.DataFrame) -> pd.DataFrame:
    """Return how often the named cause was right, by the probability that the diagnosis gave it."""
    named = rows[rows["named"] != "unknown"]
    right = [name in causes for name, causes in zip(named["named"], named["causes"], strict=True)]
    bins = pd.cut(named["probability"], [0, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0], include_lowest=True)
    grouped = pd.DataFrame({"stated": named["probability"], "right": right}).groupby(bins, observed=True)
    return grouped.agg(stated=("stated", "mean"), right=("right", "mean"), drills=("right", "size")).reset_index()


METHODS = {"kit": "named", **{name: name for name in ("decision tree", "threshold rules", "N-sigma", "majority")}}


def report(rows: pd.DataFrame, seconds: Sequence[float], seed: int) -> str:
    """Return the section of RESULTS.md."""
    alerted = rows[rows["alert"] != ""]
    parts = [
        "## Drills: which cause, which remedy, and whether it recovers",
        f"`python benchmarks/drills.py` · {len(rows)} simulated drills of {rows['fault'].nunique()} types, "
        f"seed {seed}; {np.mean(seconds):.1f} s each (wall clock, side by side). Each type is scored with a "
        "temperature, and baselines, that were fitted without it. Of two faults at once either counts as the "
        "first. The likelihood ratios were chosen by reason, and corrected on drills of the same simulator with other "
        "seeds.",
        _markdown(pd.DataFrame({name: scores(rows, column) for name, column in METHODS.items()}).T, "method"),
        f"The same of the {len(alerted)} drills in which an alert fired:",
        _markdown(pd.DataFrame({name: scores(alerted, column) for name, column in METHODS.items()}).T, "method"),
        "Confusion of the kit (rows: true, columns: named):",
        _markdown(confusion(rows), "true"),
        "By type of fault:",
        _markdown(by_type(rows), "fault"),
        "How sure it is, and how right (reliability):",
        _markdown(reliability(rows).set_index("probability"), "probability"),
    ]
    return "\n\n".join(parts) + "\n"


def confusion(rows: pd.DataFrame) -> pd.DataFrame:
    """Return how often each true cause was named what."""
    true = [hit(causes, named) for causes, named in zip(rows["causes"], rows["named"], strict=True)]
    counts = confusion_matrix(true, rows["named"], labels=list(NAMED))
    return pd.DataFrame(counts, index=list(NAMED), columns=list(NAMED)).loc[list(CAUSES)]


def by_type(rows: pd.DataFrame) -> pd.DataFrame:
    """Return for each type: drills, alerts, first cause right, both right, recovered, and median times."""
    found = {}
    for name, part in rows.groupby("fault", sort=False):
        right = [one in causes for one, causes in zip(part["named"], part["causes"], strict=True)]
        alerted = part[part["alert"] != ""]
        found[name] = {
            "drills": len(part),
            "alerts": len(alerted),
            "right": float(np.mean(right)),
            "recovered of alerts": float((alerted["verdict"] == "recovered").mean()) if len(alerted) else float("nan"),
            "detected after (s)": alerted["detected_after"].median(),
            "recovered after (s)": alerted["recovered_after"].median(),
        }
    return pd.DataFrame(found).T


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
    parser.add_argument("--count", type=int, default=12, help="drills of each type")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--types", nargs="*", help="types of faults; all unless given")
    parser.add_argument("--results", type=Path, default=PATH)
    chosen = parser.parse_args(arguments)
    drills = drawn_drills(chosen.types or ["", *all_names()], chosen.count, chosen.seed)
    made: list[Scored] = []
    with ProcessPoolExecutor(chosen.processes, initializer=_one_thread) as pool:
        for number, one in enumerate(pool.map(scored, drills), 1):
            made.append(one)
            told = f"{one.drilled.fault} ({one.drilled.severity:.2f}): {one.drilled.cause} → {one.drilled.verdict}"
            print(f"{number}/{len(drills)} {told} [{one.seconds:.1f} s]", flush=True)
    rows = leave_one_out(made)
    text = report(rows, [one.seconds for one in made], chosen.seed)
    write_section(text, chosen.results)
    held = {"labels": list(NAMED), "true": list(CAUSES), "counts": confusion(rows).to_numpy().tolist()}
    write_atomically(CONFUSION, json.dumps({**held, "drills": len(rows), "seed": chosen.seed}, indent=1) + "\n")
    print(text)
    return 0


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
