"""A small service that the kit did not make, and the script by which its people act on it; it knows nothing of the kit.

    python declared_app.py serve STATE PORT        answers /ask, /health and /metrics, as STATE says
    python declared_app.py deploy STATE VERSION    also: scale STATE WORKERS; each says a secret, as careless scripts do

The version `bad` fails half of what it is asked; with one worker half is refused as well.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


def serve(state: Path, port: int) -> None:
    counted: Counter[int] = Counter()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # else each answer waits for the acknowledgement of its head

        def do_GET(self) -> None:
            code, text = 200, "ok"
            told = json.loads(state.read_text())
            if self.path == "/metrics":
                text = "".join(f'app_requests_total{{code="{one}"}} {counted[one]}\n' for one in (200, 500, 503))
                text += f"app_workers {told['workers']}\napp_busy_seconds_total {0.008 * sum(counted.values())}\n"
            elif self.path == "/ask":
                turn = sum(counted.values())
                failing = 500 if told["version"] == "bad" else 503 if told["workers"] < 2 else 200
                code = failing if turn % 2 else 200
                counted[code] += 1
                text = told["version"]
            elif self.path != "/health":
                code = 404
            self.send_response(code)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


def write(state: Path, told: dict[str, object]) -> None:
    """Write the state whole: the server reads it all the time."""
    made = state.with_name("state.new")
    made.write_text(json.dumps(told))
    made.replace(state)


def change(state: Path, name: str, value: object) -> None:
    write(state, json.loads(state.read_text()) | {name: value})
    print(f"{name} is {value}; key {os.environ.get('APP_KEY')}")


if __name__ == "__main__":
    what, folder, given = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    if what == "serve":
        serve(folder, int(given))
    elif what == "deploy":
        change(folder, "version", given)
    else:
        change(folder, "workers", int(given))
