"""Tables.

What they must hold (`contracts`), what is wrong with them (`quality`, `cleaning`), how they moved (`drift`), how they
are split in time (`splits`), and what a service does to faulty rows (`input_fixes`).
"""
