"""Measures smaller forms of models side by side, and from which size each pays.

    python benchmarks/compress.py [--repeats N]

First three models of the kit with the forms that `lepton_kit.models.compression` finds for each, on rows that they have
not learnt from: a GRU that forecasts prices, a network and boosted trees that classify. Then a sweep over the hidden
units of networks that onnxruntime runs in 32, 16 and 8 bits, and with half of their units.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
from results import write_section

from lepton_kit.data.contracts import Contract
from lepton_kit.models import compression
from lepton_kit.models.evaluation import Bootstrap
from lepton_kit.models.fitting import fit
from lepton_kit.models.flavors import Model
from lepton_kit.models.tasks import TASKS
from lepton_kit.models.training import Examples, TrainingSettings
from subjects.prices.examples import examples, train
from subjects.prices.sources import read_prices
from subjects.scoring.model import NUMBERS, rows

WIDTHS = (8, 16, 32, 64, 128, 256, 512, 1024)


def main() -> None:
    """Run the benchmark and write its section."""
    given = argparse.ArgumentParser(description=__doc__)
    given.add_argument("--repeats", type=int, default=100)
    repeats = given.parse_args().repeats
    with tempfile.TemporaryDirectory() as scratch:
        parts = [advised(*one, Path(scratch), repeats) for one in (forecaster(), *classifiers(Path(scratch)))]
        swept = compression.sweep(WIDTHS, Path(scratch), repeats=repeats)
    text = report(parts, swept)
    write_section(f"## Compression\n\n{text}")
    print(text)


def forecaster() -> tuple[str, Model, Examples, Examples, Bootstrap]:
    """Return a name, a model, rows that it learnt from, rows that it did not, and how to resample them."""
    prices = read_prices("sample:goog")
    share = pd.Series(range(len(prices)), index=prices.index) / len(prices)
    prices["split"] = pd.cut(share, [-1, 0.6, 0.8, 1], labels=["train", "validation", "test"]).astype(str)
    trained = train(prices, TrainingSettings("gru", epochs=40)).forecaster
    return "GRU of prices (8 units)", trained, examples(prices, "train"), examples(prices, "test"), Bootstrap()


def classifiers(folder: Path) -> list[tuple[str, Model, Examples, Examples, Bootstrap]]:
    """Return the same of two classifiers of the scoring example."""
    features = [*NUMBERS, "size"]
    learnt, fresh = (Examples(own[features], own["malignant"]) for own in (rows(4000, 0), rows(2000, 1)))
    contract, task = Contract(tuple(NUMBERS), ("size",), target="malignant"), TASKS["classification_binary"]
    return [
        (f"{what} of cells", fit(kind, learnt, contract, task, folder / kind), learnt, fresh, Bootstrap(block=1))
        for kind, what in (("mlp", "network (2 × 16 units)"), ("trees", "boosted trees"))
    ]


def advised(
    name: str, model: Model, learnt: Examples, fresh: Examples, bootstrap: Bootstrap, scratch: Path, repeats: int
) -> list[str]:
    """Return the lines of one model: its forms, what is not possible, and the advice by each goal."""
    made, refused = compression.candidates(model, learnt.features, scratch / name.partition(" ")[0])
    table = compression.measure({compression.ORIGINAL: model, **made}, fresh, bootstrap, repeats)
    lines = [
        f"**{name}**, {len(fresh.target)} rows, {model.task.loss_name}:",
        "",
        "| form | loss against the original | one row, µs | 256 rows, µs | memory, KiB | disk, bytes |",
        "|---|---|---|---|---|---|",
        *(
            f"| {own.candidate} | {own.lost:+.2%} ({own.lower:+.2%} to {own.upper:+.2%}) | {own.us_per_row:.0f} "
            f"| {own.us_per_batch:.0f} | {own.memory_kib:.0f} | {own.bytes} |"
            for own in table.itertuples()
        ),
        "",
        *(f"- {', '.join(forms)}: {why}." for why, forms in _by_reason(refused).items()),
        *(f"- By {what}: {compression.advise(table, goal)}." for goal, what in compression.GOALS.items()),  # type: ignore[arg-type]
        "",
    ]
    return lines


def _by_reason(refused: dict[str, str]) -> dict[str, list[str]]:
    grouped: dict[str, list[str]] = {}
    for form, why in refused.items():
        grouped.setdefault(why, []).append(form)
    return grouped


def report(parts: list[list[str]], swept: pd.DataFrame) -> str:
    """Return the section in Markdown."""
    forms = list(dict.fromkeys(swept["form"]))
    by_width = swept.set_index(["width", "form"])
    lines = [
        f"`benchmarks/compress.py`, {datetime.now(UTC):%Y-%m-%d}: Python {platform.python_version()}, {os.cpu_count()} "
        "cores (shared with other work), one thread, each form asked through `Model.answers`; the least of many turns.",
        "",
        *(line for part in parts for line in part),
        "**From which size a form pays**: two hidden layers of this width, 32 inputs, 256 rows, in µs (bytes on disk):",
        "",
        f"| units | {' | '.join(forms)} |",
        f"|---|{'---|' * len(forms)}",
    ]
    for width in dict.fromkeys(swept["width"]):
        cells = (by_width.loc[(width, form)] for form in forms)
        shown = (f"{cell['us_per_batch']:.0f} ({cell['bytes']:.0f})" for cell in cells)
        lines.append(f"| {width} | {' | '.join(shown)} |")
    faster = (f"{form}: {compression.pays_from(swept, form) or 'at none'}" for form in forms[1:])
    twice = (f"{form}: {compression.pays_from(swept, form, 2.0) or 'at none'}" for form in forms[1:])
    lines += [
        "",
        f"A tenth faster than float32 from (units): {'; '.join(faster)}. Twice as fast from: {'; '.join(twice)}.",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
