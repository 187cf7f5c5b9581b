"""Rows, labels and model of the scoring example: is a tumour malignant, by the measurements of its cells.

    python -m subjects.scoring.model services/scoring/models/v1

The rows are those of scikit-learn's breast cancer data (Wolberg, Street and Mangasarian, 1995), drawn with a little
noise, so that no two requests are alike; `size` is the third of the areas that a row's own lies in.
"""

from __future__ import annotations

import sys
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.datasets import load_breast_cancer

NUMBERS = ["radius", "texture", "smoothness", "compactness", "concavity", "symmetry"]
SIZES = ["small", "middle", "large"]
NOISE = 0.1
"""Of a column's standard deviation, put upon each number that is drawn."""


@lru_cache
def measured() -> pd.DataFrame:
    """Return the 569 rows that were measured, with `malignant` (1 or 0)."""
    data = load_breast_cancer(as_frame=True)
    table: pd.DataFrame = data.frame[[f"mean {name}" for name in NUMBERS]].set_axis(NUMBERS, axis=1)
    size = pd.qcut(data.frame["mean area"], 3, labels=SIZES).astype(str)
    return table.assign(size=size, malignant=1 - data.target)


def table() -> pd.DataFrame:
    """Return the labelled rows that notebooks clean, train and judge on."""
    return measured().copy()


def rows(count: int, seed: int) -> pd.DataFrame:
    """Return rows as clinics send them, with what came true: the same seed gives the same rows."""
    rng = np.random.default_rng(seed)
    drawn = measured().sample(count, replace=True, random_state=seed).reset_index(drop=True)
    spread = measured()[NUMBERS].std().to_numpy()
    drawn[NUMBERS] = (drawn[NUMBERS] + rng.normal(size=(count, len(NUMBERS))) * spread * NOISE).clip(lower=0)
    return drawn


def train(folder: Path, spoilt: bool = False, seed: int = 0) -> Path:
    """Train a version into a folder: `model.skops`, and the rows that it learnt from in `reference.parquet`.

    A spoilt one learns each row's label from the row before: the mistake of a join that is off by one.
    """
    import skops.io
    from sklearn.compose import make_column_transformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    learnt = rows(2000, seed)
    labels = learnt["malignant"].shift(1, fill_value=0) if spoilt else learnt["malignant"]
    columns = make_column_transformer(
        (StandardScaler(), NUMBERS), (OneHotEncoder(categories=[SIZES], handle_unknown="ignore"), ["size"])
    )
    model = make_pipeline(columns, LogisticRegression()).fit(learnt[[*NUMBERS, "size"]], labels)
    folder.mkdir(parents=True, exist_ok=True)
    skops.io.dump(model, folder / "model.skops")
    learnt.to_parquet(folder / "reference.parquet", index=False)
    return folder


if __name__ == "__main__":
    train(Path(sys.argv[1]), spoilt="--spoilt" in sys.argv)
