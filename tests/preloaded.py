"""What a process of the `lepton` command imports and reads first: once, in the process that all are forked from."""

import importlib
import os
import sys

USED = (
    "papermill", "lepton_kit.cli", "lepton_kit.ops.operator", "lepton_kit.ops.watch.app", "lepton_kit.reports.site",
    "lepton_kit.runs.check", "lepton_kit.runs.engine", "lepton_kit.runs.pool", "lepton_kit.runs.progress",
    "lepton_kit.runs.runner", "lepton_kit.serving.app", "lepton_kit.serving.supervisor", "skops.io",
)  # fmt: skip


def preload() -> None:
    """Import it, and do once what each would do with it."""
    for name in USED:
        importlib.import_module(name)

    import nbformat
    from typer.main import get_command

    from lepton_kit import cli
    from lepton_kit.runs import manifest

    manifest.packages()
    manifest.code_sha256()
    nbformat.validate(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("")]))
    get_command(cli.app)


if path := os.environ.get("PRELOADED_PATH"):
    sys.path[:] = path.split(os.pathsep)  # as the forks': what is known of the packages is of a path
    preload()
