"""A stand-in for a text-generation engine: it queues, batches and emits tokens in the time that its formula says.

It holds no language model. Time passes in steps, as in an engine with continuous batching: a step of a replica takes

    STEP + PER_SEQUENCE · running sequences + PER_PROMPT_TOKEN · prompt tokens that enter with it     seconds,

and gives each running sequence one token. A sequence enters while fewer than `max_num_seqs` run and its tokens fit into
the KV cache; until then it waits, first come, first served. Words are drawn at random; a version's `made_up` is the
share of them that no reader knows.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import prometheus_client as prom

STEP, PER_SEQUENCE, PER_PROMPT_TOKEN = 0.010, 0.0005, 0.00005
SEQUENCES, CACHE = 8, 2048
"""Of one replica: sequences at once, and tokens that its KV cache holds."""

ENGLISH = "the a model answer question token cache queue because when then slow fast good server reader text line"
GERMAN = "der die das Modell Antwort Frage weil wenn dann langsam schnell gut Rechner Leser Text Zeile und nicht"
WORDS = {"en": ENGLISH.split(), "de": GERMAN.split()}
KNOWN = {name: {word.lower() for word in words} for name, words in WORDS.items()}
FINISHED = Literal["stop", "length", "abort"]


def language_of(text: str) -> str:
    """Return the language that most words of a text are known in; `other` where none is."""
    said = [word.strip(".,?!").lower() for word in text.split()]
    counts = {name: sum(word in words for word in said) for name, words in KNOWN.items()}
    best = max(counts, key=lambda name: counts[name])
    return best if counts[best] else "other"


def unknown_share(text: str) -> float:
    """Return the share of a text's words that stand in no list; 0 of no words."""
    known = {word for words in WORDS.values() for word in words}
    said = text.split()
    return sum(word not in known for word in said) / len(said) if said else 0.0


@dataclass
class Sequence:
    """A request on its way: its tokens come out of `tokens`, and None after the last."""

    prompt_tokens: int
    length: int
    language: str
    longest: int
    came: float = field(default_factory=time.monotonic)
    made: list[str] = field(default_factory=list)
    entered: float | None = None
    first_after: float | None = None
    last: float = 0.0
    finished: FINISHED | None = None
    tokens: asyncio.Queue[str | None] = field(default_factory=asyncio.Queue)


def metrics_of(model: str, registry: prom.CollectorRegistry) -> Callable[..., Any]:
    """Return what makes a metric with vLLM's labels (`docs.vllm.ai/en/stable/usage/metrics`)."""

    def made(kind: Any, name: str, words: str, more: tuple[str, ...] = (), **given: Any) -> Any:
        one = kind(f"vllm:{name}", words, ["model_name", "engine", *more], registry=registry, **given)
        return (lambda *values: one.labels(model, "0", *values)) if more else one.labels(model, "0")

    return made


