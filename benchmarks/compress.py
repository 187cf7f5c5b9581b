"""Times ways to make a model smaller, alone and in a running service.

    python benchmarks/compress.py [--rounds N] [--seconds S]

The model is a GRU of the size that notebook 02 trains, with 33 features a row. First the networks alone, in turns: in
double and in single precision, with 8-bit weights (`torch.ao.quantization.quantize_dynamic`), and as students of other
kinds (`lepton_kit.models.compression.distil`). Then the model, a wide one and the student as services, one worker each,
as `benchmarks/serving.py` measures them: what a request costs beside the model decides how much a switch can bring.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import json
import os
import platform
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from results import write_section
from safetensors.torch import save
from serving import BATCH, CONNECTIONS, load, running

from lepton_kit.models.compression import distil
from lepton_kit.models.forecasters import Architecture, Forecaster, model_columns, untrained
from lepton_kit.models.golden import golden_examples
from lepton_kit.models.registry import Registry
from subjects.prices.features import price_features
from subjects.prices.sources import read_prices

WIDTH, WIDE = 8, 128
STUDENTS: dict[str, tuple[Any, int]] = {"linear": ("linear", 1), "mlp 4": ("mlp", 4), "gru 4": ("gru", 4)}
SERVED = "mlp 4"
Served = dict[tuple[str, str], list[dict[str, float]]]


def main() -> None:
    """Run the benchmark and write its section."""
    given = argparse.ArgumentParser(description=__doc__)
    given.add_argument("--rounds", type=int, default=5)
    given.add_argument("--seconds", type=float, default=4.0)
    asked = given.parse_args()
    features = price_features(read_prices("sample:goog"), lookback=10)
    teacher, wide = (
        untrained(Architecture("gru", model_columns(features), width), features, level=0.02) for width in (WIDTH, WIDE)
    )
    students = {name: distil(teacher, features, kind, width) for name, (kind, width) in STUDENTS.items()}
    alone = time_networks(variants(teacher, students), teacher.prepare(features.tail(BATCH))[0])
    services = {f"gru {WIDE}": wide, f"gru {WIDTH}": teacher, SERVED: students[SERVED]}
    served = time_services(services, features, asked.rounds, asked.seconds)
    text = report(alone, served, asked.rounds, asked.seconds)
    write_section(f"## Compression\n\n{text}")
    print(text)


# --- the networks alone -------------------------------------------------------------------------------------------


def variants(teacher: Forecaster, students: Mapping[str, Forecaster]) -> dict[str, torch.nn.Module]:
    """Return the networks to compare."""
    single = copy.deepcopy(teacher.network).float()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch moves it to another package, and says so in two ways
        eight = torch.ao.quantization.quantize_dynamic(
            copy.deepcopy(single), {torch.nn.Linear, torch.nn.GRU}, dtype=torch.qint8
        )
    full = {f"gru {WIDTH}, 64-bit (as kept)": teacher.network, "the same, 32-bit": single, "the same, 8-bit": eight}
    return full | {f"{name}, 64-bit": student.network for name, student in students.items()}


def time_networks(networks: Mapping[str, torch.nn.Module], inputs: Any, repeats: int = 400) -> pd.DataFrame:
    """Return each network's median time in microseconds, taken in turns with one thread, and its bytes."""
    torch.set_num_threads(1)
    tasks: dict[tuple[str, int], Callable[[], Any]] = {}
    for name, network in networks.items():
        network.eval()
        asked = torch.from_numpy(inputs).to(torch.float64 if "64-bit" in name else torch.float32)
        for rows in (1, BATCH):
            tasks[name, rows] = partial(network, asked[:rows])
    times: dict[tuple[str, int], list[float]] = {key: [] for key in tasks}
    with torch.no_grad():
        for turn in range(-20, repeats):
            for key, task in tasks.items():
                began = time.perf_counter()
                task()
                if turn >= 0:
                    times[key].append(time.perf_counter() - began)
    rows = [
        {"network": name, "row": 1e6 * statistics.median(times[name, 1]),
         "batch": 1e6 * statistics.median(times[name, BATCH]), "bytes": weight_bytes(network)}
        for name, network in networks.items()
    ]  # fmt: skip
    return pd.DataFrame(rows)


