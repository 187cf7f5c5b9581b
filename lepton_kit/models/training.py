"""Training: a seeded, repeatable loop with early stopping on the validation rows."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lepton_kit.errors import InputError, LeptonError
from lepton_kit.models.checkpoints import Checkpoints, Stateful, sha256_of_tensors
from lepton_kit.models.forecasters import (
    Architecture,
    Forecaster,
    ModelName,
    Network,
    Volatility,
    check_choices,
    model_columns,
    untrained,
)
from lepton_kit.models.ranks import Ranks

PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class TrainingSettings:
    """The hyper-parameters of one training; `seed` fixes every random number in it.

    `weight_decay` draws all weights to zero, and with zero weights a model is the exponentially weighted volatility
    baseline. `patience` is the number of epochs without a better validation loss after which training stops.
    """

    model: ModelName = "mlp"
    learning_rate: float = 3e-3
    batch_size: int = 32
    width: int = 8
    epochs: int = 200
    patience: int = 20
    weight_decay: float = 1.0
    lookback: int = 10
    volatility: Volatility = "ewma"
    seed: int = 0

    def __post_init__(self) -> None:
        check_choices(self.model, self.volatility)
        for name in ("batch_size", "width", "epochs", "patience", "lookback"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise InputError(f"{name} = {value!r}: must be a whole number, at least 1")
        for name, lowest in (("learning_rate", 1e-8), ("weight_decay", 0.0)):
            value = getattr(self, name)
            if not math.isfinite(value) or not lowest <= value <= 1e3:
                raise InputError(f"{name} = {value!r}: must be a number from {lowest:g} to 1000")


@dataclass(frozen=True)
class Epoch:
    """What one pass over the training rows reached: mean losses per row."""

    number: int
    train_loss: float
    validation_loss: float
    best: bool


@dataclass(frozen=True)
class Trained:
    """A forecaster with the weights of its best epoch, and its history: one row per epoch, as `Epoch` has them."""

    forecaster: Forecaster
    history: pd.DataFrame

    @property
    def best_epoch(self) -> int:
        """Return the number of the epoch whose weights were kept."""
        return int(self.history.loc[self.history["best"], "number"].iloc[-1])


@dataclass(frozen=True)
class Examples:
    """Features (n, columns) and the log return of the day after each row (n,), with the same index."""

    features: pd.DataFrame
    target: pd.Series

    def rows(self, part: slice) -> Examples:
        """Return a stretch of the rows, by their positions."""
        return Examples(self.features.iloc[part], self.target.iloc[part])


def train_on(
    fit: Examples,
    check: Examples,
    settings: TrainingSettings,
    on_epoch: Callable[[Epoch], None] | None = None,
    checkpoints: Checkpoints | None = None,
) -> Trained:
    """Train a model, stopping early on later rows.

    The loss is the Gaussian negative log-likelihood of the target plus the cross-entropy of its direction. The same
    rows and settings give the same weights, bit for bit, on the same processor. Under `ranks.joined()` all processes
    that `torchrun` started share the work, and all get the same weights, equal to those of one process up to rounding.

    Parameters
    ----------
    fit
        The rows to learn from. They fix the model's columns, so `settings.lookback` plays no part.
    check
        Later rows, on which training stops early.
    checkpoints
        Where the state is saved now and then. A training that was killed goes on from it, also in the middle of an
        epoch, and ends in the same weights, bit for bit; `on_epoch` is not called again for epochs that were complete.

    Raises
    ------
    InputError
        When a setting or the rows do not do, or the checkpoint is of another training.
    LeptonError
        When the loss stops being a finite number, which a lower learning rate prevents.
    """
    with repeatable(settings.seed):
        forecaster = _start(fit, settings)
        history, weights = _descend(forecaster, fit, check, settings, on_epoch, checkpoints)
        if Ranks.present().split:
            forecaster = _start(fit, settings)
        forecaster.network.load_state_dict(weights)
    return Trained(forecaster, history)


@contextmanager
def repeatable(seed: int) -> Iterator[None]:
    """Make torch give the same numbers every time: one seed, one thread, deterministic kernels; then put all back."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.set_num_threads(1)
        torch.use_deterministic_algorithms(True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(deterministic)
            torch.set_num_threads(threads)


def losses(network: nn.Module, inputs: Tensor, target: Tensor) -> Tensor:
    """Return the mean loss of a batch: Gaussian negative log-likelihood plus cross-entropy of the direction.

    Parameters
    ----------
    inputs
        Scaled inputs (n, columns).
    target
        Log returns in units of the model's scale (n,).
    """
    mean, log_std, logits = network(inputs)
    likelihood = log_std + 0.5 * ((target - mean) * torch.exp(-log_std)) ** 2 + 0.5 * math.log(2 * math.pi)
    loss: Tensor = likelihood.mean() + cross_entropy(logits, (target > 0).long())
    return loss


def _start(fit: Examples, settings: TrainingSettings) -> Forecaster:
    columns = model_columns(fit.features, settings.volatility)
    architecture = Architecture(settings.model, columns, settings.width, settings.volatility)
    return untrained(architecture, fit.features, level=float(fit.target.std(ddof=0)))


@dataclass
class _Position:
    """How far a training is: complete epochs, the best weights so far, and where it is in the epoch after them."""

    history: list[Epoch]
    kept: dict[str, Tensor]
    order: Tensor | None = None
    batches: int = 0
    total: float = 0.0

    @property
    def best(self) -> Epoch | None:
        return next((epoch for epoch in reversed(self.history) if epoch.best), None)


def _descend(
    forecaster: Forecaster,
    fit: Examples,
    check: Examples,
    settings: TrainingSettings,
    on_epoch: Callable[[Epoch], None] | None,
    checkpoints: Checkpoints | None,
) -> tuple[pd.DataFrame, dict[str, Tensor]]:
    """Return the history, and the weights of the best epoch."""
    network, ranks, after_step = forecaster.network, Ranks.present(), None
    fit_tensors, check_tensors = _tensors(forecaster, fit), _tensors(forecaster, check)
    shared = ranks.wrapped(network)
    optimizer = torch.optim.AdamW(network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    position = _Position([], copy.deepcopy(network.state_dict()))
    if checkpoints:
        identity = _identity(settings, *fit_tensors, *check_tensors) | ({"ranks": "split"} if ranks.split else {})
        position = _restore(checkpoints, identity, network, ranks.parts(network, optimizer)) or position
        if ranks.rank == 0 or ranks.split:
            after_step = partial(_save_if_due, checkpoints, identity, ranks, ranks.parts(network, optimizer))
    for number in range(len(position.history) + 1, settings.epochs + 1):
        train_loss = _one_epoch(shared, optimizer, *fit_tensors, settings.batch_size, position, ranks, after_step)
        with torch.no_grad():
            validation_loss = losses(network, *check_tensors).item()
        if not math.isfinite(train_loss + validation_loss):
            raise LeptonError(
                f"loss is {train_loss} in epoch {number}: learning_rate = {settings.learning_rate} is too high"
            )
        best = position.best
        epoch = Epoch(number, train_loss, validation_loss, best is None or validation_loss < best.validation_loss)
        position.history.append(epoch)
        if on_epoch:
            on_epoch(epoch)
        if epoch.best:
            position.kept = copy.deepcopy(network.state_dict())
        elif best and number - best.number >= settings.patience:
            break
    return pd.DataFrame([asdict(epoch) for epoch in position.history]), ranks.gathered(position.kept)


def _one_epoch(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    inputs: Tensor,
    target: Tensor,
    batch_size: int,
    position: _Position,
    ranks: Ranks,
    after_step: Callable[[_Position], None] | None,
) -> float:
    """Pass over the rows in a random order, from where the position is in it, and return their mean loss."""
    network.train()
    if position.order is None:
        position.order, position.batches, position.total = torch.randperm(len(target)), 0, 0.0
    for rows in torch.split(position.order, batch_size)[position.batches :]:
        optimizer.zero_grad()
        own, weight = ranks.share(rows)
        loss = losses(network, inputs[own], target[own]) * weight
        ranks.meet()
        loss.backward()  # type: ignore[no-untyped-call]  # torch does not type it
        optimizer.step()
        position.total += ranks.mean(loss.item()) * len(rows)
        position.batches += 1
        if after_step:
            after_step(position)
    position.order = None
    return position.total / len(target)


def _identity(settings: TrainingSettings, *tensors: Tensor) -> dict[str, str]:
    own = {name: str(value) for name, value in asdict(settings).items()}
    return {**own, "rows": sha256_of_tensors(*tensors), "torch": str(torch.__version__)}


def _restore(
    checkpoints: Checkpoints, identity: dict[str, str], network: Network, parts: dict[str, Stateful]
) -> _Position | None:
    saved = checkpoints.restore(identity, parts)
    if saved is None:
        return None
    present = copy.deepcopy(network.state_dict())
    parts["network"].load_state_dict(saved["kept"])
    kept = copy.deepcopy(network.state_dict())  # each rank's share of it
    network.load_state_dict(present)
    return _Position(**{**saved, "history": [Epoch(**epoch) for epoch in saved["history"]], "kept": kept})


def _save_if_due(
    checkpoints: Checkpoints, identity: dict[str, str], ranks: Ranks, parts: dict[str, Stateful], position: _Position
) -> None:
    if ranks.from_first(checkpoints.is_due()):
        history, kept = [asdict(epoch) for epoch in position.history], ranks.gathered(position.kept)
        if ranks.rank == 0:
            checkpoints.save(identity, parts, {**vars(position), "history": history, "kept": kept})
        else:
            for part in parts.values():
                part.state_dict()  # the first rank gathers these


def _tensors(forecaster: Forecaster, given: Examples) -> tuple[Tensor, Tensor]:
    inputs, scale = forecaster.prepare(given.features)
    return torch.from_numpy(inputs), torch.from_numpy(given.target.to_numpy() / scale)
