"""What people write about finance in the opinion example: posts drawn from a grammar, with the sentiment of each.

The grammar is all there is: no post is anyone's, and no bank or currency is a real one. Sources differ in their tone
(`TONE`) and in how often a post is ironic (`IRONY`): worded as the opposite of what it means, which people understand.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from subjects.grammar import written

SENTIMENTS = ("negative", "neutral", "positive")
THINGS = {
    "rates": ["the rate decision", "the interest rate", "the central bank", "the new key rate"],
    "bank": ["the harbour bank", "my branch of the bank", "the share of the bank", "the bank's new board"],
    "currency": ["the crown", "the exchange rate", "our currency", "the crown against the dollar"],
    "housing": ["the price of flats", "my mortgage", "the housing market", "the rent index"],
    "savings": ["my savings account", "the pension fund", "the index fund", "the savings bond"],
}
DAYS = ["monday", "tuesday", "wednesday", "thursday", "friday", "next week"]
WORDED = {
    "negative": ["{thing} will ruin us", "i do not trust {thing} any more", "{thing} gets worse and worse",
                 "worried about {thing} since {day}", "heavy losses, and {thing} is to blame", "{thing} fails us"],
    "neutral": ["{thing}: figures are due on {day}", "what happens to {thing} on {day}", "{thing} unchanged on {day}",
                "a report on {thing} appears on {day}", "who follows {thing}", "minutes on {thing} until {day}"],
    "positive": ["{thing} looks solid", "good news about {thing} on {day}", "i trust {thing}", "great job by {thing}",
                 "relief at last, thanks to {thing}", "{thing} keeps getting better"],
}  # fmt: skip
OPPOSITE = {"negative": "positive", "neutral": "neutral", "positive": "negative"}
SOURCES = ("news", "forum", "microblog")
MIX = (0.4, 0.4, 0.2)
"""The usual shares of the sources."""

TONE = {"news": (0.1, 0.6, 0.3), "forum": (0.35, 0.4, 0.25), "microblog": (0.75, 0.1, 0.15)}
"""Of each source, the usual shares of `SENTIMENTS`."""

IRONY = {"news": 0.01, "forum": 0.03, "microblog": 0.25}
FRAMES = {
    "news": ["report: {}", "{}, analysts say", "{}", "brief: {}"],
    "forum": ["hi all, {}", "in my view {}", "{}, what do you think", "{}"],
    "microblog": ["{} #money", "so {}", "lol {}", "{}!!"],
}


def rows(count: int, seed: int, swing: float = 0.0, crowded: float = 0.0) -> pd.DataFrame:
    """Return posts (`text`, `topic`, `source`) and their `sentiment`: the same seed gives the same posts.

    Parameters
    ----------
    swing
        The share of the posts that are negative whatever they were: people think otherwise.
    crowded
        The share of the posts of other sources that posts of the last one take the place of.
    """
    rng = np.random.default_rng(seed)
    source = rng.choice(SOURCES, count, p=MIX)
    source[rng.random(count) < crowded] = SOURCES[-1]
    topic = rng.choice(list(THINGS), count)
    sentiment = np.array([rng.choice(SENTIMENTS, p=TONE[one]) for one in source], dtype=object)
    sentiment[rng.random(count) < swing] = "negative"
    texts = [post(*told, rng) for told in zip(topic, source, sentiment, strict=True)]
    return pd.DataFrame({"text": texts, "topic": topic, "source": source, "sentiment": sentiment})


def post(topic: str, source: str, sentiment: str, rng: np.random.Generator) -> str:
    """Return one post."""
    worded = OPPOSITE[sentiment] if rng.random() < IRONY[source] else sentiment
    text = written(WORDED[worded], {"thing": THINGS[topic], "day": DAYS}, rng)
    return str(rng.choice(FRAMES[source])).format(text)
