"""Faults of the model: a bad version goes into service, or the workers' memory no longer holds the good one."""

from __future__ import annotations

import math
import shutil
import threading
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, NamedTuple

from lepton_kit.errors import InputError
from lepton_kit.models.registry import Registry
from lepton_kit.ops.faults.base import Fault, Plant, fault
from lepton_kit.serving.control import (
    change_desired_state,
    note_deployment,
    read_config,
    read_desired_state,
    read_reports,
)

if TYPE_CHECKING:  # PyTorch: only for who spoils a model
    import torch

    from lepton_kit.models.forecasters import Forecaster

LONGEST_RESTART = 60.0


class _Versions(NamedTuple):
    """The folders of the version in service, and of the spoilt one that was registered beside it."""

    good: Path
    bad: Path


def _registered(service: Path, fault: SpoiltVersion | PerturbedWeights) -> _Versions:
    from lepton_kit.models.forecasters import Forecaster

    config, version = read_config(service), read_desired_state(service).version
    assert config is not None, f"{service}: not a service that was started"
    registry, model = Registry(config.registry), config.model
    loaded = registry.load(model, version)
    if not isinstance(loaded, Forecaster):
        raise InputError(f"model {model!r}: this fault changes the weights of the kit's own models only")
    card = {"purpose": "a drill", "data": {"fault": fault.name, "severity": fault.severity}}
    kept = registry.golden(model, version), registry.reference(model, version)
    bad = registry.save(model, fault.spoiled(loaded), card, *kept)
    return _Versions(registry.folder(model, version), registry.folder(model, bad))


class SpoiltVersion(Fault):
    """The base of faults that register a worse version and put it into service, as a hasty deployment does."""

    cause = "model"
    note = "deployed"

    def spoiled(self, forecaster: Forecaster) -> Forecaster:
        raise NotImplementedError

    def begin(self, service: Path) -> None:
        """Register the bad version and let the workers load it."""
        version = _registered(service, self).bad.name
        change_desired_state(service, version=version, candidate=None, share=0.0)
        note_deployment(service, version, self.note)

    def end(self, service: Path) -> None:
        """Leave the service as it is: the repair chose its version; the bad one stays in the registry."""

    def inject(self, plant: Plant) -> None:
        plant.deploy(self.spoiled(plant.current()), self.note)


@fault
class BadVersion(Fault):
    """The bad version that a service declares, put into service by its declared action `deploy`."""

    name = "bad-version"
    cause = "model"
    description = "a version that answers wrongly is deployed"
    live, proxied = False, True
    deploys = True

    def inject(self, plant: Plant) -> None:
        plant.deploy_next(is_bad=True)


@fault
class WrongVersion(SpoiltVersion):
    """A version for another market answers. Severity 1: its intervals are a tenth as wide; less is wider.

    >>> WrongVersion(severity=0.5).factor
    0.55
    """

    name = "wrong-version"
    description = "a version that was made for a calmer market goes into service: its intervals are too narrow"
    note = "release of the wrong artefact"
    severities = (0.55, 1.0)

    @property
    def factor(self) -> float:
        """Return how wide the intervals are, compared with the good ones."""
        return 1 - 0.9 * self.severity

    def spoiled(self, forecaster: Forecaster) -> Forecaster:
        return with_weights(forecaster, lambda heads: heads.log_std.bias.add_(math.log(self.factor)))


@fault
class StaleScaler(SpoiltVersion):
    """Old statistics stand beside new weights. Severity 1: of a time when all moved a tenth as much; less is nearer.

    Forecasters that think in units of the recent volatility hardly use their scaler; others are harmed.
    """

    name = "stale-scaler"
    description = "a version goes into service with the scaler of an earlier, calmer time"
    note = "release with the scaler of an earlier build"
    kind = "constant"
    severities = (0.6, 1.0)

    def spoiled(self, forecaster: Forecaster) -> Forecaster:
        part = 1 - 0.9 * self.severity
        old = forecaster.scaler
        spread = tuple(part * one for one in old.spread)
        stale = replace(old, spread=spread, level=part * old.level)
        return replace(forecaster, scaler=stale)


