"""Checkpoints of a training: all that its next step depends on, in a file that is whole or absent."""

from __future__ import annotations

import hashlib
import io
import pickle
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from lepton_kit.errors import InputError
from lepton_kit.files import write_atomically


class Stateful(Protocol):
    """A network, an optimiser, a learning rate scheduler, or what else keeps state from step to step."""

    def state_dict(self) -> dict[str, Any]:
        """Return its state: tensors and plain values."""

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any:
        """Go on from a state."""


@dataclass
class Checkpoints:
    """Where and how often a training saves its state: after `every_steps` steps or `every_s` seconds, which is first.

    A training that finds its own state in the file goes on from it, and ends in the weights of one without a break.
    """

    file: Path
    every_steps: int | None = None
    every_s: float = 30.0
    _steps: int = field(default=0, init=False)
    _saved_at: float = field(default_factory=time.monotonic, init=False)

    def __post_init__(self) -> None:
        if self.every_steps is not None and self.every_steps < 1:
            raise InputError(f"every_steps = {self.every_steps}: must be at least 1")
        if not self.every_s >= 0:
            raise InputError(f"every_s = {self.every_s}: must be at least 0 seconds")

    def is_due(self) -> bool:
        """Count a step, and return whether the state is to be saved after it."""
        self._steps += 1
        by_steps = self.every_steps is not None and self._steps >= self.every_steps
        return by_steps or time.monotonic() - self._saved_at >= self.every_s

    def save(self, identity: Mapping[str, str], parts: Mapping[str, Stateful], position: Mapping[str, Any]) -> None:
        """Write a state, whole or not at all: the parts that each step changes, and how far the training is.

        `identity` says what it is of; `restore` refuses another. Raises InputError when the file cannot be written; the
        state before it stays.
        """
        states = {name: part.state_dict() for name, part in parts.items()}
        content = io.BytesIO()
        torch.save(
            {"identity": dict(identity), "parts": states, "position": dict(position), "generators": _generators()},
            content,
        )
        write_atomically(self.file, content.getvalue())
        self._steps, self._saved_at = 0, time.monotonic()

    def restore(self, identity: Mapping[str, str], parts: Mapping[str, Stateful]) -> dict[str, Any] | None:
        """Put the parts and the generators into the saved state, and return the position; None without a file.

        Raises InputError when the file is no checkpoint, or is one of another training.
        """
        if not self.file.exists():
            return None
        try:
            saved = torch.load(self.file, weights_only=True)
            known, states, position = saved["identity"], saved["parts"], saved["position"]
        except (OSError, RuntimeError, EOFError, KeyError, TypeError, ValueError, pickle.UnpicklingError) as error:
            reason = str(error).partition("\n")[0]
            raise InputError(f"checkpoint {str(self.file)!r}: not readable ({reason}); remove it") from error
        if differing := [name for name in {**known, **identity} if known.get(name) != identity.get(name)]:
            found = ", ".join(f"{name} {known.get(name)}, not {identity.get(name)}" for name in differing)
            raise InputError(f"checkpoint {str(self.file)!r}: is of another training ({found}); remove it")
        for name, part in parts.items():
            part.load_state_dict(states[name])
        _set_generators(saved["generators"])
        return dict(position)


def sha256_of_tensors(*tensors: Tensor) -> str:
    """Return the SHA-256 of the shapes and numbers of tensors."""
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(str(tuple(tensor.shape)).encode())
        found.update(tensor.numpy().tobytes())
    return found.hexdigest()[:12]


def _generators() -> dict[str, Any]:
    name, keys, position, has_gauss, gauss = np.random.get_state()  # the legacy one, which is global
    numpy_state = (name, torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, gauss)
    return {"torch": torch.get_rng_state(), "numpy": numpy_state, "python": random.getstate()}


def _set_generators(states: Mapping[str, Any]) -> None:
    torch.set_rng_state(states["torch"])
    name, keys, position, has_gauss, gauss = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    random.setstate(states["python"])
