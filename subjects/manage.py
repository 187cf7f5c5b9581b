"""What the owner of the scoring example can do to it, and of others with `--folder`, such as `services/support`.

python -m subjects.manage deploy v2      # also: roll_back · scale 6 · restart_feed
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

LOOKUP = 0.05
"""Seconds that a decision holds its slot."""

FIRST: dict[str, Any] = {"version": "v1", "workers": 2, "before": None}


def read_state(folder: Path) -> dict[str, Any]:
    """Return what the server is asked to be."""
    with contextlib.suppress(OSError, ValueError):
        found: dict[str, Any] = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        return found
    return FIRST


def change(folder: Path, **changes: Any) -> None:
    """Ask the server for something else, whole or not at all."""
    made = folder / f"state.{os.getpid()}"
    made.write_text(json.dumps(read_state(folder) | changes), encoding="utf-8")
    made.replace(folder / "state.json")


def link(folder: Path, name: str, version: str) -> None:
    """Let `models/<name>` lead to a version."""
    made = folder / "models" / f".{name}"
    made.unlink(missing_ok=True)
    made.symlink_to(version)
    made.replace(folder / "models" / name)


def deploy(folder: Path, version: str) -> None:
    """Let a version answer, and remember which one did before."""
    if not any((folder / "models" / version).glob("model.*")):
        sys.exit(f"version {version!r}: not in {folder / 'models'}")
    before = read_state(folder)["version"]
    if version != before:
        link(folder, "previous", before)
        link(folder, "current", version)
        change(folder, version=version, before=before)
    print(f"{version} answers now; before it was {before}")


def roll_back(folder: Path) -> None:
    """Let the version answer that did before."""
    before = read_state(folder)["before"]
    if before is None:
        sys.exit("no version answered before this one")
    deploy(folder, before)


def scale(folder: Path, workers: int) -> None:
    """Take as many slots."""
    change(folder, workers=workers)
    print(f"{workers} slots")


def restart_feed(folder: Path) -> None:
    """End the process that sends the requests, and start it anew as it was started."""
    feed = json.loads((folder / "feed.json").read_text(encoding="utf-8"))
    with contextlib.suppress(ProcessLookupError):
        os.kill(feed["pid"], signal.SIGTERM)
    for _ in range(100):
        if json.loads((folder / "feed.json").read_text(encoding="utf-8"))["pid"] is None:
            break
        time.sleep(0.05)
    with (folder / "log" / "feed.log").open("ab") as log:
        made = subprocess.Popen([sys.executable, *feed["words"]], start_new_session=True, stdout=log, stderr=log)
    print(f"the feed runs as {made.pid}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("action", choices=["deploy", "roll_back", "scale", "restart_feed"])
    parser.add_argument("value", nargs="?")
    parser.add_argument("--folder", type=Path, default=Path("services/scoring"))
    asked = parser.parse_args()
    if asked.action == "deploy":
        deploy(asked.folder, asked.value or "")
    elif asked.action == "scale":
        scale(asked.folder, int(asked.value))
    else:
        {"roll_back": roll_back, "restart_feed": restart_feed}[asked.action](asked.folder)
