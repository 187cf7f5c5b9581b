"""Tables.

What they must hold (`contracts`), what is wrong with them (`quality` and `cleaning` by rules, `cells` by labelled
rows), how they moved (`drift`), how they are split in time (`splits`), and what a service does to faulty rows
(`input_fixes`).
"""
