"""A real browser for tests: Chromium, where it is installed, and axe-core, where it is."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
from helpers import ROOT
from services import wait_for

AXE = Path(os.environ.get("LEPTON_AXE", ROOT / ".axe" / "node_modules" / "axe-core" / "axe.min.js"))


class Browser:
    """Chromium without a window, spoken to by its DevTools protocol."""

    def __init__(self, profile: Path) -> None:
        found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
        if found is None:
            pytest.skip("no Chromium is installed here")
        self.profile = profile
        self.command = [
            found, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-dev-shm-usage", "--remote-debugging-port=0",
            "--remote-allow-origins=*", f"--user-data-dir={profile}", "about:blank",
        ]  # fmt: skip

    def __enter__(self) -> Browser:
        import websocket

        self.process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            port_file = self.profile / "DevToolsActivePort"
            port = wait_for(lambda: port_file.exists() and port_file.read_text().splitlines()[:1])[0]
            pages = wait_for(lambda: [p for p in self._list(port) if p["type"] == "page"])
            self.socket = websocket.create_connection(pages[0]["webSocketDebuggerUrl"], timeout=60)
            self.events: list[dict] = []
            self.number = 0
            for domain in ("Page", "Log", "Runtime"):
                self.call(f"{domain}.enable")
        except BaseException:
            self.process.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()
        self.process.terminate()
        self.process.wait(20)

    @staticmethod
    def _list(port: str) -> list[dict]:
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"http://127.0.0.1:{port}/json/list", trust_env=False).json()
        return []

    def call(self, method: str, **parameters: object) -> dict:
        self.number += 1
        self.socket.send(json.dumps({"id": self.number, "method": method, "params": parameters}))
        while (answer := json.loads(self.socket.recv())).get("id") != self.number:
            self.events.append(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def value(self, expression: str) -> Any:
        """Return what an expression, or the promise that it makes, comes to."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def open(self, address: str, width: int, screenshot: Path | None = None, dark: bool = False) -> dict:
        """Open a page; return its title, text, width in all, and what the console complained of."""
        self.visit(address, width, dark)
        wait_for(lambda: self.value("document.readyState + location.href").startswith("complete" + address))
        wait_for(lambda: self.value("document.styleSheets.length"))
        wrong = [e for e in self.events if e["method"] in ("Log.entryAdded", "Runtime.exceptionThrown")]
        if screenshot is not None:
            self.picture(screenshot)
        return {
            "title": self.value("document.title"),
            "text": self.value("document.body.innerText"),
            "scroll": self.value("document.documentElement.scrollWidth"),
            "errors": wrong,
        }

    def picture(self, screenshot: Path) -> None:
        """Keep what the page looks like."""
        made = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        screenshot.write_bytes(base64.b64decode(made["data"]))

    def visit(self, address: str, width: int, dark: bool = False) -> None:
        """Go to an address, wherever that leads."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=844, deviceScaleFactor=1, mobile=width < 600
        )
        self.events.clear()
        self.call("Page.navigate", url=address)

    def accessibility_faults(self) -> list[str]:
        """Return the serious faults that axe-core finds in the open page, each with the first place of it."""
        if not AXE.is_file():
            pytest.skip(f"no axe-core at {AXE}: `npm install --no-save --prefix .axe axe-core` brings it")
        self.call("Runtime.evaluate", expression=AXE.read_text(encoding="utf-8"))
        found = json.loads(self.value("axe.run().then(done => JSON.stringify(done.violations))"))
        serious = [fault for fault in found if fault["impact"] in ("serious", "critical")]
        return [f"{fault['id']}: {fault['help']}: {fault['nodes'][0]['html'][:200]}" for fault in serious]
