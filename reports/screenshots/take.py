"""Takes the screenshots of the README: pages of this project's own runs and incident, as `make demo` leaves them.

    python reports/screenshots/take.py [--folder F]

The newest run of each notebook, the newest incident that a repair ended (or else the newest that was diagnosed) and the
newest drills are published into a copy of the project, whose pages Chromium shows. It needs Chromium on the search
path, and the package websocket-client.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import io
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from lepton_kit.errors import InputError, LeptonError
from lepton_kit.ops.watch.queue import Queue
from lepton_kit.runs.project import find_project

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
COLOURS = 64
LARGEST, LARGEST_OF_ALL = 150_000, 600_000
"""Bytes of one picture, and of all together."""
NEEDED = ("reports", "runs", "incidents", "services", "models", "drills", "runbooks", "notebooks", "lepton.toml", "slo")


@dataclass(frozen=True)
class Shot:
    """A page to show: its path in the site, and the window that it is shown in."""

    name: str
    page: str
    width: int = 1200
    height: int = 900
    is_dark: bool = False


def main() -> None:
    """Publish, show and save; say what is missing in a line."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--folder", type=Path, default=Path(__file__).parent)
    folder = arguments.parse_args().folder
    try:
        with tempfile.TemporaryDirectory(prefix="lepton-screenshots-") as name:
            take_all(find_project(), Path(name), folder)
    except LeptonError as error:
        sys.exit(f"error: {error}")


def take_all(project: Path, scratch: Path, folder: Path) -> None:
    """Take all screenshots of a project's pages.

    Raises
    ------
    InputError
        When there is no Chromium, no run or no diagnosed incident, or a picture is too large.
    """
    browser = find_browser()
    incident = incident_to_show(project)
    copy = copy_of(project, scratch / "project")
    lepton("publish", "--incident", incident, project=copy)
    if any((copy / "drills").glob("**/*.json")):
        lepton("publish", "--drills", project=copy)
    lepton("report", project=copy)
    site = copy / "reports" / "_site"
    run = max(page.parent.name for page in (site / "runs").glob("*-incident-diagnosis-*/index.html"))
    shots = [
        Shot("home", "index.html", height=760),
        Shot("incident", f"incidents/{incident}/index.html", height=1800),
        Shot("incident-dark", f"incidents/{incident}/index.html", is_dark=True),
        Shot("incident-phone", f"incidents/{incident}/index.html", width=390, height=844),
        Shot("run", f"runs/{run}/index.html"),
        *(
            Shot("drills", page.relative_to(site).as_posix())
            for page in sorted((site / "drills").glob("*/index.html"))[-1:]
        ),
    ]
    with showing(browser, scratch / "profile") as call:
        pictures = {shot.name: small_png(picture_of(call, site, shot)) for shot in shots}
    save(pictures, folder)


def find_browser() -> str:
    """Return Chromium's program.

    Raises
    ------
    InputError
        When there is none.
    """
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        raise InputError(f"screenshots need Chromium: none of {', '.join(BROWSERS)} is on the search path")
    return found


def incident_to_show(project: Path) -> str:
    """Return the newest incident that is over after a repair, or else the newest that has been diagnosed.

    Raises
    ------
    InputError
        When none has been diagnosed.
    """
    queue = Queue(project)
    diagnosed, repaired = [], []
    for incident in queue.incidents(200):
        done = {job.kind for job in queue.jobs(100, incident=incident.id) if job.status == "succeeded"}
        diagnosed += [incident.id] * ("alert" in done)
        repaired += [incident.id] * ({"alert", "remedy"} <= done and incident.status == "resolved")
    if not diagnosed:
        raise InputError(f"no diagnosed incident in {project}: `make demo` makes one")
    return str([*repaired, *diagnosed][0])


def copy_of(project: Path, target: Path) -> Path:
    """Copy what pages are made of, so that the project's own site stays as it is."""
    target.mkdir(parents=True)
    ignored = shutil.ignore_patterns("_site", ".*", "requests", "metrics", "workers")  # a service may be writing these
    for name in NEEDED:
        path = project / name
        if path.is_dir():
            shutil.copytree(path, target / name, ignore=ignored)
        elif path.is_file():
            shutil.copy2(path, target / name)
    for made in ("runs", "incidents", "drills", "models", "listings"):
        shutil.rmtree(target / "reports" / made, ignore_errors=True)
    return target


