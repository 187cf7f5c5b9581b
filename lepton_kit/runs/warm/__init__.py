"""Kernels that start at once.

`forkserver` holds the imports, `lease` asks it, and `watchdog` ends what outlives its run.
"""

__all__ = ["forkserver", "kernel", "lease", "provisioner", "watchdog"]
