"""Times the telemetry store with 50 million samples, and writes the table to `benchmarks/RESULTS.md`.

    python benchmarks/store.py [--series N] [--samples N] [--folder F] [--quick]

Series are named as a service's: what the objectives count, and others up to the number asked for. A scrape comes every
15 s, a few milliseconds early or late. Counters grow by Poisson steps, sums by small random amounts, a quarter of all
series seldom. Prometheus' own blocks of a part of the same samples are measured beside it, where promtool is installed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
from results import write_section

from lepton_kit.telemetry.alerts import AlertEvaluator
from lepton_kit.telemetry.selectors import labels_text
from lepton_kit.telemetry.slo import read_objectives
from lepton_kit.telemetry.store import Sample, Store

START, STEP = 1_760_000_000, 15
CHUNK = 1000
"""Samples of each series that are appended at once."""
SIXTY_SERIES = 'http_server_request_duration_seconds_bucket{http_route="/v1/predict"}'
ONE_SERIES = 'lepton_predict_requests_total{version="v1",outcome="answered"}'
LE = (
    "0.005",
    "0.01",
    "0.025",
    "0.05",
    "0.075",
    "0.1",
    "0.25",
    "0.5",
    "0.75",
    "1.0",
    "2.5",
    "5.0",
    "7.5",
    "10.0",
    "+Inf",
)


def main() -> None:
    """Measure, print and write the section."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--series", type=int, default=500)
    arguments.add_argument("--samples", type=int, default=100_000, help="of each series")
    arguments.add_argument("--folder", type=Path, help="where the store is made; a temporary one unless given")
    arguments.add_argument("--quick", action="store_true", help="2,000 samples of each series, and nothing written")
    given = arguments.parse_args()
    count = 2000 if given.quick else given.samples
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        found = measure(Path(folder), given.series, count)
    text = report(found)
    print(text)
    if not given.quick:
        write_section(text)


