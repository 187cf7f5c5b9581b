"""Trains on several processes that `torchrun` started: each takes its share of every batch (DDP over gloo, on CPUs).

With `split` each also holds only its share of the weights, gradients and optimiser's state (FSDP2).
"""

from __future__ import annotations

import faulthandler
import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.rendezvous import rendezvous

from lepton_kit.errors import InputError, LeptonError
from lepton_kit.models.checkpoints import Stateful


@contextmanager
def joined(hang_s: float = 300.0, split: bool = False) -> Iterator[None]:
    """Join the processes that `torchrun` started, so that `train_on` below this trains on all of them.

    Each needs the same rows and settings. A process that another one waits for longer than `hang_s` seconds ends the
    training: the error names the first rank that did not come, and each process writes the stacks of all its threads
    into its log. `torchrun --max-restarts N` starts all of them again after one was lost; with `checkpoints` in a file
    that all can read, they go on from there. With `split` the model is shared out among them; it is whole in the first
    one while that writes a checkpoint, and in all once the training has ended.

    Raises InputError when `torchrun` did not start this process, or `hang_s` is not above 0.
    """
    if not hang_s > 0:
        raise InputError(f"hang_s = {hang_s!r}: must be above 0 seconds")
    if not dist.is_torchelastic_launched():
        raise InputError("this process was not started by torchrun, which says how many take part")
    faulthandler.register(signal.SIGTERM, all_threads=True, chain=True)  # torchrun's, once a rank has failed
    # A barrier names who is late, so that the group's own deadline comes after the barrier's.
    deadline = timedelta(seconds=2 * hang_s)
    store, rank, size = next(iter(rendezvous("env://", timeout=deadline)))
    if os.environ["LOCAL_WORLD_SIZE"] == os.environ["WORLD_SIZE"]:  # one machine keeps one store for all its attempts
        store = dist.PrefixStore(f"attempt-{os.environ['TORCHELASTIC_RESTART_COUNT']}", store)  # type: ignore[attr-defined]
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=deadline)
    _joined.append(Ranks(rank, size, split and size > 1, hang_s))
    try:
        yield
    finally:
        _joined.pop()
        dist.destroy_process_group()


@dataclass(frozen=True)
class Ranks:
    """A process among those that train together: number `rank` of `size`; alone unless `joined`."""

    rank: int = 0
    size: int = 1
    split: bool = False
    hang_s: float = 300.0

    @classmethod
    def present(cls) -> Ranks:
        """Return what this process is a part of."""
        return _joined[-1] if _joined else cls()

    def wrapped(self, network: nn.Module) -> nn.Module:
        """Return a network whose gradients are the mean of those of all ranks; its weights are the network's own.

        Where the model is split, the network itself keeps this rank's share of each weight from now on.
        """
        if self.split:
            from lepton_kit.models.split import shared_out  # a second and more to import

            return shared_out(network, self.size)
        return nn.parallel.DistributedDataParallel(network) if self.size > 1 else network

    def gathered(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return whole weights, once all ranks ask for them."""
        if not self.split:
            return weights
        from lepton_kit.models.split import whole

        return {name: whole(one) for name, one in weights.items()}

    def parts(self, network: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Stateful]:
        """Return what a checkpoint keeps and restores, whole however the model is split."""
        if not self.split:
            return {"network": network, "optimizer": optimizer}
        from lepton_kit.models.split import Whole

        return {"network": Whole(network), "optimizer": Whole(network, optimizer)}

    def from_first(self, value: bool) -> bool:
        """Return what the first rank says, where all must do the same."""
        if not self.split:
            return value
        said = torch.tensor(value)
        dist.broadcast(said, 0)
        return bool(said)

    def share(self, rows: Tensor) -> tuple[Tensor, float]:
        """Return this rank's part of a batch, and the weight of its mean loss in the mean over ranks.

        A batch of fewer rows than ranks leaves some without; they compute the first row for nothing.
        """
        own = rows[self.rank :: self.size]
        return (own, len(own) * self.size / len(rows)) if len(own) else (rows[:1], 0.0)

    def meet(self) -> None:
        """Wait for all ranks.

        Raises LeptonError when one does not come in time; the message names the first that is missing.
        """
        if self.size == 1:
            return
        try:
            dist.monitored_barrier(timeout=timedelta(seconds=self.hang_s))
        except RuntimeError as error:
            faulthandler.dump_traceback(all_threads=True)
            late = re.search(r"[Rr]ank (\d+) failed", str(error))
            who = f"rank {late[1]}" if late else "a rank"
            words = f"was lost, or did not come within {self.hang_s:g} s: see the stacks in the logs"
            raise LeptonError(f"{who} of {self.size} {words}") from error

    def mean(self, value: float) -> float:
        """Return the mean of a number over all ranks, once all have come."""
        if self.size == 1:
            return value
        self.meet()
        total = torch.tensor(value, dtype=torch.float64)
        dist.all_reduce(total)
        return total.item() / self.size


_joined: list[Ranks] = []