class Engine:
    """The queue, the running sequences and their metrics, named as vLLM names them."""

    def __init__(self, model: str, registry: prom.CollectorRegistry) -> None:
        self.waiting, self.running = deque[Sequence](), list[Sequence]()
        self.replicas, self.behaviour, self.chance = 1, {"made_up": 0.0}, random.Random(0)
        self._come = asyncio.Event()
        made = metrics_of(model, registry)
        waits = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40)
        self._gauges = [
            made(prom.Gauge, "num_requests_running", "Number of requests in model execution batches."),
            made(prom.Gauge, "num_requests_waiting", "Number of requests waiting to be processed."),
            made(prom.Gauge, "kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent usage."),
        ]
        self._prompt = made(prom.Counter, "prompt_tokens", "Number of prefill tokens processed.")
        self._generated = made(prom.Counter, "generation_tokens", "Number of generation tokens processed.")
        made(prom.Counter, "num_preemptions", "Cumulative number of preemptions from the engine.")
        self._success = made(prom.Counter, "request_success", "Processed requests.", ("finished_reason",))
        self._first = made(prom.Histogram, "time_to_first_token_seconds", "Time to first token.", buckets=waits)
        self._between = made(
            prom.Histogram, "inter_token_latency_seconds", "Inter-token latency.", buckets=(0.01, 0.025, 0.05, 0.1, 0.5)
        )
        self._whole = made(prom.Histogram, "e2e_request_latency_seconds", "End to end latency.", buckets=waits)
        self._inferred = made(
            prom.Histogram, "request_inference_time_seconds", "Time in the RUNNING phase.", buckets=waits
        )
        self._queued = made(prom.Histogram, "request_queue_time_seconds", "Time in the WAITING phase.", buckets=waits)
        for reason in ("stop", "length", "abort"):
            self._success(reason)

    def load(self, folder: Path) -> None:
        """Take up a version's behaviour."""
        self.behaviour = json.loads((folder / "engine.json").read_text(encoding="utf-8"))

    def add(self, sequence: Sequence) -> None:
        """Let a sequence wait for its turn."""
        self.waiting.append(sequence)
        self._gauge()
        self._come.set()

    def abort(self, sequence: Sequence) -> None:
        """End a sequence whose reader is gone."""
        for held in (self.waiting, self.running):
            if sequence in held:
                held.remove(sequence)
                self._finish(sequence, "abort")

    async def run(self) -> None:
        """Step for ever; sleep while there is nothing to do."""
        while True:
            if not (self.waiting or self.running):
                self._come.clear()
                await self._come.wait()
            entered = self._enter()
            shared = PER_SEQUENCE * len(self.running) + PER_PROMPT_TOKEN * entered
            await asyncio.sleep(STEP + shared / self.replicas)
            for sequence in list(self.running):
                self._emit(sequence)
            self._gauge()

    def used(self) -> int:
        """Return the tokens that the KV cache holds."""
        return sum(one.prompt_tokens + one.longest for one in self.running)

    def _enter(self) -> int:
        """Move sequences from the queue into the batch while there is room, and return their prompt tokens."""
        entered = 0
        while self.waiting and len(self.running) < SEQUENCES * self.replicas:
            one = self.waiting[0]
            if self.running and self.used() + one.prompt_tokens + one.longest > CACHE * self.replicas:
                break
            self.running.append(self.waiting.popleft())
            one.entered = time.monotonic()
            self._queued.observe(one.entered - one.came)
            self._prompt.inc(one.prompt_tokens)
            entered += one.prompt_tokens
        self._gauge()
        return entered

    def _emit(self, sequence: Sequence) -> None:
        now = time.monotonic()
        if sequence.first_after is None:
            sequence.first_after = now - sequence.came
            self._first.observe(sequence.first_after)
        else:
            self._between.observe(now - sequence.last)
        sequence.last = now
        is_made_up = self.chance.random() < self.behaviour["made_up"]
        words = WORDS.get(sequence.language, WORDS["en"])
        word = "".join(self.chance.choices("bcdfghklmnprstvz", k=7)) if is_made_up else self.chance.choice(words)
        sequence.made.append(word)
        sequence.tokens.put_nowait(word)
        self._generated.inc()
        if len(sequence.made) >= min(sequence.length, sequence.longest):
            self.running.remove(sequence)
            self._finish(sequence, "stop" if sequence.length <= sequence.longest else "length")

    def _finish(self, sequence: Sequence, reason: FINISHED) -> None:
        sequence.finished = reason
        self._success(reason).inc()
        self._whole.observe(time.monotonic() - sequence.came)
        if sequence.entered is not None:
            self._inferred.observe(time.monotonic() - sequence.entered)
        sequence.tokens.put_nowait(None)
        self._gauge()

    def _gauge(self) -> None:
        running, waiting, cache = self._gauges
        running.set(len(self.running))
        waiting.set(len(self.waiting))
        cache.set(min(1.0, self.used() / (CACHE * self.replicas)))