def measure(folder: Path, series: int, count: int) -> dict[str, float]:
    """Return all figures by name; times in seconds."""
    names = series_names(series)
    store = Store(folder / "telemetry")
    found: dict[str, float] = {"samples": series * count, "days": count * STEP / 86400, "series": series}
    found["append"] = fill(store, names, count)
    found["files"], size = len(list(store.folder.glob("*.parquet"))), size_of(store.folder)
    found["bytes"] = size / found["samples"]
    found["prometheus"] = prometheus_bytes(folder, names, min(count, 2000))
    ends = np.random.default_rng(1).uniform(START + 3600, START + count * STEP, 21)
    for name, selector in (("hour", SIXTY_SERIES), ("hour of one series", ONE_SERIES)):
        new = [hour_query(Store(store.folder), selector, end) for end in ends]
        found[f"{name}, new reader"], found[f"{name}, slowest"] = statistics.median(new), max(new)
        found[f"{name}, same reader"] = statistics.median(hour_query(store, selector, end) for end in ends)
    found["all of one series"] = seconds(lambda: Store(store.folder).query(ONE_SERIES, 0, 4e9))
    found |= evaluations(store, START + count * STEP)
    found["scrape"] = scrapes(store, names, START + count * STEP)
    store.close()
    found["memory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return found


def hour_query(store: Store, selector: str, end: float) -> float:
    """Return how long a query of one hour takes."""
    return seconds(lambda: store.query(selector, end - 3600, end))


def series_names(count: int) -> list[tuple[str, str]]:
    """Return the metric and labels of each series."""
    base = {"job": "goog", "instance": "127.0.0.1:8000"}
    names: list[tuple[str, str]] = []
    for status in ("200", "422", "429", "503"):
        labels = {
            **base,
            "http_route": "/v1/predict",
            "http_request_method": "POST",
            "http_response_status_code": status,
        }
        names.append(("http_server_request_duration_seconds_count", labels_text(labels)))
        names.append(("http_server_request_duration_seconds_sum", labels_text(labels)))
        names += [("http_server_request_duration_seconds_bucket", labels_text({**labels, "le": le})) for le in LE]
    for kept in ("v1", "v2"):
        for outcome in ("answered", "invalid", "overloaded"):
            labels = {**base, "version": kept, "outcome": outcome}
            names.append(("lepton_predict_requests_total", labels_text(labels)))
        for inside in ("true", "false"):
            labels = {**base, "version": kept, "inside": inside}
            names.append(("lepton_forecast_actuals_total", labels_text(labels)))
    width = "lepton_forecast_interval_width"
    names += [(f"{width}_bucket", labels_text({**base, "le": "0.2"})), (f"{width}_count", labels_text(base))]
    names += [("lepton_freshness_seconds_total", labels_text({**base, "state": state})) for state in ("fresh", "stale")]
    more = [(f"other_{i // 20}_total", labels_text({**base, "part": str(i % 20)})) for i in range(count - len(names))]
    return (names + more)[:count]


def values_of(names: list[tuple[str, str]], count: int, generator: np.random.Generator) -> np.ndarray:
    """Return by how much each series grows at each scrape (series, count)."""
    grown = generator.poisson(8, (len(names), count)).astype(float)
    for number, (metric, _) in enumerate(names):
        if metric.endswith("_sum"):
            grown[number] = generator.exponential(0.03, count)
        elif number % 4 == 3:
            grown[number] *= generator.random(count) < 0.05
    return grown


def fill(store: Store, names: list[tuple[str, str]], count: int) -> float:
    """Append and flush all samples in pieces; return the samples per second of what the store did."""
    generator, taken = np.random.default_rng(0), 0.0
    last = np.zeros((len(names), 1))
    for first in range(0, count, CHUNK):
        frame, last = piece(names, first, min(CHUNK, count - first), last, generator)
        taken += seconds(lambda frame=frame: (store.append(frame), store.flush()))
    return len(names) * count / taken


def piece(
    names: list[tuple[str, str]], first: int, count: int, last: np.ndarray, generator: np.random.Generator
) -> tuple[pd.DataFrame, np.ndarray]:
    """Return the next samples of every series as a table, and the last values."""
    values = last + np.cumsum(values_of(names, count, generator), axis=1)
    at = (START + STEP * np.arange(first, first + count)) * 1000 + generator.integers(-3, 60, count)
    codes = np.repeat(np.arange(len(names)), count)
    metrics = pd.Categorical([metric for metric, _ in names])
    labels = pd.Categorical([text for _, text in names])
    frame = {
        "time": pd.Series(np.tile(at, len(names)).astype("datetime64[ms]")).dt.tz_localize("UTC"),
        "metric": metrics[codes],
        "labels": labels[codes],
        "value": values.ravel(),
    }
    return pd.DataFrame(frame), values[:, -1:]


def prometheus_bytes(folder: Path, names: list[tuple[str, str]], count: int) -> float:
    """Return the bytes per sample of the chunks that promtool makes of the first samples; NaN without promtool."""
    if shutil.which("promtool") is None:
        return float("nan")
    frame, _ = piece(names, 0, count, np.zeros((len(names), 1)), np.random.default_rng(0))
    text = folder / "samples.txt"
    with text.open("w") as file:
        for (metric, labels), one in frame.groupby(["metric", "labels"], observed=True):
            inside = labels.strip("{}").replace('":"', '="').replace(',"', ",").removeprefix('"')
            file.write(f"# TYPE {metric} unknown\n")
            file.writelines(
                f"{metric}{{{inside}}} {value!r} {at}\n"
                for at, value in zip(one["time"].astype("int64") / 1000, one["value"].tolist(), strict=True)
            )
        file.write("# EOF\n")
    blocks = folder / "blocks"
    subprocess.run(
        ["promtool", "tsdb", "create-blocks-from", "openmetrics", text, blocks], check=True, capture_output=True
    )
    return sum(map(size_of, blocks.glob("*/chunks"))) / len(frame)


def evaluations(store: Store, end: float) -> dict[str, float]:
    """Return how long it takes to evaluate five objectives for the first time, and each time after that."""
    objectives = read_objectives(Path(__file__).parents[1] / "slo/goog")
    evaluator = AlertEvaluator(objectives, store)
    first = seconds(lambda: evaluator.evaluate(end))
    assert all(status.budget_left is not None for status in evaluator.statuses)
    again = [seconds(lambda at=at: evaluator.evaluate(end + at)) for at in range(1, 21)]
    return {"objectives": len(objectives), "evaluate first": first, "evaluate again": statistics.median(again)}


def scrapes(store: Store, names: list[tuple[str, str]], since: float) -> float:
    """Return how long a scrape's samples take to the disk, merging among it (mean of 300)."""
    series = [(metric, json.loads(labels)) for metric, labels in names]
    taken = 0.0
    for number in range(300):
        samples = [Sample(metric, labels, since + 15 * number, float(number)) for metric, labels in series]
        taken += seconds(lambda samples=samples: (store.append(samples), store.flush()))
    return taken / 300


def size_of(folder: Path) -> int:
    """Return the bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def seconds(run: Callable[[], object]) -> float:
    """Return how long something takes."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def report(found: dict[str, float]) -> str:
    """Return the section in Markdown."""

    def ms(name: str) -> str:
        return f"{found[name] * 1000:,.1f} ms"

    hour = f"{ms('hour, new reader')}; slowest {ms('hour, slowest')}"
    rows = [
        ("one hour of one selector (60 series), a new reader", hour, "< 1 s"),
        ("the same, a reader that has read before", ms("hour, same reader"), ""),
        ("one hour of one series, a new reader", ms("hour of one series, new reader"), "< 1 s"),
        (f"one series, all {found['days']:.1f} days", ms("all of one series"), ""),
        ("bytes per sample on the disk", f"{found['bytes']:.2f}", ""),
        ("Prometheus' chunks of a part of the same samples, its index not counted", f"{found['prometheus']:.2f}", ""),
        ("append and flush, in large tables", f"{found['append'] / 1e6:.2f} million samples/s", ""),
        (f"a scrape of {found['series']:.0f} samples to the disk, merging included", ms("scrape"), ""),
        (f"{found['objectives']:.0f} objectives, first evaluation", ms("evaluate first"), ""),
        (f"{found['objectives']:.0f} objectives, each further one", ms("evaluate again"), "< 1 s"),
    ]
    lines = [
        "## Telemetry store",
        "",
        f"`benchmarks/store.py`, {datetime.now(UTC):%Y-%m-%d}: Python {platform.python_version()}, {os.cpu_count()} "
        f"cores, pyarrow {version('pyarrow')}. {found['samples'] / 1e6:.1f} million samples: {found['series']:.0f} "
        f"series, one sample in {STEP} s, {found['days']:.1f} days, in {found['files']:.0f} files. Medians; files in "
        "the page cache.",
        "",
        "| what | measured | target |",
        "|---|---|---|",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
        f"The largest resident memory of all this, the table to append included, was {found['memory']:.0f} MiB.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
