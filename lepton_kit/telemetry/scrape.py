"""Scraping: the `/metrics` of targets, once or at an interval, into the telemetry store, as Prometheus does it.

Every sample gets the labels `job` and `instance`, and the time at which its scrape began. Redirects are followed. The
content type of the answer says how it is read: as OpenMetrics, or else as Prometheus' text format. A target that does
not answer, or answers something unreadable, gives `up` = 0 and no other sample: its series have a gap then. Nothing is
carried forward, nothing is read in part, and a counter's increase ends where its samples end
(`lepton_kit.telemetry.burn_rates`).
"""

from __future__ import annotations

import asyncio
import logging
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import httpx
from prometheus_client import samples as exposed
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from lepton_kit.errors import InputError
from lepton_kit.telemetry.store import Sample, Store
from lepton_kit.tls import trusted

logger = logging.getLogger(__name__)

HEADERS = {"Accept": "text/plain;version=0.0.4;q=1,*/*;q=0.1", "Accept-Encoding": "identity"}
PAST, FUTURE = 3600.0, 600.0
"""Seconds around the scrape in which a target may date its samples itself; others cannot be told from wrong ones."""
REDIRECTS = 10  # as many as Prometheus follows
OPENMETRICS = "application/openmetrics-text"

# Name, labels, value and time of a sample. The library takes the last word for the time, also that of an exemplar.
_LINE = re.compile(r'[^\s{}#"]*[ \t]*(?:\{(?:[^{}"]|"(?:[^"\\]|\\.)*")*\})?[ \t]*[^\s{}#"]+(?:[ \t]+-?\d+)?')


@dataclass(frozen=True)
class Scraped:
    """What one scrape of a target gave: whether it answered, how long it took, and how many samples; else why not.

    `native` counts the native histograms that it answered, which are not taken.
    """

    job: str
    instance: str
    up: bool
    seconds: float
    samples: int
    error: str | None = None
    native: int = 0

    @property
    def problem(self) -> str:
        """Return what is wrong in words; empty where nothing is."""
        if self.error is not None:
            return self.error
        return f"{self.native} native histograms were left out" if self.native else ""


class _Body(NamedTuple):
    content: bytes
    content_type: str
    seconds: float
    error: str | None


class Scraper:
    """Scrapes targets, addresses by job, into a store; `/metrics` is asked for where an address has no path.

    The targets are read anew at each scrape, so that they may change meanwhile. A target may take the interval in all,
    and 10 s at most, unless `timeout` is given; `largest` bounds the bytes of its answer.
    """

    def __init__(
        self,
        store: Store,
        targets: Mapping[str, str],
        interval: float = 15.0,
        timeout: float | None = None,
        largest: int = 16 * 2**20,
    ) -> None:
        if not 0.01 <= interval <= 86400:
            raise InputError(f"scrape interval {interval!r}: must be from 0.01 to 86400 seconds")
        self.store = store
        self.targets = targets
        self.interval = interval
        self.timeout = timeout or min(interval, 10.0)
        self.largest = largest
        self._troubles: dict[str, str] = {}

    def scrape_once(self, at: float | None = None) -> list[Scraped]:
        """Scrape all targets side by side, and put their samples on the disk, dated `at` (Unix seconds), or now.

        Raises InputError when a target's address is none, or the store cannot be written.
        """
        targets = {job: _metrics_address(job, address) for job, address in sorted(self.targets.items())}
        if not targets:
            return []
        when = time.time() if at is None else at
        with ThreadPoolExecutor(1, "scrape") as thread:  # of its own, since a notebook's has an event loop already
            bodies = thread.submit(asyncio.run, self._fetch_all(list(targets.values()))).result()
        done = [self._read(job, targets[job], body, when) for job, body in zip(targets, bodies, strict=True)]
        for scraped, samples in done:
            self.store.append(samples)
            self._tell(scraped)
        self.store.flush()
        return [scraped for scraped, _ in done]

    def run(self, stop: threading.Event) -> None:
        """Scrape at the interval until `stop` is set. What goes wrong is logged, and the next scrape is due as ever."""
        due = time.monotonic()
        while not stop.is_set():
            try:
                self.scrape_once()
            except InputError as error:
                logger.error("scrape: %s", error)
            due = max(due + self.interval, time.monotonic())  # what was missed is not made up for
            stop.wait(due - time.monotonic())

    async def _fetch_all(self, addresses: list[httpx.URL]) -> list[_Body]:
        async with httpx.AsyncClient(
            timeout=self.timeout,
            trust_env=False,
            limits=httpx.Limits(max_connections=16, max_keepalive_connections=0),
            verify=trusted(),
            follow_redirects=True,
            max_redirects=REDIRECTS,
        ) as client:
            return await asyncio.gather(*(self._fetch(client, address) for address in addresses))

    async def _fetch(self, client: httpx.AsyncClient, address: httpx.URL) -> _Body:
        """Return what a target answers. Time and size are bounded as a whole, however slowly it comes."""
        started = time.monotonic()
        body, content_type, error = bytearray(), "", None
        try:
            async with (
                asyncio.timeout(self.timeout),
                client.stream("GET", address, headers=HEADERS) as answer,
            ):
                content_type = answer.headers.get("content-type", "")
                async for piece in answer.aiter_bytes(65536):
                    body += piece
                    if len(body) > self.largest:
                        error = f"answered more than {self.largest} bytes"
                        break
            if answer.status_code != 200:
                error = f"answered {answer.status_code}"
        except (httpx.HTTPError, TimeoutError) as problem:
            error = f"took longer than {self.timeout:g} s" if isinstance(problem, TimeoutError) else _said(problem)
        return _Body(bytes(body), content_type, time.monotonic() - started, error)

    def _read(self, job: str, address: httpx.URL, body: _Body, at: float) -> tuple[Scraped, list[Sample]]:
        own = {"job": job, "instance": _instance(address)}
        samples: list[Sample] = []
        native, error = 0, body.error
        if error is None:
            try:
                found = list(_exposed(body.content.decode(), body.content_type))
                samples = _taken(found, own, at)
            except (ValueError, LookupError, TypeError, ArithmeticError, AttributeError) as problem:
                error = f"unreadable: {_said(problem)}"  # the parsers', on what is not the format
            else:
                native = sum(one.value is None for one in found)
                if misdated := len(found) - native - len(samples):
                    samples = []  # a part would look like the whole
                    error = (
                        f"unreadable: {misdated} samples are dated more than {PAST / 60:.0f} minutes before the scrape "
                        f"or {FUTURE / 60:.0f} minutes after it"
                    )
        told = {"up": float(error is None), "scrape_duration_seconds": body.seconds}
        ours = [Sample(name, own, at, value) for name, value in told.items()]
        scraped = Scraped(job, own["instance"], error is None, body.seconds, len(samples), error, native)
        return scraped, [*samples, *ours]

    def _tell(self, scraped: Scraped) -> None:
        """Log a target's trouble once, and its end."""
        before = self._troubles.pop(scraped.job, None)
        if scraped.problem:
            self._troubles[scraped.job] = scraped.problem
            if before is None:
                how = "is incomplete" if scraped.up else "failed"
                logger.warning("scrape of %s at %s %s: %s", scraped.job, scraped.instance, how, scraped.problem)
        elif before is not None:
            logger.warning("scrape of %s at %s works again", scraped.job, scraped.instance)


