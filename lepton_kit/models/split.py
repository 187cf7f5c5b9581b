"""A network whose weights are shared out among the processes that train it (FSDP2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


def shared_out(network: nn.Module, size: int) -> nn.Module:
    """Leave each of `size` processes its share of a network's weights, and return the network."""
    fully_shard(network, mesh=init_device_mesh("cpu", (size,)), reshard_after_forward=True)
    return network


def whole(weights: Tensor) -> Tensor:
    """Return whole weights, once all processes ask for them."""
    return weights.full_tensor() if isinstance(weights, DTensor) else weights


@dataclass(frozen=True)
class Whole:
    """The weights of a split network, or the state of their optimiser: whole in the first rank, from a file in all."""

    network: nn.Module
    optimizer: torch.optim.Optimizer | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return it in the first process, once all ask for it."""
        if self.optimizer is None:
            return get_model_state_dict(self.network, options=WHOLE)
        return get_optimizer_state_dict(self.network, self.optimizer, options=WHOLE)

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Take this process' share of it."""
        if self.optimizer is None:
            set_model_state_dict(self.network, state, options=WHOLE)
        else:
            set_optimizer_state_dict(self.network, self.optimizer, state, options=WHOLE)
