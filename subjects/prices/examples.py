"""What a model of prices learns from: a day's features, and the log return of the day after."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd

from lepton_kit.errors import InputError
from lepton_kit.models.training import PARTS, Epoch, Examples, Trained, TrainingSettings, train_on
from subjects.prices.features import next_day_return, price_features
from subjects.prices.sources import read_prices

SAMPLE = "sample:goog"


def asked(needed: Sequence[str], source: str | None = None) -> pd.DataFrame:
    """Return what a service of prices is asked, in order of date: the features needed, and `actual` of the day after.

    Parameters
    ----------
    needed
        The features that a row must hold.
    source
        A clean price table, as `read_prices` takes it; Google's prices unless given.

    Raises
    ------
    InputError
        When the table cannot give such a feature.
    """
    return served(read_prices(source or SAMPLE), needed)


def served(prices: pd.DataFrame, needed: Sequence[str]) -> pd.DataFrame:
    """Return the same of a clean price table at hand."""
    features = price_features(prices, max(1, sum(name.startswith("return_") for name in needed)))
    if missing := [name for name in needed if name not in features.columns]:
        raise InputError(f"the price table gives no {', '.join(missing)}, which the service's model needs")
    return features[list(needed)].assign(actual=next_day_return(prices).reindex(features.index))


def examples(table: pd.DataFrame, part: str, lookback: int = 10) -> Examples:
    """Return the rows of one part whose next day is known.

    Features of a part's first days reach back into the part before it, as they would in use; targets do not reach
    forward out of the table.

    Parameters
    ----------
    table
        Prices with a column `split`, as notebook 01-data-cleaning leaves them.
    part
        `train`, `validation` or `test`.
    lookback
        As for `price_features`.

    Raises
    ------
    InputError
        When there is no such part, or no row of it has both features and a target.
    """
    if part not in PARTS:
        raise InputError(f"part = {part!r}: must be one of {', '.join(PARTS)}")
    if "split" not in table.columns:
        raise InputError("price table lacks column split; notebook 01-data-cleaning adds it")
    features, target = price_features(table, lookback), next_day_return(table).dropna()
    days = table.loc[table["split"] == part, "date"]
    index = features.index.intersection(target.index).intersection(pd.Index(days))
    if index.empty:
        raise InputError(f"no row of part {part!r} has {lookback} past days and a next day")
    return Examples(features.loc[index], target.loc[index])


def train(table: pd.DataFrame, settings: TrainingSettings, on_epoch: Callable[[Epoch], None] | None = None) -> Trained:
    """Train a model on the part `train`, stopping early on the part `validation`.

    The loss is the Gaussian negative log-likelihood of the next day's log return plus the cross-entropy of its
    direction. The same table and settings give the same weights, bit for bit, on the same processor.

    Parameters
    ----------
    table
        Clean prices with a column `split`.
    settings
        The hyper-parameters.
    on_epoch
        Called after every epoch, such as to move a progress bar.

    Raises
    ------
    InputError
        When a setting or the table does not do.
    LeptonError
        When the loss stops being a finite number, which a lower learning rate prevents.
    """
    fit = examples(table, "train", settings.lookback)
    check = examples(table, "validation", settings.lookback)
    return train_on(fit, check, settings, on_epoch)
