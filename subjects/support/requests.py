"""What customers write to the support example: texts drawn from a grammar, with the topic that each is about.

The grammar is all there is: no text is anyone's. `NEW` is a topic that nobody wrote about until something happened;
`CHATTER` is about nothing that support answers.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from subjects.grammar import written

OPENINGS = ("", "", "", "hi, ", "hello, ", "please help: ", "good morning, ", "sorry to bother you, ", "so ")
ENDINGS = ("", "", "", " please", " thanks", " as soon as possible", " today", ", can you help", " if possible")
SLOTS = {
    "thing": ["parcel", "order", "package", "jacket", "lamp", "phone", "shoes", "keyboard", "blanket", "kettle"],
    "when": ["yesterday", "last week", "on monday", "three days ago", "this morning", "two weeks ago"],
    "card": ["card", "credit card", "bank account", "direct debit", "wallet"],
    "place": ["new flat", "office", "sister's house", "new street", "other address", "neighbour"],
}
TOPICS = {
    "delivery": ["where is my {thing}", "my {thing} has not arrived, i bought it {when}", "track the {thing}",
                 "when does the {thing} arrive", "the courier never came with my {thing}"],
    "cancel": ["cancel my {thing}", "i do not want the {thing} any more", "stop the {thing} before it ships",
               "i ordered the {thing} by mistake {when}, undo that"],
    "refund": ["i want my money back for the {thing}", "refund the {thing} to my {card}", "when is my refund paid",
               "i returned the {thing} {when} and got no money"],
    "address": ["send the {thing} to my {place}", "change the address to my {place}", "i moved {when}, update it",
                "the address on the {thing} is wrong"],
    "password": ["i forgot my password", "reset my login", "i cannot log in since {when}",
                 "the login code never comes", "my account is locked since {when}"],
    "invoice": ["i need an invoice for the {thing}", "the bill for the {thing} is wrong", "send the receipt of {when}",
                "why was my {card} charged twice"],
    "broken": ["the {thing} is broken", "my {thing} stopped working {when}", "the {thing} came damaged",
               "there is a scratch on the {thing}"],
    "advice": ["does the {thing} come in blue", "how big is the {thing}", "is the {thing} back in stock",
               "which {thing} do you recommend"],
}  # fmt: skip
NEW = "recall"
RECALLED = [
    "i read that the kettle overheats, is mine affected", "is my kettle part of the safety recall",
    "the news says kettles catch fire, what now", "how do i check the serial number for the recall",
    "the recall notice of {when} names my kettle", "is it safe to use the kettle after the fire warning",
]  # fmt: skip
CHATTER = [
    "who won the match {when}", "tell me a joke", "what is the weather like {when}", "do you like jazz",
    "translate good night into french", "how tall is the eiffel tower",
]  # fmt: skip
CHANNELS = ("web", "app", "mail")
OTHER = "other"
"""What a text is about that is about no topic which the version knows; people answer those."""


def rows(count: int, seed: int, new: float = 0.0, chatter: float = 0.04) -> pd.DataFrame:
    """Return requests (`text`, `channel`) and what they are about (`topic`): the same seed gives the same rows.

    `new` and `chatter` are the shares that are about the new topic, and about nothing; the latter's topic is `OTHER`.
    """
    rng = np.random.default_rng(seed)
    topics = list(TOPICS)
    kinds = rng.choice([NEW, OTHER, ""], count, p=[new, chatter, 1 - new - chatter])
    known = rng.choice(topics, count)
    topic = [kind or str(one) for kind, one in zip(kinds, known, strict=True)]
    texts = [_text({NEW: RECALLED, OTHER: CHATTER}.get(one) or TOPICS[one], rng) for one in topic]
    return pd.DataFrame({"text": texts, "channel": rng.choice(CHANNELS, count, p=[0.5, 0.3, 0.2]), "topic": topic})


def _text(patterns: list[str], rng: np.random.Generator) -> str:
    return f"{rng.choice(OPENINGS)}{written(patterns, SLOTS, rng)}{rng.choice(ENDINGS)}"
