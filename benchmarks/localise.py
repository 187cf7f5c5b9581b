"""Localises the root of labelled issues of a real web shop, beside ranked correlation, graph traversal and two N-sigmas.

    python benchmarks/localise.py [--data FOLDER] [--planted N]

The data is PetShop (Hardt et al., "The PetShop Dataset: Finding Causes of Performance Issues across Microservices",
CLeaR 2024; amazon-science/petshop-root-cause-analysis, CC-BY-4.0): every `*/train/issue_*` and `*/test/issue_*` of the
folder that has a `target.json`. As in its own evaluation an issue is given by the target's component, metric and
statistic, the metrics of the issue's window, those of a normal period, and the call graph; a method is right in its
first k when the labelled component is among its k highest. All methods see the same; none sees a label.

Where all issues at hand share one root, always naming that one scores 1. So faults are planted too: into stretches of
the normal period, in every component below the target that is asked often enough to matter, a delay or failures that
its callers pass on in proportion to how often they call.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
from results import write_section

from lepton_kit.diagnosis.localisation import Symptom, localise
from lepton_kit.errors import InputError

DATA = Path(os.environ.get("LEPTON_DATA", Path(__file__).parents[2] / "shared" / "data")) / "petshop"
VOLUME = "requests Sum"
TARGETS = {1: 0.80, 3: 0.95}
LONGEST = 1.0


@dataclass(frozen=True)
class Issue:
    """One issue: its metrics (component, metric), the normal period, the edges, the symptom, and the labelled root."""

    name: str
    metrics: pd.DataFrame
    normal: pd.DataFrame
    topology: pd.DataFrame
    symptom: Symptom
    root: str


Method = Callable[[Issue], list[str]]


def localise_issue(metrics: Path, graph: Path, normal: Path, target: dict[str, str | float]) -> list[str]:
    """Return the components of one issue, the likeliest root first.

    Parameters
    ----------
    metrics, normal
        CSV files whose columns have three header rows: component, metric, statistic.
    graph
        CSV file with the adjacency matrix, callers in rows.
    target
        What was seen: `node`, `metric`, `agg` and `timestamp` (Unix seconds).
    """
    return ours(Issue("", read_metrics(metrics), read_metrics(normal), read_graph(graph), read_symptom(target), ""))


def read_metrics(path: Path) -> pd.DataFrame:
    """Return a metrics table with columns (component, "metric statistic")."""
    table = pd.read_csv(path, header=[0, 1, 2], index_col=0)
    table.columns = pd.MultiIndex.from_tuples([(name, f"{metric} {agg}") for name, metric, agg in table.columns])
    return table.sort_index()


def read_graph(path: Path) -> pd.DataFrame:
    """Return the edges of an adjacency matrix, callers in rows."""
    matrix = pd.read_csv(path, index_col=0)
    edges = [(caller, callee) for caller in matrix.index for callee in matrix.columns if matrix.at[caller, callee]]
    return pd.DataFrame(edges, columns=["caller", "callee"])


def read_symptom(target: dict[str, str | float]) -> Symptom:
    """Return what a target.json says was seen."""
    return Symptom(str(target["node"]), f"{target['metric']} {target['agg']}", float(target["timestamp"]))


def find_issues(data: Path) -> Iterator[Issue]:
    """Return every labelled issue below a folder."""
    for path in sorted(data.glob("*/t*/issue_*/target.json")):
        scenario, label = path.parents[2], json.loads(path.read_text(encoding="utf-8"))
        yield Issue(
            name="/".join(path.parts[-4:-1]),
            metrics=read_metrics(path.with_name("metrics.csv")),
            normal=read_metrics(scenario / "noissue" / "metrics.csv"),
            topology=read_graph(scenario / "graph.csv"),
            symptom=read_symptom(label["target"]),
            root=label["root_cause"]["node"],
        )


def ours(issue: Issue) -> list[str]:
    """Rank by `localise`."""
    found = localise(issue.metrics, issue.topology, issue.symptom, issue.normal, volume=VOLUME)
    return [one.component for one in found.ranking]
