"""The kit in the tools that people have open: JupyterLab's scheduler, and plain pages of runs."""
