"""Sentiment over time per topic, standardised by source, and the warning of a swing.

The index of a topic is the mean sentiment (-1 negative, 0 neutral, 1 positive) that it has in the usual mix of sources,
plus by how much the posts of each source lie off that source's own usual mean, weighted by the usual mix. So a swing
within the sources counts, and a change of their mix does not (direct standardisation; Rothman, Greenland and Lash,
"Modern Epidemiology", 2008, chapter 4). A source that is silent takes no part: its weight goes to the others.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from subjects.opinion.posts import SENTIMENTS

SCORES = dict(zip(SENTIMENTS, (-1.0, 0.0, 1.0), strict=True))
FEWEST = 3
"""Posts of a source in a period that take part; fewer count as none."""

Z = 1.96


@dataclass(frozen=True)
class Usual:
    """What is usual: `share`, `mean` and `variance` of each topic and source, in periods as long as `every`.

    `factor` says of each topic how many times as much as by chance in the posts its index varies between periods.
    """

    sources: pd.DataFrame
    factor: pd.Series
    every: str


def usual(posts: pd.DataFrame, every: str) -> Usual:
    """Return what is usual, of posts (`time`, `topic`, `source`, `sentiment`) of a time without a swing."""
    scored = posts.assign(score=posts["sentiment"].map(SCORES))
    sources = scored.groupby(["topic", "source"])["score"].agg(["count", "mean", "var"])
    sources["variance"] = sources.pop("var").fillna(1.0).clip(lower=0.01)
    share = sources["count"] / sources.groupby("topic")["count"].transform("sum")
    made = Usual(sources.assign(share=share), pd.Series(1.0, sources.index.unique("topic")), every)
    off = standardised(over_time(posts, made), made)
    return Usual(made.sources, (off**2).groupby("topic").mean().clip(lower=1.0), every)


def over_time(posts: pd.DataFrame, usual: Usual) -> pd.DataFrame:
    """Return the `index` of each topic and period (`topic`, `time`) with its 95 % interval (`low`, `high`).

    `error` is its standard error, what varies beyond chance included, and `posts` how many count. A period with too few
    posts of every source has no row.
    """
    scored = posts.assign(score=posts["sentiment"].map(SCORES), time=posts["time"].dt.floor(usual.every))
    cells = scored.groupby(["topic", "time", "source"])["score"].agg(["count", "mean"])
    known = usual.sources[["share", "mean", "variance"]].rename(columns={"mean": "usual_mean"})
    cells = cells[cells["count"] >= FEWEST].join(known, how="inner")
    weight = cells["share"] / cells.groupby(["topic", "time"])["share"].transform("sum")
    parts = pd.DataFrame({
        "index": weight * (cells["mean"] - cells["usual_mean"]),
        "error": weight**2 * cells["variance"] / cells["count"],
        "posts": cells["count"],
    })  # fmt: skip
    table = parts.groupby(["topic", "time"]).sum()
    topic = table.index.get_level_values("topic")
    table["index"] += centre(usual).reindex(topic).to_numpy()
    table["error"] = np.sqrt(table["error"] * usual.factor.reindex(topic).to_numpy())
    return table.assign(low=table["index"] - Z * table["error"], high=table["index"] + Z * table["error"])


def centre(usual: Usual) -> pd.Series:
    """Return the usual index of each topic: the mean of its posts."""
    return (usual.sources["share"] * usual.sources["mean"]).groupby("topic").sum()


def standardised(index: pd.DataFrame, usual: Usual) -> pd.Series:
    """Return by how many standard errors each period lies off the usual index of its topic."""
    off: pd.Series = index["index"] - centre(usual).reindex(index.index.get_level_values("topic")).to_numpy()
    return off / index["error"]


@dataclass(frozen=True)
class Rule:
    """When a swing is warned of: the mean index of `periods` lies off the usual one by `limit`.

    The values are those that `benchmarks/opinion.py` chose for periods of an hour.
    """

    periods: int = 12
    limit: float = 0.22


def warnings(index: pd.DataFrame, usual: Usual, rule: Rule | None = None) -> pd.DataFrame:
    """Return the warnings: `topic`, `time` (the period that completed it) and `direction` (-1 or 1).

    A mean needs three quarters of its periods. A topic is warned of anew once it was back. A warning says that the
    posts are answered otherwise than usual, not why: where the diagnosis of the service names a fault, it is no swing.
    """
    rule = rule or Rule()
    least = max(1, 3 * rule.periods // 4)
    off = index["index"].unstack("topic").rolling(rule.periods, min_periods=least).mean() - centre(usual)
    side: pd.DataFrame = off.where(off.abs() >= rule.limit, 0.0).transform(np.sign)
    begins = (side != side.shift(fill_value=0.0)) & (side != 0)
    warned = side.where(begins).reset_index().melt("time", var_name="topic", value_name="direction").dropna()
    return warned[["topic", "time", "direction"]].astype({"direction": int}).reset_index(drop=True)
