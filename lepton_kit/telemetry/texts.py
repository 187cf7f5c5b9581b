"""What can be said of texts without keeping them: length, language, words, and how many of them are new."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

import numpy as np
import pandas as pd

DESCRIPTORS = ("length", "language", "tokens", "out_of_vocabulary")
WORD = re.compile(r"\w+", re.UNICODE)
NOT_KNOWN = "unknown"
LEAST_WORDS = 2
"""Frequent words of a language that a text must hold before it counts as that language."""

FREQUENT = {
    "en": "the and of to is in that it for you was with on are this not",
    "de": "der die und das ist nicht ein eine zu den mit von ich sie auf für",
    "fr": "le la les et est une des que pas dans pour vous qui sur du je",
    "es": "el los las y es una que de por para con no se del lo en",
    "it": "il che di è un una per non gli sono con della le mi si ho",
    "nl": "de het een en van ik niet dat zijn op te met voor er maar je",
    "pt": "o os as e é uma que não para com um do da em você por",
}
_LANGUAGES = {name: frozenset(words.split()) for name, words in FREQUENT.items()}


def words_of(text: str) -> list[str]:
    """Return the words of a text in small letters.

    >>> words_of("It's 2 o'clock!")
    ['it', 's', '2', 'o', 'clock']
    """
    return WORD.findall(text.lower())


def language(text: str) -> str:
    """Return a text's language by its most frequent words, or else the script that it is written in.

    >>> [language(text) for text in ("Where is the key to the house?", "Где ключ", "xyz")]
    ['en', 'cyrillic', 'unknown']
    """
    counts = {name: sum(word in known for word in words_of(text)) for name, known in _LANGUAGES.items()}
    best = max(counts, key=lambda name: counts[name])
    if counts[best] >= LEAST_WORDS:
        return best
    scripts = Counter(unicodedata.name(one, "?").split()[0].lower() for one in text[:200] if one.isalpha())
    script = scripts.most_common(1)[0][0] if scripts else "latin"
    return NOT_KNOWN if script == "latin" else script


def described(texts: pd.Series, prefix: str, known: pd.Series | None) -> dict[str, pd.Series]:
    """Return what stands in a table for a column of text, each under a prefix; missing texts stay missing.

    `length` (characters), `language`, `tokens` (words), and, where `known` texts tell which words are new,
    `out_of_vocabulary` (0 to 1).

    >>> told = described(pd.Series(["the cat is here", None]), "note", pd.Series(["the cat"]))
    >>> {name: values.tolist() for name, values in told.items() if "language" not in name}
    {'note_length': [15.0, nan], 'note_tokens': [4.0, nan], 'note_out_of_vocabulary': [0.5, nan]}
    """
    held = texts.notna()
    words = texts[held].map(lambda text: words_of(str(text)))
    told = {
        "length": texts[held].map(lambda text: float(len(str(text)))),
        "language": texts[held].map(lambda text: language(str(text))),
        "tokens": words.map(lambda one: float(len(one))),
    }
    if known is not None:
        vocabulary = {word for text in known.dropna() for word in words_of(str(text))}
        told["out_of_vocabulary"] = words.map(
            lambda one: np.mean([word not in vocabulary for word in one]) if one else 0.0
        )
    before = f"{prefix}_" if prefix else ""
    return {f"{before}{name}": values.reindex(texts.index) for name, values in told.items()}
