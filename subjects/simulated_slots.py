"""A server of `subjects.slotted` under a virtual clock: its rows and versions are real, its slots are a queue model."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lepton_kit.ops.simulated_metrics import Series, counter, histogram
from lepton_kit.telemetry.recordings import FEATURE
from subjects.machine import Machine, Setting
from subjects.manage import LOOKUP
from subjects.simulated import Simulated

BUCKETS = (0.02, 0.05, 0.1, 0.15, 0.25, 0.5, 1, 2, 5, 10)


@cache
def trained(train: Callable[..., Any]) -> Path:
    """Return a folder with `good` and `bad`, which is removed when this process ends."""
    held = Path(tempfile.mkdtemp(prefix="lepton-versions-"))
    atexit.register(shutil.rmtree, held, ignore_errors=True)
    train(held / "good")
    train(held / "bad", spoilt=True)
    return held


class SimulatedSlots(Simulated):
    """Decisions of real versions on real rows; a subject says how rows are drawn, refused and decided."""

    def __init__(self, seed: int, scratch: Path) -> None:
        super().__init__(seed, scratch)
        self.setting = Setting(rate=self.rate, workers=2, service=LOOKUP + 0.01, service_cv=0.2, queue_limit=10_000)
        self.machine = Machine(self.setting, seed, lambda *_: None)
        self.folders = {"v1": self.versions() / "good"}
        self.load(self.folders["v1"])

    # --- a subject's own

    @abstractmethod
    def versions(self) -> Path:
        """Return the folder with `good` and `bad`."""

    @abstractmethod
    def load(self, folder: Path) -> None:
        """Take up the version in a folder."""

    @abstractmethod
    def given(self, asked: pd.DataFrame) -> pd.DataFrame:
        """Return the features as a recording holds them; a row that lacks one is refused."""

    @abstractmethod
    def told(self, asked: pd.DataFrame) -> pd.DataFrame:
        """Return the prediction columns of rows that are whole."""

    @abstractmethod
    def right(self, held: pd.DataFrame) -> pd.Series:
        """Tell of answered rows whether what came true agrees."""

    # --- what faults and remedies do

    @property
    def workers(self) -> int:  # type: ignore[override]
        """Return the number of slots."""
        return len(self.machine.running)

    @property
    def utilisation(self) -> float:
        """Return the share of the slots' time that the usual load takes."""
        return self.rate * self.setting.service / self.workers

    def flood_to(self, utilisation: float) -> None:
        """Send what brings the slots to this utilisation."""
        self._flood = max(0.0, utilisation - self.utilisation) * self.workers / self.setting.service

    def slow(self, taken: float) -> None:
        """Take this share of the processor."""
        self.machine.slow(taken)

    def lose(self, count: int) -> None:
        """End this many slots."""
        self.machine.lose(count, self.now)

    def size(self, workers: int) -> None:
        """Set the number of slots."""
        self.machine.size(workers, self.setting.queue_limit, self.now)

    def drained_at(self) -> float:
        """Return when all that waits now is decided."""
        return self.machine.drained_at(self.now)

    def take_version(self, is_bad: bool) -> None:
        """Serve the bad version, or one that is the good one again."""
        self.folders[self.version] = self.versions() / ("bad" if is_bad else "good")
        self.load(self.folders[self.version])

    # --- what it answers and shows

    def answer(self, asked: pd.DataFrame) -> pd.DataFrame:
        """Refuse rows that lack a value, let the others wait for a slot, and decide."""
        given = self.given(asked)
        valid = given.notna().all(axis=1).to_numpy()
        wait, busy = np.zeros(len(asked)), np.zeros(len(asked))
        shape = 1 / self.setting.service_cv**2
        services = self.rng.gamma(shape, self.setting.service / shape, len(asked))
        times = asked["time"].to_numpy(float)
        for place in np.flatnonzero(valid).tolist():
            taken = self.machine.take(float(times[place]), float(services[place]))
            wait[place], busy[place] = taken or (0.0, 0.0)
        told = self.told(asked[valid]).reindex(asked.index)
        parts = asked[["time", "request_id", "version", "actual"]].assign(
            status=np.where(valid, 200.0, 422.0), wait=wait, busy=busy,
            latency_ms=1000 * (wait + busy) + self.rng.uniform(2, 5, len(asked)),
        )  # fmt: skip
        return pd.concat([parts, told, given.add_prefix(FEATURE)], axis=1)

    def series(self) -> Iterator[Series]:
        """Give what the server's `/metrics` shows."""
        held = self.rows
        done = (held["time"] + held["latency_ms"] / 1000).to_numpy()
        status = held["status"].to_numpy()
        metric, _ = self.metric("requests_total")
        for code in (200, 422):
            yield counter(metric, {"status": str(code)}, done[status == code])
        metric, _ = self.metric("latency")
        yield from histogram(metric, {}, done, held["latency_ms"].to_numpy() / 1000, BUCKETS)
        came, wait, busy = (held[name].to_numpy() for name in ("time", "wait", "busy"))
        came_in, taken = counter("", {}, came), counter("", {}, came + wait)
        yield Series(self.metric("queue_length")[0], {}, lambda grid: came_in.at(grid) - taken.at(grid))
        yield counter(self.metric("busy_seconds")[0], {}, came + wait + busy, busy)
        yield counter(self.metric("cpu_seconds")[0], {}, done, np.full(len(done), 0.004))
        yield Series(self.metric("workers")[0], {}, self.machine.alive)
        yield Series(self.metric("memory")[0], {}, lambda grid: np.full(len(grid), 3e8))
        yield Series("up", {}, np.ones_like)
        metric = next(one for one in self.objectives if one.name == f"{self.name}-right").total.metric
        judged = held[held["status"].eq(200) & held["actual"].notna()]
        is_right = self.right(judged)
        for text, mask in (("yes", is_right), ("no", ~is_right)):
            yield counter(metric, {"right": text}, judged["told_at"][mask].to_numpy())

    def models(self) -> Mapping[str, Path]:
        """Return the versions that were in service, where the declaration says that they can be asked again."""
        return self.folders if self.declaration.model else {}

    @property
    def target(self) -> str:
        """Return the column of what comes true in the subject's rows."""
        assert self.declaration.labels is not None
        return self.declaration.labels.target

    def reference(self) -> pd.DataFrame:
        """Return the rows that the version learnt from."""
        table = pd.read_parquet(self.folders[self.version] / "reference.parquet")
        return table.rename(columns={self.target: "actual"})
