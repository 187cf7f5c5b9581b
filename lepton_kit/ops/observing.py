"""Watches a service while a repair takes effect: where its samples are, and what they show since a time."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from lepton_kit.diagnosis.capture import capture
from lepton_kit.ops.operator import ServiceOperator
from lepton_kit.ops.serve_operator import ServeOperator
from lepton_kit.ops.watch.evidence import is_address
from lepton_kit.project.settings import read_settings
from lepton_kit.telemetry.recordings import FORMAT, Incident, Recording, Window, read_recording, write_recording
from lepton_kit.telemetry.scrape import Scraper
from lepton_kit.telemetry.selectors import Source, parse_selector
from lepton_kit.telemetry.slo import Objective
from lepton_kit.telemetry.sources import open_source
from lepton_kit.telemetry.store import Store

LONGEST_SCRAPE = 1.0
"""Seconds between two scrapes at most."""


@dataclass(frozen=True)
class Telemetry:
    """Where the samples of a service are while it is observed; what is not scraped by others is scraped here."""

    source: Source
    interval: float
    scraper: Scraper | None = None

    def look(self) -> bool:
        """Take the samples of this moment, and say whether the service gave them."""
        return all(one.up for one in self.scraper.scrape_once()) if self.scraper else True


@contextlib.contextmanager
def telemetry_of(operator: ServiceOperator, seconds: float) -> Iterator[Telemetry]:
    """Give the samples of a service: a server's, where the project has one, or scraped into a store of its own.

    Those are scraped every so many seconds, and each second at least.
    """
    where, interval = read_settings(operator.project).watch.source, min(LONGEST_SCRAPE, seconds)
    if is_address(where) or operator.address is None:
        yield Telemetry(open_source(where, operator.project), interval)
        return
    with tempfile.TemporaryDirectory() as place:
        store = Store(Path(place) / "telemetry")
        yield Telemetry(store, interval, Scraper(store, {operator.name: operator.address}, interval=interval))


def look_until(telemetry: Telemetry, end: float) -> None:
    """Take samples until a time (Unix, seconds)."""
    telemetry.look()
    while time.time() < end:
        time.sleep(min(telemetry.interval, max(0.0, end - time.time())))
        telemetry.look()


def captured(
    operator: ServiceOperator,
    telemetry: Telemetry,
    recorded: Recording,
    objectives: Sequence[Objective],
    start: float,
    folder: Path,
) -> Recording:
    """Freeze what the service did since a time; of one that `lepton serve` does not run, the objectives' counters."""
    if isinstance(operator, ServeOperator):
        registry = operator.registry.root
        return capture(operator.folder, telemetry.source, registry, start, time.time(), folder)
    before, end = recorded.incident, time.time()
    own = {} if telemetry.scraper else operator.declaration.series(operator.name)
    counted = [selector for one in objectives for selector in (one.selector, one.total)]
    asked = dict.fromkeys(str(selector.within(own)) for selector in (*counted, parse_selector("up")))
    parts = [part for each in asked if len(part := telemetry.source.query(each, start, end))]
    seen = pd.concat(parts).drop_duplicates(["time", "metric", "labels"]) if parts else recorded.metrics.head(0)
    incident = Incident(
        format=FORMAT, id=f"{before.id}-after", service=before.service, declaration=before.declaration,
        window=Window(start=_utc(start), end=_utc(end)), versions=before.versions, promises=before.promises,
    )  # fmt: skip
    write_recording(Recording(incident, metrics=seen.sort_values("time", ignore_index=True)), folder)
    return read_recording(folder)


def _utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