def parse(text: str, own: Mapping[str, str], at: float, content_type: str = "text/plain") -> list[Sample]:
    """Return the samples of what a target answered, in OpenMetrics or in Prometheus' text format, as it says.

    Every sample gets the labels `own`; one of the target's of the same name is called `exported_…`. Those without a
    time are of `at` (Unix seconds).

    Raises ValueError when the text is not in the format. The parsers may raise a LookupError or a TypeError as well.

    Examples
    --------
    >>> parse('requests_total{job="x"} 3', {"job": "goog"}, 5.0)
    [Sample(metric='requests_total', labels={'exported_job': 'x', 'job': 'goog'}, time=5.0, value=3.0)]
    """
    return _taken(list(_exposed(text, content_type)), own, at)


def _exposed(text: str, content_type: str) -> Iterator[exposed.Sample]:
    """Return the samples of a text as it holds them."""
    if content_type.partition(";")[0].strip().lower() == OPENMETRICS:
        families = openmetrics.text_string_to_metric_families(text)
    else:
        # Without types, of which no sample needs one: the library gives counters other names where it knows the type.
        lines = [stripped for line in text.split("\n") if (stripped := line.strip()) and not stripped.startswith("#")]
        for line in lines:
            if not _LINE.fullmatch(line):
                raise ValueError(f"{line[:100]!r} is no line of Prometheus' text format")
        families = text_string_to_metric_families("\n".join(lines))
    for family in families:
        yield from family.samples


def _taken(found: Sequence[exposed.Sample], own: Mapping[str, str], at: float) -> list[Sample]:
    """Return the samples that are kept, with the labels that every sample gets."""
    taken = []
    for one in found:
        when = at if one.timestamp is None else float(one.timestamp)
        if one.value is not None and at - PAST <= when <= at + FUTURE:  # none: a native histogram
            kept = {f"exported_{label}" if label in own else label: held for label, held in one.labels.items()}
            taken.append(Sample(one.name, {**kept, **own}, when, float(one.value)))
    return taken


def _metrics_address(job: str, address: str) -> httpx.URL:
    try:
        url = httpx.URL(address)
    except (httpx.InvalidURL, TypeError) as error:
        raise InputError(f"target {job!r} = {address!r}: not an address ({error})") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise InputError(f"target {job!r} = {address!r}: must be an http or https address")
    return url.copy_with(path="/metrics") if url.path in ("", "/") else url


def _instance(address: httpx.URL) -> str:
    host = f"[{address.host}]" if ":" in address.host else address.host
    return f"{host}:{address.port or (443 if address.scheme == 'https' else 80)}"


def _said(problem: Exception) -> str:
    return f"{type(problem).__name__}: {problem}"[:300]
