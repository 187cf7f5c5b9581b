"""Kernels that start at once.

`forkserver` holds the imports, `lease` asks it, and `watchdog` ends what outlives its run.
"""
