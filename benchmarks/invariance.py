"""What must not change a verdict, and what is named of a service of others: `python benchmarks/invariance.py`.

Every fault that the simulated services can have, and nothing, is recorded once; each recording is then changed in what
says nothing of the cause (order of rows and series, the day, names, the unit of a metric), or has less in it. A changed
recording may be undecided, and should never be of another cause: the table counts those that are. PetShop (Hardt et
al., CLeaR 2024) is a shop that others run and broke on purpose: its metrics and calls alone, of each labelled issue and
of halves of its healthy periods. A cause that is named where nothing was wrong is a false repair; where none is named,
a person is asked. Writes a section of RESULTS.md.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.results import PATH, write_section
from lepton_kit.diagnosis.causes import diagnose
from lepton_kit.ops.drill_results import Drill
from lepton_kit.ops.drills import drawn_drills, one_thread
from lepton_kit.ops.faults import find_fault
from lepton_kit.ops.simulation import find_simulation, inject
from lepton_kit.telemetry.recordings import Recording, read_recording, write_recording

ROOT = Path(__file__).parents[1]
SERVICES = ("scoring", "chat", "support")  # a recording of `goog` takes four times as long
NAMED = ("data", "model", "compute", "none", "unknown")
PETSHOP = "amazon-science/petshop-root-cause-analysis"
DATA = Path(os.environ.get("LEPTON_DATA", ROOT.parent / "shared" / "data")) / "petshop"
LATER = pd.Timedelta(days=400, hours=7)
TABLES = ("requests", "metrics", "logs")

Change = Callable[[Recording], Recording]


# --- what says nothing of the cause -------------------------------------------------------------------------------


def in_another_order(recording: Recording) -> Recording:
    """Return what is read of files whose rows, and so the series, are in another order."""
    rng = np.random.default_rng(3)
    tables = {name: getattr(recording, name) for name in TABLES}
    mixed = {name: one.iloc[rng.permutation(len(one))].reset_index(drop=True) for name, one in tables.items()}
    with tempfile.TemporaryDirectory() as folder:
        write_recording(replace(recording, **mixed), Path(folder) / "recording")
        return replace(read_recording(Path(folder) / "recording"), models=recording.models)


def on_another_day(recording: Recording) -> Recording:
    """Return it with every time later."""

    def moved(table: pd.DataFrame) -> pd.DataFrame:
        times = table.select_dtypes(include=["datetime", "datetimetz"])
        return table.assign(**{name: table[name] + LATER for name in times})

    def later(model: Any, *names: str) -> Any:
        return model.model_copy(update={name: getattr(model, name) + LATER for name in names})

    incident = recording.incident
    changed = {
        "window": later(incident.window, "start", "end"),
        "alerts": tuple(later(one, "starts_at") for one in incident.alerts),
        "deployments": tuple(later(one, "time") for one in incident.deployments),
    }
    tables = {name: moved(getattr(recording, name)) for name in TABLES}
    return replace(recording, incident=incident.model_copy(update=changed), **tables)


def with_other_names(recording: Recording) -> Recording:
    """Return it with labels that each series has besides, and with other ids of requests."""
    metrics, requests = recording.metrics, recording.requests
    labels = {text: json.dumps(json.loads(text) | {"pod": "p-7", "zone": "eu"}) for text in metrics["labels"].unique()}
    ids = [f"{number:x}" for number in np.random.default_rng(5).permutation(len(requests))]
    return replace(
        recording,
        metrics=metrics.assign(labels=metrics["labels"].map(labels)),
        requests=requests.assign(request_id=ids),
    )


def in_other_units(recording: Recording) -> Recording:
    """Return it with metrics of bytes in KiB, under the same names."""
    is_bytes = recording.metrics["metric"].str.endswith("_bytes")
    return replace(
        recording, metrics=recording.metrics.assign(value=recording.metrics["value"] / np.where(is_bytes, 1024, 1))
    )


SAME: dict[str, Change] = {
    "rows and series in another order": in_another_order,
    "another day": on_another_day,
    "other names": with_other_names,
    "bytes as KiB": in_other_units,
}


# --- less evidence ------------------------------------------------------------------------------------------------


def without(part: str) -> Change:
    """Return what takes all rows of a table away."""
    return lambda recording: replace(recording, **{part: getattr(recording, part).head(0)})


def without_deployments(recording: Recording) -> Recording:
    """Return it without what was deployed."""
    return replace(recording, incident=recording.incident.model_copy(update={"deployments": ()}))


def without_last_good(recording: Recording) -> Recording:
    """Return it without a last good version."""
    versions = recording.incident.versions.model_copy(update={"last_good": None})
    return replace(recording, incident=recording.incident.model_copy(update={"versions": versions}))


def without_column(name: str) -> Change:
    """Return what takes the values of a column of the requests away."""
    return lambda recording: replace(recording, requests=recording.requests.assign(**{name: np.nan}))


def half_of_the_requests(recording: Recording) -> Recording:
    """Return it with every second request, at random."""
    kept = np.random.default_rng(4).random(len(recording.requests)) < 0.5
    return replace(recording, requests=recording.requests[kept])


def seen_for_a_quarter_of_the_time(recording: Recording) -> Recording:
    """Return it with the window ended when a quarter of the time since the onset was over: a late onset."""
    incident, onset = recording.incident, diagnose(recording).onset
    end = onset + (pd.Timestamp(incident.window.end) - onset) / 4
    window = incident.window.model_copy(update={"end": end.to_pydatetime()})
    cut = {name: table[table["time"] <= end] for name in TABLES for table in [getattr(recording, name)]}
    return replace(recording, incident=incident.model_copy(update={"window": window}), **cut)


LESS: dict[str, Change] = {
    "no metrics": without("metrics"),
    "no log": without("logs"),
    "no deployments": without_deployments,
    "no last good version": without_last_good,
    "no actuals": without_column("actual"),
    "no latencies": without_column("latency_ms"),
    "half of the requests": half_of_the_requests,
    "a late onset: a quarter of the time": seen_for_a_quarter_of_the_time,
}

AS_RECORDED = "as recorded"
CHANGES: dict[str, Change] = {AS_RECORDED: lambda recording: recording, **SAME, **LESS}


# --- what is diagnosed --------------------------------------------------------------------------------------------


def singles(service: str) -> list[str]:
    """Return the faults that a simulated service can have, without pairs: those have two causes to lose."""
    return [name for name in find_simulation(ROOT, service).faults if "+" not in name]


def diagnosed(service: str, drill: Drill) -> list[dict[str, object]]:
    """Return what is named of a drill's recording as it is, and changed: a row for each."""
    simulation = find_simulation(ROOT, service)
    fault = find_fault(drill.fault, drill.seed, drill.severity) if drill.fault else None
    with tempfile.TemporaryDirectory() as scratch:
        injected = inject(fault, drill.seed, Path(scratch), simulation.objectives, simulation.plant)
        recording = injected.record()
        named = {change: diagnose(made(recording)) for change, made in CHANGES.items()}
    causes = sorted(fault.causes) if fault else ["none"]
    about = {"service": service, "fault": drill.fault or "nothing", "causes": tuple(causes)}
    first = named[AS_RECORDED].cause
    return [
        {**about, "change": change, "first": first, "named": found.cause, "probability": found.probability}
        for change, found in named.items()
    ]


