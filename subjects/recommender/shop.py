"""The shop of the recommender example: who takes what, week by week, from a stated model of tastes. No one's data.

A user takes the items of greatest utility plus Gumbel noise, none twice: a choice of probability softmax(utility)
(Luce 1959; Yellott 1977). The utility is taste × style of the item, its popularity, which drifts from week to week, and
the season of its section. In `HOLIDAY` weeks people take `VOLUME` times as much, gifts above all, and new items come.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd

SECTIONS = ("books", "garden", "kitchen", "music", "office", "sport", "toys", "jewellery")
GIFTS = ("toys", "jewellery")
USERS, ITEMS, STYLES = 600, 480, 6
WEEKS, HOLIDAY, VOLUME = 16, (12, 13), 4.0
TASTE, SEASON = 2.2, 1.5
"""The spread of the utility that is taste, and what the season adds to that of a gift."""

MIX, NEW = 3.0, 0.2
"""A rehearsed holiday: the same at most, harder than in the weeks, and the share of visitors who take a new item."""


@dataclass(frozen=True)
class Shop:
    """A shop: of each item its `section` (place in `SECTIONS`), `features` and week of `release`; and who took what.

    `features` (items, styles + 1) are what is known of an item that nobody has taken: its style and its price; they
    tell most, not all, of its latent style and `popularity` (weeks, items). `events` has `week`, `user` and `item`.
    """

    section: np.ndarray
    features: np.ndarray
    release: np.ndarray
    activity: np.ndarray
    utility: np.ndarray
    popularity: np.ndarray
    events: pd.DataFrame

    def known(self, week: int) -> np.ndarray:
        """Tell which items somebody took before a week: the others are cold in it."""
        return np.bincount(self.events.loc[self.events["week"] < week, "item"], minlength=ITEMS) > 0

    def draw(
        self, count: int, rng: np.random.Generator, week: int, season: float = 0.0, new: float = 0.0
    ) -> pd.DataFrame:
        """Return visits in a week: `user`, `section`, `history` (how much the user took before), `item` (taken then).

        Parameters
        ----------
        season
            What is added to the utility of gifts: the mix changes, and what is taken within a section does not.
        new
            The share of the visitors who take an item that is new in the week.
        """
        before = self.events[self.events["week"] < week]
        users = rng.choice(USERS, count, p=self.activity / self.activity.sum())
        utility = self.utility[users] + self.popularity[week] + season * np.isin(self.section, _places(GIFTS))
        utility[:, self.release > week] = -np.inf
        taken = np.zeros((USERS, ITEMS), dtype=bool)
        taken[before["user"], before["item"]] = True
        utility[taken[users]] = -np.inf
        is_new = self.release == week
        wants_new = rng.random(count) < new
        utility[np.ix_(wants_new, ~is_new)] = -np.inf
        utility[np.ix_(~wants_new, is_new)] = -np.inf
        item = (utility + rng.gumbel(size=utility.shape)).argmax(axis=1)
        return named(self, pd.DataFrame({"user": users, "item": item, "history": taken.sum(axis=1)[users]}))


def named(made: Shop, visits: pd.DataFrame) -> pd.DataFrame:
    """Return visits (`user`, `item` by their places, `history`) as a server is asked, and what was taken."""
    return pd.DataFrame(
        {
            "user": [f"u{one}" for one in visits["user"]],
            "section": np.array(SECTIONS, dtype=object)[made.section[visits["item"]]],
            "history": visits["history"].to_numpy(),
            "item": [f"i{one}" for one in visits["item"]],
        }
    )


def _places(names: tuple[str, ...]) -> list[int]:
    return [SECTIONS.index(name) for name in names]


@lru_cache(maxsize=2)
def shop(seed: int) -> Shop:
    """Return the shop of a seed: the same seed gives the same shop."""
    rng = np.random.default_rng(seed)
    section = np.arange(ITEMS) % len(SECTIONS)
    style, price = rng.normal(size=(ITEMS, STYLES)), rng.normal(size=ITEMS)
    latent = style + 0.5 * rng.normal(size=style.shape)
    drift = 0.2 * rng.normal(size=(WEEKS, ITEMS)).cumsum(axis=0)
    popularity = 0.6 * rng.normal(size=ITEMS) - 0.5 * price + drift
    is_old = rng.random(ITEMS) < 0.75
    chance = np.where(np.isin(np.arange(1, WEEKS), HOLIDAY), 4.0, 1.0)
    release = np.where(is_old, 0, rng.choice(np.arange(1, WEEKS), ITEMS, p=chance / chance.sum()))
    tastes = rng.normal(size=(USERS, STYLES))
    utility = TASTE * tastes @ latent.T / np.sqrt(STYLES) + rng.normal(size=(USERS, len(SECTIONS)))[:, section]
    activity = rng.gamma(2.0, 0.75, USERS)
    taken, events = np.zeros(utility.shape, dtype=bool), []
    for week in range(WEEKS):
        is_holiday = week in HOLIDAY
        wanted = utility + popularity[week] + SEASON * is_holiday * np.isin(section, _places(GIFTS))
        wanted = np.where(taken | (release > week), -np.inf, wanted + rng.gumbel(size=utility.shape))
        counts = rng.poisson(activity * (VOLUME if is_holiday else 1.0))
        order = np.argsort(-wanted, axis=1)[:, : max(1, counts.max())]
        user = np.repeat(np.arange(USERS), counts)
        item = order[np.arange(order.shape[1]) < counts[:, None]]
        taken[user, item] = True
        events.append(pd.DataFrame({"week": week, "user": user, "item": item}))
    features = np.column_stack([style, price])
    return Shop(section, features, release, activity, utility, popularity, pd.concat(events, ignore_index=True))


def rows(count: int, seed: int) -> pd.DataFrame:
    """Return visits of a usual week: the same seed gives the same rows."""
    return shop(0).draw(count, np.random.default_rng(seed), HOLIDAY[0])


def holiday_rows(count: int, seed: int) -> pd.DataFrame:
    """Return visits at a holiday: gifts above all, and one in five takes an item that is new."""
    return shop(0).draw(count, np.random.default_rng(seed), HOLIDAY[0], MIX, NEW)