@fault
class DivergedRetrain(SpoiltVersion):
    """A retraining that did not converge goes into service. Severity: the noise of its weights, in interval widths."""

    name = "diverged-retrain"
    description = "a retraining with too high a learning rate ended far from any optimum, and was released"
    note = "release of the nightly retraining"
    severities = (0.4, 1.0)

    def spoiled(self, forecaster: Forecaster) -> Forecaster:
        return with_weights(forecaster, lambda heads: noise(heads.mean, 3 * self.severity, self.seed))


@fault
class NanWeights(SpoiltVersion):
    """A weight ran away, and forecasts overflow. Severity: about the share of the requests that fail (500).

    A file whose weights are not numbers would be refused at loading; one whose weights are far too large is not.
    """

    name = "nan-weights"
    description = "a weight of a released version is so large that forecasts are not numbers"
    note = "release of the nightly retraining"
    severities = (0.05, 0.5)
    usual = 0.5

    def spoiled(self, forecaster: Forecaster) -> Forecaster:
        quantile = max(NormalDist().inv_cdf(1 - min(self.severity, 0.5)), 0.01)
        return with_weights(forecaster, lambda heads: runaway(heads, quantile))


@fault
class PerturbedWeights(Fault):
    """The workers' memory is damaged; the files are whole. Severity: the noise of the weights, in interval widths.

    Live, damaged files with valid checksums take the place of the version's for as long as each worker is replaced by
    one that loads them; then the true files are put back.
    """

    name = "perturbed-weights"
    cause = "model"
    description = "the weights in the memory of the workers are no longer those of the version's files"
    severities = (0.3, 1.0)

    def spoiled(self, forecaster: Forecaster) -> Forecaster:
        return with_weights(forecaster, lambda heads: noise(heads.mean, 3 * self.severity, self.seed))

    def begin(self, service: Path) -> None:
        """Put damaged files in place until fresh workers have loaded them; the load goes on meanwhile."""
        self._thread = threading.Thread(target=self._damage, args=(service,), name=self.name, daemon=True)
        self._thread.start()

    def end(self, service: Path) -> None:
        """Wait for what began; the repair has replaced its workers."""
        self._thread.join()

    def _damage(self, service: Path) -> None:
        good, bad = _registered(service, self)
        aside = good.with_name(f".{good.name}.aside")
        old = {report.pid for report in read_reports(service)}
        good.rename(aside)
        try:
            bad.rename(good)
            desired = change_desired_state(service, restarts=read_desired_state(service).restarts + 1)
            deadline = time.monotonic() + LONGEST_RESTART
            while time.monotonic() < deadline:
                fresh = [one for one in read_reports(service) if one.pid not in old]
                if len(fresh) >= desired.workers:
                    break
                time.sleep(0.1)
        finally:
            shutil.rmtree(good)
            aside.rename(good)

    def inject(self, plant: Plant) -> None:
        plant.corrupt(self.spoiled(plant.current()))


@dataclass(frozen=True)
class Heads:
    """The layers of a network that give the mean and the spread: `log_std` has a bias, and mostly weights."""

    mean: torch.nn.Linear
    log_std: Any


def with_weights(forecaster: Forecaster, change: Callable[[Heads], object]) -> Forecaster:
    """Return a copy of a forecaster whose weights were changed in place."""
    import torch

    from lepton_kit.models.forecasters import Forecaster

    network = deepcopy(forecaster.network)
    assert isinstance(network.mean, torch.nn.Linear), "every network of the kit has such a head"
    with torch.no_grad():
        change(Heads(network.mean, network.log_std))
    return Forecaster(forecaster.architecture, forecaster.scaler, network)


def noise(layer: torch.nn.Linear, size: float, seed: int) -> None:
    """Add to a layer's weights what makes its output swing by `size` where the inputs have a spread of 1."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(layer.weight.shape, generator=generator, dtype=layer.weight.dtype)
    layer.weight.add_(drawn * size / drawn.norm())


def runaway(heads: Heads, quantile: float) -> None:
    """Let a forecast overflow where an input lies above a quantile of the standard normal distribution."""
    if hasattr(heads.log_std, "weight"):
        heads.log_std.weight[0, 0] = 710.0 / quantile
    else:
        heads.mean.weight[0, 0] = 1.7e308 / quantile
