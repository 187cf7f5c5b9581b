"""Fits a model of any table by its task: linear, a small network, or boosted trees, all of scikit-learn.

Every one is kept as a skops file with a `model.json`, and asked through `lepton_kit.models.flavors` from the first
answer on, so that what is judged is what is kept. The kit's own forecasters (`lepton_kit.models.training`), a GRU
among them, read lagged columns of an interval forecast, which a subject's features make.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lepton_kit.data.contracts import SPLIT, Contract
from lepton_kit.errors import InputError
from lepton_kit.models.flavors import DESCRIPTION, Model, ModelFile, load_model
from lepton_kit.models.normalisation import STANDARD, Normalisation
from lepton_kit.models.tasks import Task
from lepton_kit.models.training import Examples
from lepton_kit.telemetry.declaration import Declaration

LEAST_OF_CLASS = 5
"""Rows of a class without which a model of it cannot be fitted and judged."""

NAIVE = "naive"
"""What every model must beat: the classes' shares, or the median, whatever the features say."""


KINDS = ("linear", "mlp", "trees", NAIVE)


def _estimator(kind: str, is_class: bool, seed: int) -> Any:
    from sklearn import dummy, ensemble, linear_model, neural_network

    if kind == "linear":
        return linear_model.LogisticRegression(max_iter=2000) if is_class else linear_model.Ridge()
    if kind == "mlp":
        network = neural_network.MLPClassifier if is_class else neural_network.MLPRegressor
        return network(hidden_layer_sizes=(16, 16), alpha=1e-2, max_iter=500, early_stopping=True, random_state=seed)
    if kind == "trees":
        trees = ensemble.HistGradientBoostingClassifier if is_class else ensemble.HistGradientBoostingRegressor
        return trees(max_iter=100, max_leaf_nodes=15, early_stopping=False, random_state=seed)
    return dummy.DummyClassifier(strategy="prior") if is_class else dummy.DummyRegressor(strategy="median")


def examples_of(table: pd.DataFrame, contract: Contract, declaration: Declaration, part: str) -> Examples:
    """Return the features and the target of one part of a clean table; a binary target is 1 for `columns.positive`.

    Raises InputError when the table has no parts, the part no rows, or the target is not what its task needs.
    """
    if SPLIT not in table.columns:
        raise InputError("table lacks column split; notebook 01-data-cleaning adds it")
    rows = table[table[SPLIT] == part]
    if rows.empty or contract.target is None:
        raise InputError(f"no row of part {part!r} has a target")
    target = rows[contract.target]
    if declaration.task == "classification_binary":
        positive = declaration.columns.positive
        known = set(table[contract.target].unique())
        if len(known) != 2 or positive not in known:
            listed = ", ".join(sorted(map(str, known)))
            raise InputError(f"columns.positive = {positive!r}: must be one of two classes; the target holds {listed}")
        target = (target == positive).astype(float)
    elif declaration.task == "classification_multiclass":
        target = target.astype(str)
    elif declaration.task != "regression":
        raise InputError(
            f"task {declaration.task!r}: the kit fits no such model from a table; register one made "
            "elsewhere (`lepton register`), or let a subject make the features of an interval forecast"
        )
    return Examples(rows[list(contract.features)], target)


def fit(
    kind: str,
    learnt: Examples,
    contract: Contract,
    task: Task,
    folder: Path,
    seed: int = 0,
    normalisation: Normalisation = STANDARD,
) -> Model:
    """Fit a model, keep it in a folder (`model.skops`, `model.json`), and return it as loaded from there.

    Parameters
    ----------
    contract
        Which features hold numbers and which categories; a category that was never seen counts as none.
    seed
        Of all chance: the same rows and seed give the same model.
    normalisation
        How numbers are scaled; it is learnt from these rows, and kept in the file with the model.

    Raises
    ------
    InputError
        When there is no such kind or group, or a class has too few rows.
    """
    is_class = task.name.startswith("classification")
    unfitted = pipeline(kind, contract, is_class, seed, normalisation)
    if is_class and (counts := learnt.target.value_counts()).min() < LEAST_OF_CLASS:
        raise InputError(f"class {counts.idxmin()!r} has {counts.min()} rows to learn from; it needs {LEAST_OF_CLASS}")
    try:
        from skops.io import dump
    except ImportError as error:
        raise InputError("skops is not installed: pip install lepton-kit[models]") from error
    fitted = unfitted.fit(learnt.features, learnt.target)
    folder.mkdir(parents=True, exist_ok=True)
    dump(fitted, folder / "model.skops")
    classes = tuple(one.item() if hasattr(one, "item") else one for one in getattr(fitted, "classes_", ()))
    described = ModelFile(
        flavor="skops", file="model.skops", task=task.name, columns=contract.features, categorical=contract.categories,
        classes=tuple(int(one) if isinstance(one, float) else one for one in classes),
    )  # fmt: skip
    (folder / DESCRIPTION).write_text(described.model_dump_json(indent=1, exclude_defaults=True) + "\n", "utf-8")
    return load_model(folder)


def pipeline(
    kind: str, contract: Contract, is_class: bool, seed: int = 0, normalisation: Normalisation = STANDARD
) -> Any:
    """Return a model of a kind before it is fitted: scaled numbers, categories as columns of 0 and 1, scikit-learn's.

    Raises InputError when there is no such kind, or no such group to normalise by.
    """
    if kind not in KINDS:
        raise InputError(f"model {kind!r}: must be one of {', '.join(KINDS)}; a gru needs an interval forecast's lags")
    from sklearn.compose import ColumnTransformer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    encoder = OneHotEncoder(handle_unknown="ignore", min_frequency=0.005, sparse_output=False)
    parts = [("categories", encoder, list(contract.categories))] if contract.categories else []
    if contract.numbers:
        parts.insert(0, ("numbers", *normalisation.part(contract.numbers, contract.categories)))
    return make_pipeline(ColumnTransformer(parts), _estimator(kind, is_class, seed))


def choose(scores: Mapping[str, pd.Series]) -> str:
    """Return the model with the lowest mean loss on rows that none has learnt from; the naive one is no choice.

    >>> choose({"naive": pd.Series([0.7]), "linear": pd.Series([0.2]), "trees": pd.Series([0.3])})
    'linear'
    """
    means = {name: float(np.mean(loss)) for name, loss in scores.items() if name != NAIVE}
    if not means:
        raise InputError(f"models: name at least one of {', '.join(name for name in KINDS if name != NAIVE)}")
    return min(means, key=lambda name: means[name])
