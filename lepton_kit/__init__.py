"""Lepton Kit: notebooks and runbooks that keep AI services stable. In a notebook: `import lepton_kit as lk`."""

import importlib as _importlib
import typing as _typing

if _typing.TYPE_CHECKING:
    from lepton_kit.errors import ExpectationFailed, InputError, LeptonError
    from lepton_kit.notebook import (
        Secret,
        artifact,
        checkpoint,
        end,
        expect,
        input,
        path,
        record,
        resumable_folder,
        run_folder,
        run_id,
        say,
        secret,
    )  # fmt: skip

__version__ = "0.1.0"

__all__ = [
    "ExpectationFailed",
    "InputError",
    "LeptonError",
    "Secret",
    "artifact",
    "checkpoint",
    "end",
    "expect",
    "input",
    "path",
    "record",
    "resumable_folder",
    "run_folder",
    "run_id",
    "say",
    "secret",
]


def __getattr__(name: str) -> _typing.Any:
    """Import a name when it is first used: the `lepton` command starts in milliseconds, and needs none of them."""
    if name not in __all__:
        raise AttributeError(f"module 'lepton_kit' has no attribute {name!r}")
    home = "errors" if name in ("ExpectationFailed", "InputError", "LeptonError") else "notebook"
    return getattr(_importlib.import_module(f"lepton_kit.{home}"), name)


def __dir__() -> list[str]:
    """Return what a notebook uses, which is all that `lk.` offers, and what every module has."""
    return [*__all__, *(name for name in globals() if name.startswith("__"))]
