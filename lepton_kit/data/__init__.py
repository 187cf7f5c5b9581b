"""Tables.

What they must hold (`contracts`), what is wrong with them (`quality` and `cleaning` by rules, `cells` by labelled
rows), how they moved (`profiles` for a stored reference, `drift` for two samples), what is larger than memory
(`large`), how they are split in time (`splits`), what a service does to faulty rows (`input_fixes`), which labels are
likely wrong (`labels`), what people answered about them (`annotations`), what to do about a rare class (`balance`), and
whether changed copies of rows gain (`augment`, `text_noise`), judged on `gains`.
"""

__all__ = [
    "annotations",
    "augment",
    "balance",
    "cells",
    "cleaning",
    "contracts",
    "drift",
    "input_fixes",
    "labels",
    "large",
    "profiles",
    "quality",
    "splits",
]