def lepton(*words: str, project: Path) -> None:
    """Run a `lepton` command in a project.

    Raises
    ------
    LeptonError
        When it fails.
    """
    done = subprocess.run(
        [sys.executable, "-m", "lepton_kit.cli", *words],
        cwd=project,
        env={**os.environ, "LEPTON_PROJECT": str(project)},
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        raise LeptonError(f"lepton {' '.join(words)} failed: {(done.stdout + done.stderr).strip()[-500:]}")


@contextlib.contextmanager
def showing(browser: str, profile: Path) -> Iterator[Any]:
    """Start Chromium without a window, and yield a function that calls its DevTools protocol."""
    import websocket  # type: ignore[import-untyped] # it ships no types

    command = [
        browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
        "--disable-dev-shm-usage", "--hide-scrollbars", "--remote-debugging-port=0", "--remote-allow-origins=*",
        f"--user-data-dir={profile}", "about:blank",
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        socket = websocket.create_connection(_address(profile / "DevToolsActivePort"), timeout=60)
        numbers = itertools.count(1)

        def call(method: str, **parameters: object) -> dict[str, Any]:
            number = next(numbers)
            socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
            while (answer := json.loads(socket.recv())).get("id") != number:
                pass
            result: dict[str, Any] = answer["result"]
            return result

        yield call
        socket.close()
    finally:
        process.terminate()
        process.wait(20)


def _address(port_file: Path) -> str:
    """Return where the first page of a browser that is starting listens."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, IndexError, StopIteration):
            port = port_file.read_text().splitlines()[0]
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list") as answer:
                return str(next(p["webSocketDebuggerUrl"] for p in json.load(answer) if p["type"] == "page"))
        time.sleep(0.1)
    raise LeptonError("Chromium did not start within 60 s")


def picture_of(call: Any, site: Path, shot: Shot) -> bytes:
    """Return what a window shows of a page, as PNG."""
    scheme = {"name": "prefers-color-scheme", "value": "dark" if shot.is_dark else "light"}
    call("Emulation.setEmulatedMedia", features=[scheme])
    size = {"width": shot.width, "height": shot.height, "deviceScaleFactor": 1, "mobile": shot.width < 600}
    call("Emulation.setDeviceMetricsOverride", **size)
    call("Page.navigate", url=(site / shot.page).as_uri())
    ready = "document.readyState === 'complete' && location.href.startsWith('file:')"
    deadline = time.monotonic() + 60
    while not call("Runtime.evaluate", expression=ready)["result"].get("value"):
        if time.monotonic() > deadline:
            raise LeptonError(f"{shot.page} did not open within 60 s")
        time.sleep(0.1)
    time.sleep(1.0)  # figures are decoded and scripts of the page have run
    return base64.b64decode(call("Page.captureScreenshot")["data"])


def small_png(picture: bytes) -> bytes:
    """Return a picture with few colours, as PNG."""
    held = io.BytesIO()
    few = Image.open(io.BytesIO(picture)).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    few.save(held, "PNG", optimize=True)
    return held.getvalue()


def save(pictures: dict[str, bytes], folder: Path) -> None:
    """Write the pictures, unless they are too large to be committed.

    Raises
    ------
    InputError
        When one, or all together, are.
    """
    for name, content in pictures.items():
        if len(content) > LARGEST:
            raise InputError(f"screenshot {name}: {len(content):,} bytes; at most {LARGEST:,} are allowed")
    total = sum(map(len, pictures.values()))
    if total > LARGEST_OF_ALL:
        raise InputError(f"screenshots: {total:,} bytes together; at most {LARGEST_OF_ALL:,} are allowed")
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in pictures.items():
        (folder / f"{name}.png").write_bytes(content)
        print(f"{folder / name}.png: {len(content):,} bytes")


if __name__ == "__main__":
    main()
