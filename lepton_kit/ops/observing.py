"""Watches a service while a repair takes effect: where its samples are, and what they show since a time."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lepton_kit.diagnosis.capture import capture
from lepton_kit.ops.service_operator import ServiceOperator
from lepton_kit.ops.watch.evidence import is_address
from lepton_kit.project.settings import read_settings
from lepton_kit.telemetry.prometheus import open_source
from lepton_kit.telemetry.recordings import Promise, Recording
from lepton_kit.telemetry.scrape import Scraper
from lepton_kit.telemetry.selectors import Source
from lepton_kit.telemetry.slo import Objective
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

    Those are scraped at this interval (s), and at least each second.
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
    operator: ServiceOperator, telemetry: Telemetry, objectives: Sequence[Objective], start: float, folder: Path
) -> Recording:
    """Freeze what the service did since a time."""
    declaration = operator.declaration
    if telemetry.scraper:  # what is scraped here carries the service's name, and no labels of another source
        declaration = declaration.model_copy(update={"match": {}})
    promises, source = [Promise.of(one) for one in objectives], telemetry.source
    project, key = operator.project, read_settings(operator.project).capture.key
    return capture(operator.name, declaration, project, source, start, time.time(), folder, (), promises, key)
