"""Records a real service for the scheduled runbooks: `python -m subjects.prices.recorded_services FOLDER [SECONDS]`.

`stale-feed` is some seven minutes of a service that is asked about once a second, one trading day of Google's price
after the other. All is well for four minutes; then the feed sticks: the service is asked about the same day again and
again, while the days go on and their actuals come back. All the time a client forgets a feature now and then, and once
a crowd asks for more than the queue takes. Everything is measured on `lepton serve` itself: latencies, metrics, log
lines and refusals differ each time. The prices are real; the feed's fault, the crowd and the ratings are made.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx
import numpy as np
import pandas as pd
from prometheus_client.parser import text_string_to_metric_families

from lepton_kit.diagnosis.capture import capture
from lepton_kit.errors import InputError, LeptonError
from lepton_kit.models.golden import golden_examples
from lepton_kit.models.registry import Registry
from lepton_kit.models.training import TrainingSettings
from lepton_kit.project.declarations import declared
from lepton_kit.telemetry.health import RecordedMetrics
from lepton_kit.telemetry.recordings import METRIC_COLUMNS, write_recording
from lepton_kit.telemetry.selectors import labels_text
from subjects.prices.examples import examples, train
from subjects.prices.features import next_day_return, price_features
from subjects.prices.sources import read_prices

SERVICE, LOOKBACK = "goog", 3
VERSIONS = {"2005-07-01": "first", "2006-01-01": "with half a year more"}
"""The days before which each version learnt, in order; the last one is in service."""

FIRST_DAY = "2006-01-03"
SECONDS = 400.0
STALE_FROM, CROWD = 0.6, 0.53
"""Parts of the recording: from where on the feed sticks, and when the crowd asks."""

INVALID_EVERY, RATED_EVERY, FEEDBACK_AFTER = 23, 4, 5
SCRAPE_EVERY = 10.0
QUEUE_LIMIT, CLIENTS = 2, 8


def record(folder: Path, seconds: float = SECONDS) -> Path:
    """Record `stale-feed` into `folder/stale-feed`, and return that; it takes `seconds` and some more."""
    prices = read_prices("sample:goog")[["date", "close"]]
    with tempfile.TemporaryDirectory() as scratch:
        project = Path(scratch)
        (project / "lepton.toml").write_text("", encoding="utf-8")
        train_versions(prices, Registry(project / "models"))
        with _serving(project) as address:
            load = _Load(address, prices, seconds)
            start = load.run()
        source, drafted = RecordedMetrics(load.samples()), project / "stale-feed"
        captured = capture(SERVICE, declared(project, SERVICE), project, source, start, time.time(), drafted)
        provenance = captured.incident.provenance.model_copy(
            update={
                "measured": ("prices and actuals (sample:goog)", *captured.incident.provenance.measured),
                "constructed": (
                    "the load: one trading day a second, each actual fed back some seconds later",
                    f"from {STALE_FROM:.0%} of the time on the feed sticks: the same day's row again and again",
                    f"1 request in {INVALID_EVERY} lacks a feature, and once {CLIENTS} ask at the same moment",
                    "ratings: 4 or 5 where the interval held the actual, else 1 or 2; from the sticking on one less",
                ),
            }
        )
        incident = captured.incident.model_copy(update={"provenance": provenance})
        truth = {"cause": "data", "what": "the feed repeats one day's row", "since": load.stale_since}
        return write_recording(replace(captured, incident=incident), folder / "stale-feed", truth)


def train_versions(prices: pd.DataFrame, registry: Registry) -> None:
    """Keep the versions of `VERSIONS` in a registry; the last one is promoted."""
    for end, note in VERSIONS.items():
        split = np.where(prices["date"] < pd.Timestamp(end) - pd.Timedelta(days=90), "train", "validation")
        table = prices.assign(split=split)[prices["date"] < end]
        settings = TrainingSettings(model="linear", lookback=LOOKBACK)
        forecaster, learnt = train(table, settings).forecaster, examples(table, "train", LOOKBACK)
        card = {"purpose": "a recorded service", "data": {"days before": end}}
        golden, reference = golden_examples(forecaster, learnt.features), learnt.features.assign(actual=learnt.target)
        version = registry.save(SERVICE, forecaster, card, golden, reference)
        registry.promote(SERVICE, version, "recorded_services", note)


@contextmanager
def _serving(project: Path) -> Iterator[str]:
    words = ["serve", SERVICE, "--port", "0", "--queue-limit", str(QUEUE_LIMIT)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LEPTON_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "lepton_kit.cli", *words], cwd=project, env=environment, stdout=subprocess.DEVNULL
    )
    try:
        yield _address(project / "services" / SERVICE / "address", process)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def _address(path: Path, process: subprocess.Popen[bytes]) -> str:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if path.is_file():
            address = path.read_text(encoding="utf-8").strip()
            try:
                if httpx.get(f"{address}/readyz").status_code == 200:
                    return address
            except httpx.TransportError:
                pass
        time.sleep(0.1)
    raise LeptonError("the service did not start")


@dataclass
class _Load:
    """One day after the other, once a second on average."""

    address: str
    prices: pd.DataFrame
    seconds: float
    stale_since: str = ""
    _scraped: list[tuple[pd.Timestamp, str, str, float]] = field(default_factory=list)

    def run(self) -> float:
        """Send everything, and return when it began."""
        features = price_features(self.prices, LOOKBACK).loc[FIRST_DAY:]
        actual = next_day_return(self.prices).reindex(features.index)
        days = list(zip(features.to_dict("records"), actual.tolist(), strict=True))[: int(self.seconds)]
        random = np.random.default_rng(0)
        began, due, told = time.time(), 0.0, []
        stale_row = None
        over = threading.Event()
        scraper = threading.Thread(target=self._scrape_until, args=(over,))
        crowd = threading.Thread(target=self._crowd, args=(began,))
        with httpx.Client(base_url=self.address, timeout=30) as client:
            scraper.start()
            crowd.start()
            for number, (row, value) in enumerate(days):
                due += random.exponential(self.seconds / len(days))
                time.sleep(max(0.0, began + due - time.time()))
                if number >= STALE_FROM * len(days) and stale_row is None:
                    stale_row, self.stale_since = dict(row), pd.Timestamp.now(tz="UTC").isoformat()
                body = {"row": dict(stale_row or row), "as_of": time.time()}
                if random.integers(INVALID_EVERY) == 0:
                    del body["row"]["return_1"]  # type: ignore[attr-defined]
                answer = client.post("/v1/predict", json=body, headers={"X-Request-ID": f"day-{number}"})
                if answer.status_code == 200:
                    told.append((number, value, answer.json()["forecasts"][0], stale_row is not None))
                if len(told) > FEEDBACK_AFTER:
                    self._tell(client, *told.pop(0))
            for waiting in told:
                self._tell(client, *waiting)
            over.set()
            scraper.join()
            crowd.join()
        return began

    def samples(self) -> pd.DataFrame:
        """Return what was read from /metrics."""
        return pd.DataFrame(self._scraped, columns=list(METRIC_COLUMNS))

    def _tell(
        self, client: httpx.Client, number: int, actual: float, forecast: dict[str, float], is_stale: bool
    ) -> None:
        body: dict[str, object] = {"request_id": f"day-{number}", "actual": actual}
        if number % RATED_EVERY == 0:
            is_held = forecast["lower"] <= actual <= forecast["upper"]
            body["rating"] = max(1, (4 if is_held else 1) + number // RATED_EVERY % 2 - is_stale)
        client.post("/v1/feedback", json=body)

    def _crowd(self, began: float) -> None:
        row = price_features(self.prices, LOOKBACK).iloc[0].to_dict()
        together = threading.Barrier(CLIENTS)

        def ask() -> None:
            with httpx.Client(base_url=self.address, timeout=30) as client:
                client.get("/healthz")
                time.sleep(max(0.0, began + CROWD * self.seconds - time.time()))
                together.wait()
                client.post("/v1/predict", json={"row": row})

        clients = [threading.Thread(target=ask) for _ in range(CLIENTS)]
        for one in clients:
            one.start()
        for one in clients:
            one.join()

    def _scrape_until(self, over: threading.Event) -> None:
        with httpx.Client(base_url=self.address, timeout=5) as client:
            is_last = False
            while not is_last:
                is_last = over.wait(min(SCRAPE_EVERY, self.seconds / 4))
                at = pd.Timestamp.now(tz="UTC").floor("ms")
                try:
                    text = client.get("/metrics").text
                except httpx.TransportError:
                    text = ""
                job = {"job": SERVICE, "instance": "127.0.0.1:8000"}
                self._scraped.append((at, "up", labels_text(job), float(bool(text))))
                for family in text_string_to_metric_families(text):
                    self._scraped += [(at, s.name, labels_text({**s.labels, **job}), s.value) for s in family.samples]


def main(arguments: list[str]) -> int:
    """Record into the folder named in the first argument, for as many seconds as the second one says."""
    if not 1 <= len(arguments) <= 2 or not arguments[-1] or not all(arguments[1:2] or ["1"]):
        print("usage: python -m subjects.prices.recorded_services FOLDER [SECONDS]", file=sys.stderr)
        return InputError.exit_code
    try:
        print(record(Path(arguments[0]), *map(float, arguments[1:])))
    except (LeptonError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return InputError.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
