"""Real Prometheus and Alertmanager servers on loopback for tests, and a target whose metrics a test controls."""

from __future__ import annotations

import contextlib
import http.server
import random
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from services import wait_for

needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None or shutil.which("promtool") is None,
    reason="Prometheus is not installed (Debian: prometheus)",
)
needs_alertmanager = pytest.mark.skipif(
    shutil.which("prometheus-alertmanager") is None or shutil.which("amtool") is None,
    reason="Alertmanager is not installed (Debian: prometheus-alertmanager)",
)


BEARER = "a bearer's secret"


class Target:
    """An HTTP server whose `/metrics` a test sets; `answer` may be replaced by whatever handles a request."""

    def __init__(self) -> None:
        self.text = ""
        self.answer: Callable[[http.server.BaseHTTPRequestHandler], None] = self.metrics
        target = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                with contextlib.suppress(ConnectionError):
                    target.answer(self)

            def log_message(self, *_: Any) -> None: ...

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.instance = f"127.0.0.1:{self.server.server_port}"
        self.address = f"http://{self.instance}"

    def metrics(self, request: http.server.BaseHTTPRequestHandler) -> None:
        body = self.text.encode()
        request.send_response(200)
        request.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)


@contextlib.contextmanager
def metrics_target() -> Iterator[Target]:
    target = Target()
    thread = threading.Thread(target=target.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield target
    finally:
        target.server.shutdown()
        target.server.server_close()


def free_port() -> int:
    """Return a port that is free, and that the system gives to nobody who asks for any, until it is listened at."""
    while True:
        port = random.SystemRandom().randrange(15_000, 32_000)
        with contextlib.suppress(OSError), socket.socket() as one:
            one.bind(("127.0.0.1", port))
            return port


@contextlib.contextmanager
def prometheus(folder: Path, config: dict[str, Any]) -> Iterator[str]:
    """Run Prometheus with a configuration, and give its address."""
    port = free_port()
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    words = [
        "prometheus",
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--storage.tsdb.retention.time=100y",
        "--log.level=warn",
    ]
    with _running(words, folder, f"http://127.0.0.1:{port}") as address:
        yield address


@contextlib.contextmanager
def alertmanager(folder: Path, config: dict[str, Any]) -> Iterator[str]:
    """Run Alertmanager with a configuration, and give its address."""
    port = free_port()
    (folder / "alertmanager.yml").write_text(yaml.safe_dump(config))
    words = [
        "prometheus-alertmanager",
        f"--config.file={folder / 'alertmanager.yml'}",
        f"--storage.path={folder / 'alerts'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--cluster.listen-address=",
    ]
    with _running(words, folder, f"http://127.0.0.1:{port}") as address:
        yield address


@contextlib.contextmanager
def _running(words: list[str], folder: Path, address: str) -> Iterator[str]:
    with (folder / f"{words[0]}.log").open("w") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log)
    try:
        wait_for(lambda: process.poll() is not None or _is_ready(address))
        assert process.poll() is None, (folder / f"{words[0]}.log").read_text()
        yield address
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _is_ready(address: str) -> bool:
    try:
        return httpx.get(f"{address}/-/ready", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def prometheus_settings(project: Path, job: str, address: str) -> dict[str, Any]:
    """Scrape one service, evaluate `rules.yml`, and post to the Alertmanager that `managers.json` will name."""
    target = address.rstrip("/").removeprefix("http://")
    return {
        "global": {"scrape_interval": "250ms", "evaluation_interval": "1s"},
        "rule_files": [str(project / "rules.yml")],
        "scrape_configs": [{"job_name": job, "static_configs": [{"targets": [target]}]}],
        "alerting": {
            "alertmanagers": [
                {"file_sd_configs": [{"files": [str(project / "managers.json")], "refresh_interval": "1s"}]}
            ]
        },
    }


def alertmanager_settings(watch: str) -> dict[str, Any]:
    """Post at once to `lepton watch`, with `BEARER`."""
    url = f"{watch.rstrip('/')}/alerts"
    hook = {"url": url, "http_config": {"authorization": {"credentials": BEARER}}}
    route = {"receiver": "lepton", "group_wait": "0s", "group_interval": "1s", "repeat_interval": "1h"}
    return {"route": route, "receivers": [{"name": "lepton", "webhook_configs": [hook]}]}
