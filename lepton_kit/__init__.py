"""Lepton Kit: notebooks and runbooks that keep AI services stable. In a notebook: `import lepton_kit as lk`."""

from lepton_kit.errors import ExpectationFailed, InputError, LeptonError
from lepton_kit.notebook import artifact, expect, input, path, record, run_folder, run_id

__version__ = "0.1.0"

__all__ = [
    "ExpectationFailed",
    "InputError",
    "LeptonError",
    "artifact",
    "expect",
    "input",
    "path",
    "record",
    "run_folder",
    "run_id",
]
