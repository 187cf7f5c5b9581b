"""Measures the text classifier of `subjects` beside what people use: accuracy in scope, and what is out of it.

    LEPTON_DATA=... python benchmarks/intents.py
    python benchmarks/intents.py --table requests.parquet --out-of-scope oos --name "Requests"

The table (parquet or csv) has a text, an intent and a split per row; the split's name ends in train, val or test, and
the intent that `--out-of-scope` names is of no class. What may be chosen is chosen on the validation rows, among
`TRIED`; the test rows are asked once. Each method runs in a process of its own, whose peak of memory is told.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from results import write_section
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.svm import LinearSVC

from subjects.classifier import Recipe, train

DATA = Path(os.environ.get("LEPTON_DATA", Path(__file__).parents[2] / "shared" / "data"))
LEAST_ACCURACY, LEAST_AUROC, RESAMPLES, SEED = 0.93, 0.955, 1000, 0
STRENGTHS = (0.1, 0.5, 1.0, 3.0, 10.0, 30.0)
TRIED = (Recipe(), Recipe(piece_dropout=0.5), Recipe(epochs=12))
Scores = Callable[[list[str]], np.ndarray]
"""Of texts, the score of each class (n, classes); the largest one is also how far within scope a text is."""


@dataclass(frozen=True)
class Parts:
    """The rows of a table by their split; `outside` is the name of the intent that is of no class."""

    table: pd.DataFrame
    outside: str

    def texts(self, split: str, is_outside: bool = False) -> list[str]:
        """Return the texts of a split that are within scope, or those that are not."""
        return self._of(split, is_outside)["text"].tolist()

    def intents(self, split: str) -> np.ndarray:
        """Return the intents of the texts within scope."""
        return self._of(split, False)["intent"].to_numpy(object)

    @property
    def classes(self) -> np.ndarray:
        """The intents, in the order of the scores."""
        return np.unique(self.intents("train").astype(str)).astype(object)

    def _of(self, split: str, is_outside: bool) -> pd.DataFrame:
        held = self.table[self.table["split"].str.endswith(split)]
        return held[held["intent"].eq(self.outside) == is_outside]


def read_parts(path: Path, outside: str, text: str, intent: str, split: str) -> Parts:
    """Return a table's rows; where no split ends in val, a tenth of the training rows by a stated seed."""
    table = pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
    if missing := [name for name in (text, intent, split) if name not in table]:
        raise SystemExit(f"{path}: lacks column {', '.join(missing)}; it has {', '.join(map(str, table))}")
    table = table[[text, intent, split]].set_axis(["text", "intent", "split"], axis=1).astype(str)
    for end in ("train", "test"):
        if not table["split"].str.endswith(end).any():
            raise SystemExit(f"{path}: no {split} ends in {end}; there are {', '.join(table['split'].unique())}")
    if not table["split"].str.endswith("val").any():
        learnt = table[table["split"].str.endswith("train")]
        table.loc[learnt.sample(frac=0.1, random_state=SEED).index, "split"] = "val"
    return Parts(table, outside)


