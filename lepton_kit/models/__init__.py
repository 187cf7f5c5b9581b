"""Models.

What they do (`tasks`), how any is loaded (`flavors`) and kept (`registry`), trained (`training` with `checkpoints`,
`fitting` with `normalisation`, `tuning` on `studies`, `retraining`), judged (`evaluation`, `judging`), and made smaller
(`compression` of the forms that `conversion` and `distillation` give; `footprint` measures memory).
"""

__all__ = ["evaluation", "fitting", "flavors", "forecasters", "judging", "registry", "tasks", "training", "tuning"]
