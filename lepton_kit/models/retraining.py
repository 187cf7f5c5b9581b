"""Retraining on recent rows: tune, train, and judge by the gate; the caller decides what to do with the candidate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from lepton_kit.data.splits import part_sizes
from lepton_kit.data.tables import table_sha256
from lepton_kit.errors import InputError
from lepton_kit.models.baselines import ConstantVolatility, EwmaVolatility
from lepton_kit.models.evaluation import Bootstrap, Decision, gate, losses
from lepton_kit.models.forecasters import Architecture, Forecaster, Predictor
from lepton_kit.models.golden import golden_examples
from lepton_kit.models.registry import Registry
from lepton_kit.models.training import PARTS, Examples, TrainingSettings, train_on
from lepton_kit.models.tuning import SPACE, Space, Tuned, check_time_order, tune

EMBARGO = 1
"""Rows between two parts: the reach of a next-day target."""


@dataclass(frozen=True)
class Retrained:
    """A candidate with its evaluation.

    `scores` holds each test row's interval score (log return) of the `candidate` and of every opponent; `decision` is
    the gate's word on them. `card` is the model card, but for the run that made it.
    """

    forecaster: Forecaster
    tuned: Tuned
    parts: dict[str, Examples]
    scores: pd.DataFrame
    decision: Decision
    card: dict[str, Any]

    def save(self, registry: Registry, name: str, run_id: str) -> str:
        """Keep the candidate as a new version, not promoted, and return that version."""
        golden = golden_examples(self.forecaster, self.parts["test"].features)
        fit = self.parts["train"]
        reference = fit.features.assign(actual=fit.target)
        return registry.save(name, self.forecaster, {**self.card, "run_id": run_id}, golden, reference)


def retrain(
    recent: Examples,
    present: Mapping[str, Forecaster],
    space: Space = SPACE,
    trials: int = 8,
    seed: int = 0,
    margin: float = 0.05,
    on_training: Callable[[], None] | None = None,
) -> Retrained:
    """Tune and train a model on recent rows, and judge it on the newest of them, which neither has seen.

    The oldest 60 % of the rows train, the next 20 % stop the training early, the newest 20 % judge. Settings are tuned
    on the first two. The candidate reads the columns of the first present version, so that requests need not change.

    Parameters
    ----------
    recent
        Rows in time order: features as requests hold them, and what came true (log return) (n, columns).
    present
        The versions that the candidate must beat beside the naive forecasts, by name, such as `{"goog v1": …}`. They
        should not have learnt from these rows: what they know of them counts for them.
    space, trials, seed, on_training
        As for `tune`; the search starts from the first present version's architecture.

    Raises
    ------
    InputError
        When no version is given, the rows lack a column, are not in time order or are too few, or a setting is not
        allowed.
    LeptonError
        When no trial can be trained.
    """
    if not present:
        raise InputError("retraining needs at least one present version: it says which columns a request holds")
    for who, one in present.items():
        if not isinstance(one, Forecaster):
            raise InputError(f"retraining: torch models of the kit only; {who} is a model of another maker")
    architecture = next(iter(present.values())).architecture
    parts = _split(recent, architecture)
    known = parts["train"], parts["validation"]
    learnt = Examples(pd.concat([one.features for one in known]), pd.concat([one.target for one in known]))
    tuned = tune(learnt, _settings(architecture, seed), space, trials, seed=seed, on_training=on_training)
    candidate = train_on(parts["train"], parts["validation"], tuned.settings).forecaster
    test = recent.rows(slice(-len(parts["test"].target), None))  # with all columns: a version may read others
    scores = pd.DataFrame(
        {
            who: losses(one, test.features, test.target)
            for who, one in {"candidate": candidate, **_naive(parts), **present}.items()
        }
    )
    opponents = {str(who): scores[who] for who in scores.columns.drop("candidate")}
    decision = gate(scores["candidate"], opponents, margin, Bootstrap(seed=seed))
    return Retrained(candidate, tuned, parts, scores, decision, _card(parts, tuned.settings, decision, scores))


def _split(recent: Examples, architecture: Architecture) -> dict[str, Examples]:
    missing = [column for column in architecture.needed if column not in recent.features.columns]
    if missing:
        raise InputError(f"recent rows lack {', '.join(missing)}, which the present version reads")
    needed = Examples(recent.features[list(architecture.needed)], recent.target)
    check_time_order(needed)
    sizes = part_sizes(len(needed.target), embargo=EMBARGO, origin="recent rows")
    starts = (0, sizes["train"] + EMBARGO, sizes["train"] + sizes["validation"] + 2 * EMBARGO)
    return {part: needed.rows(slice(start, start + sizes[part])) for part, start in zip(PARTS, starts, strict=True)}


def _settings(architecture: Architecture, seed: int) -> TrainingSettings:
    return TrainingSettings(
        model=architecture.model,
        width=architecture.width,
        lookback=max(1, architecture.lookback),
        volatility=architecture.volatility,
        seed=seed,
    )


def _naive(parts: Mapping[str, Examples]) -> dict[str, Predictor]:
    naive: dict[str, Predictor] = {"constant volatility": ConstantVolatility.fitted(parts["train"])}
    if "volatility_ewma" in parts["train"].features.columns:
        naive["EWMA volatility"] = EwmaVolatility()
    return naive


def _card(
    parts: Mapping[str, Examples], settings: TrainingSettings, decision: Decision, scores: pd.DataFrame
) -> dict[str, Any]:
    ends = {part: [str(rows.target.index[end]) for end in (0, -1)] for part, rows in parts.items()}
    table = pd.concat([rows.features.assign(actual=rows.target) for rows in parts.values()])
    return {
        "purpose": "next day's log return: 90 % interval (Gaussian), and direction (softmax regression)",
        "limits": "retrained on recent rows, tuned and judged without a person's look",
        "data": {"sha256": table_sha256(table.reset_index()), **ends},
        "parameters": asdict(settings),
        "test_metrics": {"interval_score": {str(who): float(mean) for who, mean in scores.mean().items()}},
        "gate": decision.reasons,
    }
