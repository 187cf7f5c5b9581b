"""Times `/v1/predict` of a service beside bare FastAPI apps that call the same model, and batches beside single rows.

    python benchmarks/serving.py [--rounds N] [--seconds S]
    python benchmarks/serving.py --sustained 300 [--rate 1200]

All answer on loopback with one worker and the same uvicorn settings. Load comes from a process of its own: a lean
client on asyncio streams' own protocol level, 16 connections that are kept alive, each with its next request as soon as
the last is answered (a closed loop, which finds what a server can do). Rounds alternate, so that what else the machine
does meets all of them; the numbers are medians over the rounds.

The model is a GRU of the size that notebook 02 trains, with 33 features a row. `bare, arrays` is the leanest that one
would write by hand: it validates with pydantic and gives an array to the network. `bare, table` asks
`Forecaster.predict` with a DataFrame, as a notebook does. Neither has metrics, a log, a queue limit, or versions.

`the kit, fixes` is a second service of the kit with fixes in force: it brings returns in percent back into the model's
unit, puts an exchanged pair of columns back, fills a missing value, and keeps aside what breaks the contract all the
same. It is asked with sound rows, like the others, and with rows that have all three faults.

`--sustained` sends single rows at a fixed rate instead (an open loop: latency counts from when a request was due), long
enough for the request log to be rolled over several times, to the kit and to the leanest bare app in turn.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from results import write_section

from lepton_kit.data.input_fixes import InputFixes
from lepton_kit.models.forecasters import FORECAST, FURTHEST_INPUT, Architecture, Forecaster, model_columns, untrained
from lepton_kit.models.golden import golden_examples
from lepton_kit.models.registry import Registry
from lepton_kit.serving.control import await_workers, change_desired_state
from subjects.prices.features import next_day_return, price_features
from subjects.prices.sources import read_prices

CONNECTIONS = 16
BATCH = 256
TARGET = 1.3
FIXING = "the kit, fixes"
SERVERS = ("bare, table", "bare, arrays", "the kit", FIXING)
SERVICE = {"the kit": "goog", FIXING: "fixing"}
FAULTY = "faulty "
RETURNS = {f"return_{lag}": 0.01 for lag in range(10)}


def main() -> None:
    """Run the benchmark and write its section."""
    given = argparse.ArgumentParser(description=__doc__)
    given.add_argument("--rounds", type=int, default=5)
    given.add_argument("--seconds", type=float, default=4.0)
    given.add_argument("--sustained", type=float, metavar="SECONDS", help="a fixed rate for so long instead")
    given.add_argument("--rate", type=float, default=1200.0, help="requests a second")
    given.add_argument("--bare", nargs=3, metavar=("KIND", "PROJECT", "PORT"), help=argparse.SUPPRESS)
    given.add_argument("--load", nargs=4, metavar=("PORT", "BODY", "SECONDS", "RATE"), help=argparse.SUPPRESS)
    asked = given.parse_args()
    if asked.bare:
        serve_bare(asked.bare[0], Path(asked.bare[1]), int(asked.bare[2]))
    elif asked.load:
        port, body, seconds, rate = asked.load
        print(json.dumps(asyncio.run(drive(int(port), Path(body).read_bytes(), float(seconds), float(rate)))))
    elif asked.sustained:
        sustain(asked.sustained, asked.rate)
    else:
        measure(asked.rounds, asked.seconds)


# --- what is measured ---------------------------------------------------------------------------------------------


def measure(rounds: int, seconds: float) -> None:
    """Start all servers, drive load at them in turn, and write the section."""
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as servers:
        project = Path(scratch)
        bodies = make_project(project)
        ports = {name: servers.enter_context(running(name, project)) for name in SERVERS}
        found: dict[tuple[str, str], list[dict[str, float]]] = {}
        for number in range(rounds + 1):
            for kind, body in bodies.items():
                asked = (FIXING,) if kind.startswith(FAULTY) else SERVERS
                for name in asked if number % 2 else asked[::-1]:
                    taken = load(ports[name], body, seconds if number else 1.0)
                    if number:  # the first round warms up
                        found.setdefault((name, kind), []).append(taken)
    middles = {
        key: {name: statistics.median(one[name] for one in each) for name in each[0]} for key, each in found.items()
    }
    text = report(middles, rounds, seconds)
    write_section(f"## Serving\n\n{text}")
    print(text)


def sustain(seconds: float, rate: float) -> None:
    """Send single rows at a fixed rate to the leanest bare app and to the kit, in turn, and write the section."""
    lines = ["| server | requests | not answered 200 | p50 ms | p99 ms | worst p99 of 10 s, ms | log files |"]
    lines.append("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        project = Path(scratch)
        body = make_project(project)["single"]
        for name in ("bare, arrays", "the kit"):
            with running(name, project) as port:
                load(port, body, 5.0, rate)  # warms up
                took = load(port, body, seconds, rate)
            rolled = len(list((project / "services").glob("*/requests/*.parquet"))) if name in SERVICE else "–"
            lines.append(
                f"| {name} | {took['sent']:,.0f} | {took['refused']:,.0f} | {took['p50']:.1f} | {took['p99']:.1f} | "
                f"{took['worst']:.1f} | {rolled} |"
            )
    text = (
        f"`benchmarks/serving.py --sustained {seconds:g} --rate {rate:g}`, {datetime.now(UTC):%Y-%m-%d}: one worker, "
        f"{CONNECTIONS} connections, {rate:g} single rows a second (open loop, latency from when each was due), from a "
        f"process of its own on {os.cpu_count()} cores.\n\n" + "\n".join(lines)
    )
    write_section(f"## Sustained serving\n\n{text}")
    print(text)


def load(port: int, body: Path, seconds: float, rate: float = 0.0) -> dict[str, float]:
    """Drive load from a process of its own: at a rate, or as fast as it is answered."""
    command = [sys.executable, __file__, "--load", str(port), str(body), str(seconds), str(rate)]
    return dict(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout))


def report(middles: dict[tuple[str, str], dict[str, float]], rounds: int, seconds: float) -> str:
    """Return the section in Markdown."""
    lines = [
        f"`benchmarks/serving.py`, {datetime.now(UTC):%Y-%m-%d}: Python {platform.python_version()}, {os.cpu_count()} "
        f"cores (shared with other work), FastAPI {version('fastapi')}, uvicorn {version('uvicorn')}, torch "
        f"{version('torch')}. One worker each; {CONNECTIONS} connections, closed loop, from a process of its own; "
        f"medians of {rounds} alternating rounds of {seconds:g} s. A batch is {BATCH} rows. `client` is the load "
        "generator's own processor time per request: below the time that a request takes, it is not what limits.",
        "",
        "| server | single: requests/s | p50 ms | p99 ms | client ms | batch: rows/s | p99 ms |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in SERVERS:
        one, many = middles[name, "single"], middles[name, "batch"]
        lines.append(
            f"| {name} | {one['rate']:.0f} | {one['p50']:.1f} | {one['p99']:.1f} | {one['client']:.2f} | "
            f"{BATCH * many['rate']:.0f} | {many['p99']:.0f} |"
        )
    lines += [
        "",
        "| the kit against | throughput, times slower | p99, times longer | target | |",
        "|---|---|---|---|---|",
    ]
    kit = middles["the kit", "single"]
    for name in SERVERS[:2]:
        bare = middles[name, "single"]
        slower, longer = bare["rate"] / kit["rate"], kit["p99"] / bare["p99"]
        met = "met" if max(slower, longer) <= TARGET else "missed"
        lines.append(f"| {name} | {slower:.2f} | {longer:.2f} | ≤ {TARGET} | {met} |")
    lines += ["", *fixes_table(middles)]
    gain = BATCH * middles["the kit", "batch"]["rate"] / kit["rate"]
    lines += [
        "",
        f"Asked for in batches of {BATCH}, the kit gives {gain:.0f} times as many forecasts per second as singly.",
    ]
    return "\n".join(lines)


def fixes_table(middles: dict[tuple[str, str], dict[str, float]]) -> list[str]:
    """Return what fixes cost, as lines of Markdown: the service that fixes beside the one that does not."""
    single, batch = middles["the kit", "single"], middles["the kit", "batch"]
    lines = [
        "| fixes in force, beside the kit without | single: throughput, times slower | p99, times longer "
        "| batch: times slower |",
        "|---|---|---|---|",
    ]
    for rows, kind in (("sound", ""), ("in percent, exchanged, incomplete", FAULTY)):
        one, many = middles[FIXING, f"{kind}single"], middles[FIXING, f"{kind}batch"]
        slower, longer, batch_slower = (
            single["rate"] / one["rate"], one["p99"] / single["p99"], batch["rate"] / many["rate"],
        )  # fmt: skip
        lines.append(f"| rows: {rows} | {slower:.2f} | {longer:.2f} | {batch_slower:.2f} |")
    return lines


# --- the load -----------------------------------------------------------------------------------------------------


async def drive(port: int, body: bytes, seconds: float, rate: float = 0.0) -> dict[str, float]:
    """Send a body again and again over all connections; return counts, the rate, latencies and own time in ms."""
    head = (
        f"POST /v1/predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    spent, began = time.process_time(), time.perf_counter()
    loop, pause = asyncio.get_running_loop(), CONNECTIONS / rate if rate else 0.0
    clients = [
        (await loop.create_connection(lambda: Client(head.encode() + body, began + seconds, pause), "127.0.0.1", port))[
            1
        ]
        for _ in range(CONNECTIONS)
    ]
    await asyncio.gather(*(client.over for client in clients))
    took = time.perf_counter() - began
    due, latencies = np.array([one for client in clients for one in client.latencies]).T
    p50, p99 = (1000 * np.quantile(latencies, (0.5, 0.99))).tolist()
    window = (due // 10).astype(int)
    worst = max(1000 * float(np.quantile(latencies[window == one], 0.99)) for one in np.unique(window))
    own = 1000 * (time.process_time() - spent) / len(latencies)
    refused = sum(client.refused for client in clients)
    return {
        "rate": len(latencies) / took, "sent": len(latencies), "refused": refused,
        "p50": p50, "p99": p99, "worst": worst, "client": own,
    }  # fmt: skip


class Client(asyncio.Protocol):
    """One connection; it reads no more of an answer than its status and length.

    With a pause (seconds from one request to the next) it keeps to it, and an answer other than 200 is counted; without
    one it sends its next request as soon as the last is answered, and ends at such an answer.
    """

    def __init__(self, request: bytes, until: float, pause: float) -> None:
        self.request, self.until, self.pause = request, until, pause
        self.latencies: list[tuple[float, float]] = []
        self.refused = 0
        self.over = asyncio.get_running_loop().create_future()
        self.held, self.length = b"", -1

    def connection_made(self, transport: Any) -> None:
        """Begin."""
        self.transport, self.due = transport, time.perf_counter()
        self.send()

    def send(self) -> None:
        """Send the next request."""
        self.held, self.length = b"", -1
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        """Collect an answer; at its end, go on."""
        self.held += data
        if self.length < 0 and (end := self.held.find(b"\r\n\r\n")) >= 0:
            head = self.held[:end].lower()
            if not head.startswith(b"http/1.1 200"):
                self.refused += 1
                if not self.pause:
                    self.over.set_exception(RuntimeError(self.held.decode()[:300]))
                    self.transport.close()
                    return
            self.length = end + 4 + int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
        if 0 <= self.length <= len(self.held):
            now = time.perf_counter()
            self.latencies.append((self.due, now - self.due))
            self.due = self.due + self.pause if self.pause else now
            if self.due >= self.until:
                self.transport.close()
                self.over.set_result(None)
            elif self.due > now:
                asyncio.get_running_loop().call_later(self.due - now, self.send)
            else:
                self.send()


# --- the servers --------------------------------------------------------------------------------------------------


def make_project(project: Path) -> dict[str, Path]:
    """Make a project with a promoted model, and return the bodies of a single request and of a batch."""
    prices = read_prices("sample:goog")
    features = price_features(prices, lookback=10)
    forecaster = untrained(Architecture("gru", model_columns(features)), features, level=0.02)
    registry = Registry(project / "models")
    known = features.assign(actual=next_day_return(prices))
    golden = golden_examples(forecaster, features)
    made = registry.save("goog", forecaster, {"data": "benchmark"}, golden, reference=known)
    registry.promote("goog", made, "benchmark", "")
    (project / "lepton.toml").write_text("")
    rows = features[list(forecaster.architecture.needed)].tail(BATCH).to_dict("records")
    faulty = list(map(spoilt, rows))
    bodies = {
        "single": {"row": rows[-1]}, "batch": {"rows": rows},
        f"{FAULTY}single": {"row": faulty[-1]}, f"{FAULTY}batch": {"rows": faulty},
    }  # fmt: skip
    for name, body in bodies.items():
        (project / f"{name}.json").write_text(json.dumps(body))
    return {name: project / f"{name}.json" for name in bodies}


FIXES = {"scale": RETURNS, "swap": {"range_1": "volume_1"}, "fill": {"volume_0": 0.0}, "quarantine": True}


def spoilt(row: dict[str, float]) -> dict[str, float]:
    """Return a row as a feed gives it whose returns are percents, with two columns exchanged and a value missing."""
    came = {name: value / RETURNS.get(name, 1.0) for name, value in row.items() if name != "volume_0"}
    return {**came, "range_1": row["volume_1"], "volume_1": row["range_1"]}


def fix(service: Path) -> None:
    """Let a running service fix its rows."""
    await_workers(service, change_desired_state(service, input_fixes=InputFixes.model_validate(FIXES)), seconds=30)


@contextlib.contextmanager
def running(name: str, project: Path) -> Iterator[int]:
    """Run a server in a process of its own, and give its port when it answers."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    if name.startswith("the kit"):
        command = [
            sys.executable,
            "-m",
            "lepton_kit.cli",
            "serve",
            "goog",
            "--port",
            str(port),
            "--name",
            SERVICE[name],
        ]
    else:
        command = [sys.executable, __file__, "--bare", name, str(project), str(port)]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("LEPTON_")}
    with (project / f"{name}.log").open("w") as log:
        process = subprocess.Popen(command, cwd=project, env=environment, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with contextlib.suppress(RuntimeError, OSError):
                asyncio.run(drive(port, (project / "single.json").read_bytes(), 0.01))
                break
            time.sleep(0.2)
        if name == FIXING:
            fix(project / "services" / SERVICE[name])
        yield port
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def serve_bare(kind: str, project: Path, port: int) -> None:
    """Serve the model with FastAPI and nothing else."""
    import torch
    import uvicorn
    from fastapi import FastAPI
    from pydantic import BaseModel

    torch.set_num_threads(1)
    forecaster = Registry(project / "models").load("goog")
    app = FastAPI()

    class Body(BaseModel):
        row: dict[str, float] | None = None
        rows: list[dict[str, float]] | None = None

    answer = {"bare, table": by_table, "bare, arrays": by_arrays}[kind]

    async def predict(body: Body) -> dict[str, Any]:
        return {"forecasts": answer(forecaster, [body.row] if body.row else body.rows or [])}

    predict.__annotations__ = {"body": Body, "return": dict[str, Any]}  # names of this function, not of the module
    app.post("/v1/predict")(predict)
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", access_log=False, server_header=False)


def by_table(forecaster: Forecaster, rows: list[dict[str, float]]) -> list[dict[Any, Any]]:
    """Answer as a notebook does."""
    import pandas as pd

    return forecaster.predict(pd.DataFrame(rows)).to_dict("records")


def by_arrays(forecaster: Forecaster, rows: list[dict[str, float]]) -> list[dict[str, float]]:
    """Answer with arrays only."""
    needed = forecaster.architecture.needed
    inputs, scale = forecaster.scaled(np.array([[row[name] for name in needed] for row in rows]))
    answers = forecaster.answer(np.clip(inputs, -FURTHEST_INPUT, FURTHEST_INPUT), scale)
    return [dict(zip(FORECAST, one, strict=True)) for one in answers.tolist()]


if __name__ == "__main__":
    main()
