"""Load for a real service in tests, and the smallest source of telemetry."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pandas as pd
from models_sample import google_prices
from services import Service, features, log_of, wait_for

from lepton_kit.telemetry.selectors import labels_text, parse_selector
from subjects.prices.features import next_day_return


class Samples:
    """The smallest source: what was read from /metrics, as a table."""

    def __init__(self):
        self.kept = []

    def scrape(self, service, job="goog"):
        at = pd.Timestamp.now(tz="UTC").floor("ms")
        for line in service.client.get("/metrics").text.splitlines():
            if not line.startswith("#"):
                series, _, value = line.rpartition(" ")
                name, _, rest = series.partition("{")
                held = dict(part.split("=", 1) for part in rest.rstrip("}").split('",') if part)
                labels = {key: text.strip('"') for key, text in held.items()} | {"job": job}
                self.kept.append((at, name, labels_text(labels), float(value)))

    def query(self, selector, start, end):
        wanted = parse_selector(selector)
        kept = [sample for sample in self.kept if sample[1] == wanted.metric]
        kept = [sample for sample in kept if start <= sample[0].timestamp() <= end]
        kept = [sample for sample in kept if wanted.matches(sample[1], json.loads(sample[2]))]
        return pd.DataFrame(kept, columns=["time", "metric", "labels", "value"])


class Load:
    """Asks a service for one day after the other, and tells it each day's actual value at once."""

    def __init__(self, service: Service, source: Samples, first: int = 300) -> None:
        table = features()
        self.service, self.source, self.number, self.sent = service, source, first, 0
        self.rows = table.to_dict("records")
        self.actuals = next_day_return(google_prices()).reindex(table.index).tolist()

    def drive(self, requests: int, change=lambda row: row, scrapes: int = 5) -> tuple[float, float]:
        """Send so many requests, and return when the first and the last was sent."""
        start = time.time()
        for step in range(requests):
            request_id, self.number, self.sent = f"sent-{self.sent}", self.number + 1, self.sent + 1
            body = {"row": change(dict(self.rows[self.number]))}
            answer = self.service.client.post("/v1/predict", json=body, headers={"X-Request-ID": request_id})
            actual = self.actuals[self.number]
            if answer.status_code == 200 and math.isfinite(actual):
                self.service.client.post("/v1/feedback", json={"request_id": request_id, "actual": actual})
            if step % (requests // scrapes) == 0:
                self.source.scrape(self.service)
        return start, time.time()

    def logged(self) -> None:
        """Wait until the log of the one worker holds what was sent last, and so all that was answered before it."""
        wait_for(lambda: f"sent-{self.sent - 1}" in set(log_of(self.service)["request_id"]))

    @contextmanager
    def crowd(self, clients: int) -> Iterator[None]:
        """Ask all the time, from so many clients at once, what was asked lately."""
        over, lately = threading.Event(), self.rows[self.number - 60 : self.number]

        def ask() -> None:
            batches = itertools.cycle(lately[first : first + 3] for first in range(0, len(lately), 3))
            with httpx.Client(base_url=self.service.client.base_url, timeout=60) as client:
                while not over.is_set():
                    body = {"rows": next(batches)}
                    with contextlib.suppress(httpx.TransportError):  # as when a worker is replaced
                        client.post("/v1/predict", json=body)
                    time.sleep(0.01)  # a crowd, and not a flood that leaves this machine no time

        threads = [threading.Thread(target=ask) for _ in range(clients)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            over.set()
            for thread in threads:
                thread.join()
