"""The kit in the tools that people have open: `lepton ui`, the same pages in JupyterLab, jobs of its scheduler.

`app` has the pages; `server` serves them by a token, `extension` within Jupyter. `started` runs what they start.
"""

__all__ = ["app", "extension", "forms", "promote", "scheduler", "server", "started"]
