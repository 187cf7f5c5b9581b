"""Measures `subjects.recommender` beside popularity: NDCG@10 in usual and in holiday weeks, of all and of cold items.

    python benchmarks/recommender.py

A version learns what was taken before a week of a generated shop, and ranks for that week what each user has not taken.
The recipe is that of the subject, chosen on other seeds; `SCORED` seeds are asked once.
"""

from __future__ import annotations

import platform
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import product

import numpy as np
from results import write_section

from subjects.recommender.evaluation import ndcg, of_cold, popularity, taken_of
from subjects.recommender.model import Recipe, learn
from subjects.recommender.shop import HOLIDAY, ITEMS, STYLES, USERS, VOLUME, shop

SCORED = range(100, 106)
WEEKS = {"usual": 10, "first of the holiday": HOLIDAY[0], "second of the holiday": HOLIDAY[1]}
RESAMPLES = 1000


def one_week(asked: tuple[int, int]) -> dict[str, dict[str, np.ndarray]]:
    """Return by ranking the NDCG of each user of a shop in a week: `all` items, and `cold` ones among themselves."""
    seed, week = asked
    made = shop(seed)
    version = learn(made, week)
    plain = learn(made, week, replace(Recipe(), features=False))
    everybody = np.arange(USERS)
    rankings = {
        "popularity": popularity(made, version, range(week)),
        "popularity of the last week": popularity(made, version, range(week - 1, week)),
        "the same without features of items": plain.scores(everybody),
        "two towers": version.scores(everybody),
    }
    taken = taken_of(made, week)
    return {
        name: {"all": ndcg(scores, taken), "cold": of_cold(scores, taken, version)} for name, scores in rankings.items()
    }


def with_interval(values: np.ndarray, rng: np.random.Generator) -> str:
    """Return a mean over users with the 95 % interval of its resamples."""
    known = values[~np.isnan(values)]
    drawn = rng.choice(known, (RESAMPLES, len(known))).mean(axis=1)
    return f"{known.mean():.3f} ({np.quantile(drawn, 0.025):.3f} to {np.quantile(drawn, 0.975):.3f})"


def main() -> None:
    """Measure, and write the section."""
    asked = list(product(SCORED, WEEKS.values()))
    with ProcessPoolExecutor(2) as pool:
        found = dict(zip(asked, pool.map(one_week, asked), strict=True))
    rng, lines = np.random.default_rng(0), []
    for part, name in product(("all", "cold"), found[asked[0]]):
        cells = [
            with_interval(np.concatenate([found[seed, week][name][part] for seed in SCORED]), rng)
            for week in WEEKS.values()
        ]
        lines.append(f"| {part} | {name} | {' | '.join(cells)} |")
    rows = "\n".join(lines)
    text = f"""## Recommender

`python benchmarks/recommender.py`, {platform.machine()}, Python {platform.python_version()}. Shops of
`subjects/recommender/shop.py` ({USERS} users, {ITEMS} items, {STYLES} styles; {VOLUME:g} times the volume in the weeks
of the holiday, with gifts and new items), seeds {SCORED.start} to {SCORED.stop - 1}, which no choice was made on.
NDCG@10 of what a user takes in a week, by what was taken before it; users who take nothing do not count. Cold: items
that nobody had taken, ranked among themselves. 95 % intervals: {RESAMPLES} resamples of the users.

| items | ranking | {" | ".join(f"week {week} ({name})" for name, week in WEEKS.items())} |
|---|---|---|---|---|
{rows}"""
    write_section(text)
    print(text)


if __name__ == "__main__":
    main()
