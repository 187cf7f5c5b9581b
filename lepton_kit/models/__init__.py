"""Models.

What they do (`tasks`), how any is loaded (`flavors`) and kept (`registry`), trained (`training`, `fitting`, `tuning` on
`studies`, `retraining`), judged (`evaluation`, `judging`), and made smaller (`compression`).
"""
