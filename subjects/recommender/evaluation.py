"""How good lists are: NDCG of what users then took, beside what is popular with all."""

from __future__ import annotations

import numpy as np

from subjects.recommender.model import TOP, Recommender
from subjects.recommender.shop import ITEMS, USERS, Shop


def ndcg(scores: np.ndarray, taken: np.ndarray, top: int = TOP) -> np.ndarray:
    """Return each row's normalised discounted cumulative gain of its best `top` items; NaN where nothing was taken.

    `scores` and `taken` (whether the item was) have the shape (rows, items); items of score minus infinity are last.

    >>> ndcg(np.array([[3.0, 2.0, 1.0]]), np.array([[False, True, False]])).round(2)
    array([0.63])
    """
    discount = 1 / np.log2(np.arange(2, top + 2))[: scores.shape[1]]
    order = np.argsort(-scores, axis=1, kind="stable")[:, : len(discount)]
    gained = np.take_along_axis(taken, order, axis=1) @ discount
    best = (np.arange(len(discount)) < taken.sum(axis=1)[:, None]) @ discount
    found: np.ndarray = np.divide(gained, best, out=np.full(len(scores), np.nan), where=best > 0)
    return found


def taken_of(made: Shop, week: int) -> np.ndarray:
    """Return whether each user took each item in a week, of the shape (users, items)."""
    found = np.zeros((USERS, ITEMS), dtype=bool)
    events = made.events[made.events["week"] == week]
    found[events["user"], events["item"]] = True
    return found


def popularity(made: Shop, version: Recommender, weeks: range) -> np.ndarray:
    """Return how often each item was taken in some weeks, as everybody's scores; minus infinity as by `scores`."""
    counts = np.bincount(made.events.loc[made.events["week"].isin(weeks), "item"], minlength=ITEMS)
    is_shown = version.tables["offered"] & ~version.tables["taken"]
    return np.where(is_shown, counts.astype(float), -np.inf)


def of_cold(scores: np.ndarray, taken: np.ndarray, version: Recommender) -> np.ndarray:
    """Return `ndcg` of the items that nobody had taken, among themselves."""
    cold = version.tables["offered"] & ~version.tables["known"]
    return ndcg(scores[:, cold], taken[:, cold])