def judged(parts: Parts, split: str, scores: Scores) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return which texts of a split were told rightly, and the scores of those within scope and of the others."""
    inside, outside = parts.texts(split), parts.texts(split, is_outside=True)
    given = scores(inside)
    right = parts.classes[given.argmax(axis=1)] == parts.intents(split)
    return right, given.max(axis=1), scores(outside).max(axis=1) if outside else np.zeros(0)


def auroc(inside: np.ndarray, outside: np.ndarray) -> float:
    """Return the area under the ROC curve of the scores within scope against those out of it; NaN of none."""
    if not len(outside):
        return float("nan")
    return float(roc_auc_score(np.repeat([1, 0], [len(inside), len(outside)]), np.concatenate([inside, outside])))


def worth(parts: Parts, scores: Scores) -> float:
    """Return what is chosen by: accuracy and AUROC on the validation rows, the mean of those that there are."""
    right, inside, outside = judged(parts, "val", scores)
    return float(np.nanmean([right.mean(), auroc(inside, outside)]))


Made = tuple[str, Scores]


def regression(parts: Parts) -> Made:
    """Return a logistic regression on words and pairs of words; the score is the probability."""
    return _linear(parts, lambda strength: LogisticRegression(C=strength, max_iter=200), "predict_proba")


def machine(parts: Parts) -> Made:
    """Return a linear support vector machine on the same; the score is the margin."""
    return _linear(parts, lambda strength: LinearSVC(C=strength), "decision_function")


def _linear(parts: Parts, make: Callable[[float], LogisticRegression | LinearSVC], says: str) -> Made:
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True).fit(parts.texts("train"))
    rows, intents = words.transform(parts.texts("train")), parts.intents("train").astype(str)

    def fitted(strength: float) -> Scores:
        model = make(strength).fit(rows, intents)
        return lambda texts: by_class(np.asarray(getattr(model, says)(words.transform(texts))))

    tried = {strength: fitted(strength) for strength in STRENGTHS}
    best = max(tried, key=lambda strength: worth(parts, tried[strength]))
    return f"C = {best:g}", tried[best]


def by_class(margins: np.ndarray) -> np.ndarray:
    """Return margins with a column for each class: of two classes, scikit-learn gives that of the second alone."""
    return margins if margins.ndim == 2 else np.column_stack([-margins, margins])


def network(parts: Parts) -> Made:
    """Return the classifier of `subjects.support`, whose recipe is chosen with one member each."""
    given = parts.texts("train"), parts.intents("train").astype(str)

    def fitted(recipe: Recipe) -> Scores:
        return train(*given, recipe, SEED).logits

    best = max(TRIED, key=lambda recipe: worth(parts, fitted(replace(recipe, members=1))))
    told = ", ".join(f"{name} {value:g}" for name, value in vars(best).items() if value != vars(Recipe())[name])
    return told or "as it is", fitted(best)


METHODS = {
    "logistic regression": regression,
    "linear support vector machine": machine,
    "`subjects.classifier`": network,
}


def measure(name: str, parts: Parts) -> dict[str, object]:
    """Run one method, choice included, and return what the test rows say of it."""
    began = time.perf_counter()
    chosen, scores = METHODS[name](parts)
    trained = time.perf_counter()
    right, inside, outside = judged(parts, "test", scores)
    asked = 1000 * (time.perf_counter() - trained) / (len(inside) + len(outside))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    chance = np.random.default_rng(SEED)
    drawn = [
        (chance.choice(right, len(right)).mean(), auroc(chance.choice(inside, len(inside)), _again(outside, chance)))
        for _ in range(RESAMPLES)
    ]
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    return {
        "chosen": chosen, "accuracy": right.mean(), "auroc": auroc(inside, outside), "low": low, "high": high,
        "seconds": trained - began, "asked": asked, "memory": peak,
    }  # fmt: skip


def _again(values: np.ndarray, chance: np.random.Generator) -> np.ndarray:
    return chance.choice(values, len(values)) if len(values) else values


def section(name: str, parts: Parts, found: dict[str, dict[str, object]]) -> str:
    """Return the section of the results."""
    lines = [
        f"| {method} ({one['chosen']}) | {one['accuracy']:.4f} ({one['low'][0]:.4f} to {one['high'][0]:.4f}) | "
        f"{one['auroc']:.4f} ({one['low'][1]:.4f} to {one['high'][1]:.4f}) | {one['seconds']:.0f} | "
        f"{one['asked']:.2f} | {one['memory']:.0f} |"
        for method, one in found.items()
    ]
    own = found["`subjects.classifier`"]
    goals = {"accuracy": LEAST_ACCURACY, "auroc": LEAST_AUROC}
    told = "; ".join(
        f"{what} {own[what]:.4f}, the goal is {least}: {'met' if own[what] >= least else 'missed'}"
        for what, least in goals.items()
    )
    counts = ", ".join(
        f"{split} {len(parts.texts(split))} and {len(parts.texts(split, is_outside=True))} out of scope"
        for split in ("train", "val", "test")
    )
    rows = "\n".join(lines)
    return f"""## Intents: {name}

`python benchmarks/intents.py`, {platform.machine()}, Python {platform.python_version()}, {os.cpu_count()} cores (shared
with other work). {len(parts.classes)} intents; rows: {counts}. All learn from the training rows alone; what is in
brackets was chosen on the validation rows, and the seconds hold that choice. 95 % intervals: {RESAMPLES} resamples of
the test rows. Out of scope: by the largest probability, margin or logit.

| method | accuracy in scope | AUROC of out-of-scope | seconds to train | ms per text | peak memory, MiB |
|---|---|---|---|---|---|
{rows}

{told}."""


def main() -> None:
    """Measure every method and write the section."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, default=DATA / "intents" / "clinc150.parquet")
    parser.add_argument("--out-of-scope", default="oos", help="the intent of texts that are of no class")
    parser.add_argument("--name", default="CLINC150")
    for column in ("text", "intent", "split"):
        parser.add_argument(f"--{column}", default=column, help=f"the column of the {column}")
    asked = parser.parse_args()
    if not asked.table.exists():
        raise SystemExit(f"{asked.table}: no such file; set LEPTON_DATA (clinc/oos-eval, CC-BY-3.0) or give --table")
    parts = read_parts(asked.table, asked.out_of_scope, asked.text, asked.intent, asked.split)
    found = {}
    for name in METHODS:  # a process each: its peak of memory is its own
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            found[name] = pool.submit(measure, name, parts).result()
    text = section(asked.name, parts, found)
    write_section(text)
    print(text)


if __name__ == "__main__":
    main()