def weight_bytes(network: torch.nn.Module) -> int:
    """Return the size of a network's weights: as safetensors, or as torch packs those that safetensors cannot hold."""
    state = network.state_dict()
    if all(isinstance(value, torch.Tensor) and not value.is_quantized for value in state.values()):
        return len(save(state))
    packed = io.BytesIO()
    torch.save(state, packed)
    return len(packed.getvalue())


# --- the models as services ---------------------------------------------------------------------------------------


def time_services(forecasters: Mapping[str, Forecaster], features: pd.DataFrame, rounds: int, seconds: float) -> Served:
    """Return what `serving.drive` measures in each round, per model and kind of request."""
    found: Served = {}
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as servers:
        bodies = write_bodies(Path(scratch), next(iter(forecasters.values())), features)
        ports = {}
        for number, (name, forecaster) in enumerate(forecasters.items()):
            project = make_project(Path(scratch) / str(number), forecaster, features, bodies["single"])
            ports[name] = servers.enter_context(running("the kit", project))
        for number in range(rounds + 1):
            for kind, body in bodies.items():
                for name in list(ports) if number % 2 else list(ports)[::-1]:
                    taken = load(ports[name], body, seconds if number else 1.0)
                    if number:  # the first round warms up
                        found.setdefault((name, kind), []).append(taken)
    return found


def write_bodies(folder: Path, forecaster: Forecaster, features: pd.DataFrame) -> dict[str, Path]:
    """Write the bodies of a single request and of a batch."""
    rows = features[list(forecaster.architecture.needed)].tail(BATCH).to_dict("records")
    for kind, body in {"single": {"row": rows[-1]}, "batch": {"rows": rows}}.items():
        (folder / f"{kind}.json").write_text(json.dumps(body))
    return {kind: folder / f"{kind}.json" for kind in ("single", "batch")}


def make_project(folder: Path, forecaster: Forecaster, features: pd.DataFrame, body: Path) -> Path:
    """Make a project in which the forecaster is the version in use."""
    registry = Registry(folder / "models")
    made = registry.save("goog", forecaster, {"data": "benchmark"}, golden_examples(forecaster, features))
    registry.promote("goog", made, "benchmark", "")
    (folder / "lepton.toml").write_text("")
    (folder / "single.json").write_bytes(body.read_bytes())
    return folder


# --- the section --------------------------------------------------------------------------------------------------


def report(alone: pd.DataFrame, served: Served, rounds: int, seconds: float) -> str:
    """Return the section in Markdown."""
    lines = [
        f"`benchmarks/compress.py`, {datetime.now(UTC):%Y-%m-%d}: Python {platform.python_version()}, {os.cpu_count()} "
        f"cores (shared with other work), torch {torch.__version__}. Networks alone, one thread, in turns, medians:",
        "",
        f"| network | one row, µs | {BATCH} rows, µs | bytes of weights |",
        "|---|---|---|---|",
        *(f"| {one.network} | {one.row:.0f} | {one.batch:.0f} | {one.bytes} |" for one in alone.itertuples()),
        "",
        f"As services, one worker, {CONNECTIONS} connections, closed loop; medians of {rounds} alternating rounds of "
        f"{seconds:g} s:",
        "",
        "| service | single: requests/s | p50 ms | batch: rows/s | p50 ms |",
        "|---|---|---|---|---|",
    ]
    names = list(dict.fromkeys(name for name, _ in served))
    for name in names:
        one, many = ({each: statistics.median(taken[each] for taken in served[name, kind]) for each in ("rate", "p50")}
                     for kind in ("single", "batch"))  # fmt: skip
        lines.append(
            f"| {name} | {one['rate']:.0f} | {one['p50']:.1f} | {BATCH * many['rate']:.0f} | {many['p50']:.0f} |"
        )
    lines += [
        "",
        "What a switch brings, as the median of the rounds' ratios (and the least and the most of them):",
        "",
        f"| a switch to {SERVED} | single requests, times as many | rows in batches, times as many |",
        "|---|---|---|",
        *(f"| from {name} | {gain(served, name, 'single')} | {gain(served, name, 'batch')} |" for name in names[:-1]),
    ]
    return "\n".join(lines)


def gain(served: Served, name: str, kind: str) -> str:
    """Return how many times as much the student answered as another, round by round."""
    pairs = zip(served[SERVED, kind], served[name, kind], strict=True)
    ratios = [student["rate"] / other["rate"] for student, other in pairs]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


if __name__ == "__main__":
    main()