def table_of(rows: pd.DataFrame) -> pd.DataFrame:
    """Return for each change how many verdicts are right, undecided, or of another cause than without it.

    Of benign recordings, a false repair is one of which a cause is named.
    """
    found = {}
    for change, part in rows.groupby("change", sort=False):
        benign = part["causes"] == ("none",)
        is_right = pd.Series(
            [one in causes for one, causes in zip(part["named"], part["causes"], strict=True)], part.index
        )
        is_undecided = part["named"] == "unknown"
        is_other = ~is_undecided & (part["named"] != part["first"]) & (part["first"] != "unknown")
        repaired = part["named"].isin(NAMED[:3])
        found[change] = {
            "recordings": len(part), "right": is_right.mean(), "undecided": is_undecided.mean(),
            "another cause": int(is_other.sum()), "benign": int(benign.sum()),
            "false repairs on benign": repaired[benign].mean(),
        }  # fmt: skip
    return pd.DataFrame.from_dict(found, orient="index")


# --- a service of others ------------------------------------------------------------------------------------------


def petshop(data: Path) -> pd.DataFrame:
    """Return how often each cause is named of PetShop, in its issues and in its healthy periods.

    A healthy period is its second half, beside the first one as what was before, with an alert that nothing is behind.
    """
    import localise as others  # beside this file

    issues = {"issues": [others.recording_of(one) for one in others.find_issues(data)], "healthy": []}
    for path in sorted(data.glob("*/noissue/metrics.csv")):
        table, calls = others.read_metrics(path), others.read_graph(path.parent.with_name("graph.csv"))
        before, after = table.iloc[: len(table) // 2], table.iloc[len(table) // 2 :]
        symptom = others.Symptom("PetSite", "latency Average", float(after.index[len(after) // 2]))
        healthy = others.Issue(f"{path.parts[-3]}/noissue", after, before, calls, symptom, "")
        issues["healthy"].append(others.recording_of(healthy))
    found = {}
    for kind, recordings in issues.items():
        named = pd.Series([diagnose(one).cause for one in recordings], dtype=object)
        counts = {name: int((named == name).sum()) for name in NAMED}
        repaired = named.isin(NAMED[:3]).mean() if kind == "healthy" else np.nan
        found[kind] = {
            "recordings": len(named), **counts, "undecided": (named == "unknown").mean(), "false repairs": repaired,
        }  # fmt: skip
    return pd.DataFrame.from_dict(found, orient="index")


# --- what is written ----------------------------------------------------------------------------------------------


def report(rows: pd.DataFrame, others: pd.DataFrame, seed: int) -> str:
    """Return the section of RESULTS.md."""
    recordings = rows[rows["change"] == AS_RECORDED]
    by_service = pd.concat(
        {name: table_of(part).loc[[AS_RECORDED]] for name, part in rows.groupby("service", sort=False)}
    )
    parts = [
        "## Invariance of diagnoses, false repairs and abstention",
        f"`python benchmarks/invariance.py`, {datetime.now(UTC):%Y-%m-%d}: {len(recordings)} recordings of "
        f"{recordings['fault'].nunique() - 1} simulated faults, and of nothing, in {recordings['service'].nunique()} "
        f"services, seed {seed}, each changed in {len(CHANGES) - 1} ways: those of the first rows may change no "
        "verdict, those below take evidence away, where a verdict may become undecided. Of an undecided verdict a "
        "person is asked. `another cause` counts verdicts that were decided before the change. A false repair is a "
        "benign recording of which any cause is named. Services, simulators and likelihoods are of the same authors.",
        _markdown(table_of(rows), "change"),
        "As recorded, by service:",
        _markdown(by_service.droplevel(1), "service"),
        "PetShop (Hardt et al., CLeaR 2024), a shop that others run and broke with delays and errors: what is named of "
        "its metrics and calls alone, as there are no requests, versions and logs. Its healthy periods have an alert "
        "that nothing is behind.",
        _markdown(others, "recordings of"),
    ]
    return "\n\n".join(parts) + "\n"


def _markdown(table: pd.DataFrame, heading: str) -> str:
    shown = table.map(lambda value: "–" if pd.isna(value) else f"{value:.3f}".rstrip("0").rstrip("."))
    lines = [
        [heading, *shown.columns],
        ["---"] * (len(shown.columns) + 1),
        *([name, *row] for name, *row in shown.itertuples()),
    ]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def main(arguments: Sequence[str]) -> int:
    """Record and change incidents, diagnose all, and write what was named."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=1, help="recordings of each type of fault")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--services", nargs="*", default=SERVICES)
    parser.add_argument("--data", type=Path, default=DATA, help="folder with the scenarios of PetShop")
    parser.add_argument("--results", type=Path, default=PATH)
    chosen = parser.parse_args(arguments)
    if not list(chosen.data.glob("*/train/issue_*/target.json")):
        parser.error(f"{chosen.data}: no */train/issue_*/target.json; get it from {PETSHOP}")
    asked = [
        (service, drill)
        for service in chosen.services
        for drill in drawn_drills(["", *singles(service)], chosen.count, chosen.seed)
    ]
    made = []
    with ProcessPoolExecutor(chosen.processes, initializer=one_thread) as pool:
        for number, rows in enumerate(pool.map(diagnosed, *zip(*asked, strict=True)), 1):
            made += rows
            told = ", ".join(f"{one['change']}: {one['named']}" for one in rows if one["named"] != rows[0]["first"])
            print(
                f"{number}/{len(asked)} {rows[0]['service']}: {rows[0]['fault']}: {rows[0]['first']}; {told}",
                flush=True,
            )
    text = report(pd.DataFrame(made), petshop(chosen.data), chosen.seed)
    write_section(text, chosen.results)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
