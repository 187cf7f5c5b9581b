"""The chat example under a virtual clock: its readers, its engine's formula, and vLLM's names of what it shows."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from lepton_kit.ops.simulated_metrics import Series, counter, histogram
from lepton_kit.telemetry.recordings import FEATURE
from subjects.chat.engine import CACHE, PER_PROMPT_TOKEN, PER_SEQUENCE, SEQUENCES, STEP, WORDS, language_of
from subjects.chat.readers import prompt
from subjects.simulated import Simulated

WAITS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40)
GAPS = (0.01, 0.025, 0.05, 0.1, 0.5)


class SimulatedChat(Simulated):
    """Questions of the example's readers, answered at the pace of its engine."""

    name = "chat"
    rate = 6.0
    predicted = ("tokens", "length", "language", "out_of_vocabulary")

    def __init__(self, seed: int, scratch: Path) -> None:
        super().__init__(seed, scratch)
        self._chance = random.Random(seed)
        self._made_up, self._taken, self._clock = 0.02, 0.0, 0.0
        self._sized = [(0.0, 1)]

    @property
    def workers(self) -> int:  # type: ignore[override]
        """Return the number of replicas."""
        return self._sized[-1][1]

    def _replicas(self, grid: np.ndarray) -> np.ndarray:
        times, counts = (np.array(one, dtype=float) for one in zip(*self._sized, strict=True))
        made: np.ndarray = counts[np.searchsorted(times, grid, "right") - 1]
        return made

    @property
    def utilisation(self) -> float:
        """Return the share of the batch that the usual load fills."""
        return self.rate * 24 * (STEP + 4 * PER_SEQUENCE) / (SEQUENCES * self.workers)

    def flood_to(self, utilisation: float) -> None:
        """Send what fills the batch to this share."""
        self._flood = self.rate * max(0.0, utilisation / self.utilisation - 1)

    def slow(self, taken: float) -> None:
        """Take this share of the processor."""
        self._taken = taken

    def take_version(self, is_bad: bool) -> None:
        """Serve the version that makes up half of its words, or one that answers as the first."""
        self._made_up = 0.5 if is_bad else 0.02

    def size(self, workers: int) -> None:
        """Set the number of replicas."""
        self._sized.append((self.now, workers))

    def drained_at(self) -> float:
        """Return when all that waits now has entered the batch."""
        return self._clock

    def ask(self, count: int) -> pd.DataFrame:
        """Let readers ask."""
        texts = [prompt(self._chance) for _ in range(count)]
        table = {
            "tokens": [len(text.split()) for text in texts],
            "length": [len(text) for text in texts],
            "language": [language_of(text) for text in texts],
        }
        return pd.DataFrame(table).assign(actual=0.0)

    def answer(self, asked: pd.DataFrame) -> pd.DataFrame:
        """Queue, batch and emit tokens as the engine does, and let readers rate the answers."""
        count = len(asked)
        wanted = 8 + (asked["length"].to_numpy(int) * 7) % 33
        entered, first, done = self._step(asked["time"].to_numpy(float), asked["tokens"].to_numpy(int), wanted)
        unknown = self.rng.binomial(wanted, self._made_up) / wanted
        grumbles = self.rng.random(count) < 0.125
        rating = np.where(grumbles, 2, np.maximum(1, 5 - np.round(unknown * 6)))
        letters = {name: float(np.mean([len(word) for word in words])) for name, words in WORDS.items()}
        size = asked["language"].map(letters).fillna(5.0)
        came = asked["time"].to_numpy(float)
        given = asked[["tokens", "length", "language"]].add_prefix(FEATURE)
        told = asked[["time", "request_id", "version"]].assign(
            status=200.0, tokens=wanted.astype(float), length=np.round(wanted * (size + 1)), out_of_vocabulary=unknown,
            language=asked["language"], actual=np.where(asked["actual"].isna(), np.nan, rating),
            latency_ms=1000 * (done - came), entered=entered, first=first,
        )  # fmt: skip
        return pd.concat([told, given], axis=1)

    def _step(
        self, came: np.ndarray, prompts: np.ndarray, wanted: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return when each of these sequences enters the batch, has its first token, and is over.

        What an earlier call left in the batch is over by then: the batch is drained at each call's end, so that a
        queue that lasts is carried by `_clock`.
        """
        entered, first, done = (np.full(len(came), np.nan) for _ in range(3))
        waiting, running, left, place = deque[int](), list[int](), wanted.copy(), 0
        clock = max(self._clock, float(came[0])) if len(came) else self._clock
        while place < len(came) or waiting or running:
            if not (waiting or running):
                clock = max(clock, float(came[place]))
            while place < len(came) and came[place] <= clock:
                waiting.append(place)
                place += 1
            prefilled = 0
            while waiting and len(running) < SEQUENCES * self.workers:
                one = waiting[0]
                used = sum(int(prompts[held]) + 64 for held in running)
                if running and used + prompts[one] + 64 > CACHE * self.workers:
                    break
                running.append(waiting.popleft())
                entered[one] = clock
                prefilled += int(prompts[one])
            shared = PER_SEQUENCE * len(running) + PER_PROMPT_TOKEN * prefilled
            clock += (STEP + shared / self.workers) / (1 - self._taken)
            for one in list(running):
                first[one] = clock if np.isnan(first[one]) else first[one]
                left[one] -= 1
                if left[one] <= 0:
                    done[one] = clock
                    running.remove(one)
        self._clock = max(self._clock, float(entered[-1])) if len(came) else self._clock
        return entered, first, done

    def series(self) -> Iterator[Series]:
        """Give what the server's `/metrics` shows."""
        held = self.rows
        label = {"model_name": "stand-in", "engine": "0"}
        came, entered, first = (held[name].to_numpy(float) for name in ("time", "entered", "first"))
        done = came + held["latency_ms"].to_numpy(float) / 1000
        arrived, taken, over = (counter("", {}, times) for times in (came, entered, done))
        yield Series(self.metric("queue_length")[0], label, lambda grid: arrived.at(grid) - taken.at(grid))
        yield Series(self.metric("running")[0], label, lambda grid: taken.at(grid) - over.at(grid))
        tokens = held["feature_tokens"].to_numpy(float) + 64
        filled, freed = counter("", {}, entered, tokens), counter("", {}, done, tokens)
        yield Series(
            self.metric("saturation")[0],
            label,
            lambda grid: np.clip((filled.at(grid) - freed.at(grid)) / (CACHE * self._replicas(grid)), 0, 1),
        )
        for role, times, values, bounds in (
            ("latency", done, done - came, WAITS),
            ("time_to_first_token", first, first - came, WAITS),
            ("queue_time", entered, entered - came, WAITS),
            ("service_time", done, done - entered, WAITS),
            ("time_per_output_token", done, (done - first) / np.maximum(1, held["tokens"].to_numpy(float) - 1), GAPS),
        ):
            yield from histogram(self.metric(role)[0], label, times, values, bounds)
        for reason, mask in (("stop", np.ones(len(done), bool)), ("abort", np.zeros(len(done), bool))):
            yield counter(self.metric("requests_total")[0], {**label, "finished_reason": reason}, done[mask])
        yield counter(self.metric("cpu_seconds")[0], {}, done, np.full(len(done), 0.01))
        yield Series(self.metric("memory")[0], {}, lambda grid: np.full(len(grid), 2e8))
        yield Series(self.metric("workers")[0], {}, self._replicas)
        yield Series("up", {}, np.ones_like)
        rated = next(one for one in self.objectives if one.name == "chat-ratings").total.metric
        told = held[held["actual"].notna()]
        for text, is_so in (("yes", told["actual"] >= 4), ("no", told["actual"] < 4)):
            yield counter(rated, {"good": text}, told["told_at"][is_so].to_numpy())
