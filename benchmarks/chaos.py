"""Kills, fills, floods and feeds nonsense, and counts what the product survived; writes to `benchmarks/RESULTS.md`.

    python benchmarks/chaos.py [--kills N] [--disks N] [--floods N] [--fuzz N] [--seed N] [--quick]

Each part runs as often as is said (0: not at all). A try counts as *survived* when the product went on as it should,
as *lost* when something was left over, missing, unanswered or ended in a traceback, and as *lied* when what is kept
(manifest, ledger, executed notebook, answer) says what is not so.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import httpx
import nbformat
import papermill  # noqa: F401 - imported here, so that the forks that run notebooks have it
import psutil
from results import write_section
from sqlalchemy import select

from lepton_kit.errors import LeptonError
from lepton_kit.ops.watch.queue import Queue
from lepton_kit.runs.ending import repair
from lepton_kit.runs.ledger import Ledger
from lepton_kit.runs.manifest import all_runs
from lepton_kit.runs.pool import run_all
from lepton_kit.runs.runner import Request, execute, prepare
from lepton_kit.runs.tables import RUNS

SUBREAPER = 36  # of Linux' prctl(2)
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGINT, signal.SIGTERM)
EARLY_S, WHOLE_S = 0.1, 4.0  # a third of the kills come within the first, the others within the whole run
GONE_IN_S = 180.0  # also on a machine that is busy with other things; to hang is to take longer
POOLED = 3  # runs of every tenth try, on two workers
FILL = """
import random
with open("filling", "wb", buffering=0) as file:
    try:
        for _ in range({blocks}):
            file.write(bytes(4096))
    except OSError as error:
        print(error.strerror)
"""
STARTS_OTHERS = """
import os, subprocess, sys
subprocess.Popen(["sleep", "60"])
if os.fork() == 0:
    os.setsid()
    os.execvp("sleep", ["sleep", "60"])
"""
PATHS = ("/", "/reports/", "/reports/../../etc", "/incidents/%00", "/runbooks/%ff", "/status.json")
SETTINGS = '[alerts.Burn]\nrunbook = "runbooks/diagnose.ipynb"\n[watch]\nworkers = 0\n'


@dataclass
class Count:
    """How often something was tried, and what came of it; `notes` says the first few of what went wrong."""

    tried: int = 0
    lost: int = 0
    lied: int = 0
    notes: list[str] = field(default_factory=list)

    def add(self, lost: str | None, lied: str | None) -> None:
        """Count one try; each text says what was lost, or which lie was told."""
        self.tried += 1
        self.lost += bool(lost)
        self.lied += bool(lied and not lost)
        if what := lost or lied:
            self.notes.append(what)
            print("  ", what, flush=True)


def main() -> None:
    """Run the parts, print and write the table."""
    arguments = argparse.ArgumentParser(description=__doc__)
    for part, usual in {"kills": 200, "disks": 40, "floods": 2000, "fuzz": 500}.items():
        arguments.add_argument(f"--{part}", type=int, default=usual)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--quick", action="store_true", help="a twentieth of everything, and nothing is written")
    given = arguments.parse_args()
    scale = 20 if given.quick else 1
    ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)  # so whatever a killed process leaves is found below this one
    chance, counts = random.Random(given.seed), {}
    parts: dict[str, Callable[[Path, int, random.Random], dict[str, Count]]] = {
        "kills": kills, "disks": disks, "floods": floods, "fuzz": fuzz,
    }  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="lk-", dir="/tmp") as folder:
        os.environ["JUPYTER_RUNTIME_DIR"] = f"{folder}/runtime"  # a fork server of its own
        for part, run in parts.items():
            if number := getattr(given, part) // scale:
                print(part, flush=True)
                counts |= run(make_project(Path(folder) / part), number, chance)
        for process in psutil.Process().children(recursive=True):  # the fork server, and kernels that wait
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
    text = report(counts, given.seed)
    print(text)
    if not given.quick:
        write_section(text)


def make_project(folder: Path, cells: tuple[str, ...] = (STARTS_OTHERS, "lk.record('x', 42)")) -> Path:
    """Write a project with a notebook and a runbook."""
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    sources = ["import lepton_kit as lk", *cells, "import time; time.sleep(.3)"]
    for place in ("notebooks/n.ipynb", "runbooks/diagnose.ipynb"):
        notebook = nbformat.v4.new_notebook(cells=list(map(nbformat.v4.new_code_cell, sources)), metadata=kernel)
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, folder / place)
    (folder / "lepton.toml").write_text(SETTINGS)
    return folder


def kills(project: Path, number: int, chance: random.Random) -> dict[str, Count]:
    """Signal a process of a run, again and again: the runner, its kernel, a watchdog, what the notebook started."""
    counts: dict[str, Count] = {}
    for attempt in range(number):
        os.environ["LEPTON_WARM"] = str(attempt % 2)
        how = chance.choice(SIGNALS)
        moment = chance.uniform(0, EARLY_S if chance.random() < 1 / 3 else WHOLE_S)
        before, is_pool = len(all_runs(project)), attempt % 10 == 9
        runner = in_fork(lambda: (run_pool if is_pool else run_one)(project))  # noqa: B023 - it is called at once
        time.sleep(moment * 3 if is_pool else moment)
        kinds = {"runner" if each.pid == runner else kind_of(each): each for each in processes_of(project, runner)}
        name = chance.choice(sorted(kinds))
        victim = kinds[name]
        with contextlib.suppress(psutil.NoSuchProcess, IndexError):
            victim.send_signal(how)
        lost = ended_in_time(runner, victim, how) or left_over(runner, project)
        repaired = repaired_without_error(project)
        lied = lies_of(project, most=before + (POOLED if is_pool else 1))
        counts.setdefault(f"{how.name} to {'a pool, ' * is_pool}{name}", Count()).add(lost or repaired, lied)
    return dict(sorted(counts.items()))


def run_one(project: Path) -> None:
    """Run the notebook once."""
    execute(prepare(Request(project / "notebooks/n.ipynb"), project), project)


def run_pool(project: Path) -> None:
    """Run the notebook several times, on two workers."""
    plan = prepare(Request(project / "notebooks/n.ipynb"), project)
    run_all([plan] * POOLED, project, 2, lambda event: None)


def in_fork(work: Callable[[], object]) -> int:
    """Do something in a fork of this process, in a session of its own; return its number."""
    if pid := os.fork():
        return pid
    status = 1
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # as the command does
        work()
        status = 0
    except KeyboardInterrupt:
        status = 130
    finally:
        os._exit(status)


def processes_of(project: Path, runner: int) -> list[psutil.Process]:
    """Return the runner and all processes that stand in a run's folder, or guard one that does."""
    found = [psutil.Process(runner), *psutil.Process(runner).children()]
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if process.cwd().startswith(str(project)):
                found += [process, *(each for each in process.parents() if each.name() == "lepton-watchdog")]
    return found


def kind_of(process: psutil.Process) -> str:
    """Name a process for the table."""
    with contextlib.suppress(psutil.Error):
        name = process.name()
        return {"lepton-watchdog": "watchdog", "sleep": "a notebook's child"}.get(name, "kernel or worker")
    return "kernel or worker"


def ended_in_time(runner: int, victim: psutil.Process, how: signal.Signals) -> str | None:
    """Wait for the runner's end; say so where it does not come."""
    deadline = time.monotonic() + GONE_IN_S
    while os.waitpid(runner, os.WNOHANG) == (0, 0):
        if time.monotonic() > deadline:
            os.kill(runner, signal.SIGKILL)
            os.waitpid(runner, 0)
            return f"the runner hung after {how.name} to {victim.pid}"
        time.sleep(0.01)
    return None


def left_over(runner: int, project: Path) -> str | None:
    """Say which processes are left of a run."""
    deadline = time.monotonic() + GONE_IN_S
    while left := [each for each in psutil.Process().children(recursive=True) if is_left(each, runner, project)]:
        if time.monotonic() > deadline:
            said = ", ".join(f"{each.pid} {kind_of(each)}" for each in left)
            for each in left:
                each.kill()
            return f"left: {said}"
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:  # orphans that came to this process
                continue
        time.sleep(0.02)
    return None


def is_left(process: psutil.Process, runner: int, project: Path) -> bool:
    """Say whether a process works in a run's folder, or is of the runner's session, as its workers are."""
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return process.cwd().startswith(str(project / "runs")) or os.getsid(process.pid) == runner
    except (psutil.Error, ProcessLookupError):
        return False


def repaired_without_error(project: Path) -> str | None:
    """Repair, as the next run does; say what was wrong with that."""
    try:
        repair(project)
    except Exception as error:
        return f"repair: {type(error).__name__}: {error}"
    return None if repair(project) == [] else "repair did not come to an end"


def lies_of(project: Path, most: int) -> str | None:
    """Say what in a project is not so: every run has ended, and its manifest, row and notebook agree."""
    runs = {run.run_id: run for run in all_runs(project)}
    rows = {}
    if Ledger(project).path.exists():
        with Ledger(project).transaction() as ledger:
            rows = dict(ledger.execute(select(RUNS.c.run_id, RUNS.c.status)).all())
    if rows != {name: run.status for name, run in runs.items()}:
        return f"ledger and manifests differ: {set(rows.items()) ^ {(n, r.status) for n, r in runs.items()}}"
    if (folders := {path.name for path in (project / "runs").glob("*/")}) != set(runs):
        return f"folders without a manifest: {folders - set(runs)}"
    if len(runs) > most:
        return f"{len(runs)} runs, of which {most} were asked for"
    for run in runs.values():
        cells = {cell.status for cell in run.cells}
        if run.status == "running" or cells & {"running", "pending"}:
            return f"{run.run_id} is {run.status}, its cells {cells}"
        if run.status == "succeeded" and (cells != {"completed"} or run.results["x"].value != 42):
            return f"{run.run_id} succeeded with cells {cells}"
        if half := list(run.folder(project).glob(".*")):
            return f"{run.run_id} has {half}"
    return None


def disks(project: Path, number: int, chance: random.Random) -> dict[str, Count]:
    """Run on small file systems that a cell fills, or under a limit on the size of files."""
    counts = {"a file system that is full": Count(), "a limit on the size of files": Count()}
    for attempt in range(number):
        cells = (
            f"lk.record('x', 42)\n{FILL.format(blocks=chance.choice([10, 200, 10**6]))}",
            f"print('x' * {chance.choice([10, 200_000, 900_000])})",
        )
        if attempt % 2:
            with small_disk(project, megabytes=chance.choice([1, 2, 3])) as place:
                if place is not None:
                    counts["a file system that is full"].add(*one_full_run(make_project(place, cells), None))
        else:
            place = make_project(project / f"limited-{attempt}", cells)
            most = chance.choice([150_000, 400_000, 2_000_000])
            counts["a limit on the size of files"].add(*one_full_run(place, most))
    return counts


@contextlib.contextmanager
def small_disk(project: Path, megabytes: int) -> Iterator[Path | None]:
    """Mount a small file system; None where that is not allowed."""
    place = project / "disk"
    place.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(place)]
    if subprocess.run(command, capture_output=True).returncode != 0:
        yield None
        return
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def one_full_run(project: Path, file_size: int | None) -> tuple[str | None, str | None]:
    """Run once where space runs out; return what was lost, and which lie was told."""

    def run() -> None:
        if file_size:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
        with contextlib.suppress(LeptonError):
            execute(prepare(Request(project / "notebooks/n.ipynb"), project), project)

    runner = in_fork(run)
    lost = ended_in_time(runner, psutil.Process(runner), signal.SIGKILL)
    for filling in project.glob("runs/*/filling"):
        filling.unlink()
    lied = repaired_without_error(project) or lies_of(project, most=1)
    return lost, lied or next((f"{r.run_id}: RunnerDied" for r in all_runs(project) if died(r.error)), None)


def died(error: object) -> bool:
    """Say whether a run had to be repaired."""
    return getattr(error, "name", "") == "RunnerDied"


@contextlib.contextmanager
def watching(project: Path) -> Iterator[httpx.Client]:
    """Run `lepton watch`, and give a client of it."""
    command = [sys.executable, "-m", "lepton_kit.cli", "watch", "--port", "0", "--insecure"]
    address = project / "incidents/address"
    with subprocess.Popen(
        command, cwd=project, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            while not address.exists() and process.poll() is None:
                time.sleep(0.05)
            with httpx.Client(base_url=address.read_text().strip(), timeout=30) as client:
                yield client
        finally:
            process.terminate()


def alert(number: int) -> dict[str, object]:
    """Return a webhook of Alertmanager's with one alert of its own."""
    labels = {"alertname": "Burn", "service": f"s{number}"}
    one = {"status": "firing", "labels": labels, "annotations": {}, "startsAt": "2026-01-01T00:00:00Z",
           "endsAt": "0001-01-01T00:00:00Z", "fingerprint": f"{number:016x}"}  # fmt: skip
    return {"version": "4", "groupKey": f"g{number}", "status": "firing", "receiver": "r", "groupLabels": {},
            "commonLabels": labels, "commonAnnotations": {}, "externalURL": "", "alerts": [one]}  # fmt: skip


def floods(project: Path, number: int, _: random.Random) -> dict[str, Count]:
    """Post many alerts at once, while others hold connections on which they never finish asking."""
    posts, others = Count(), Count()
    with watching(project) as client:
        where = (client.base_url.host, client.base_url.port or 80)
        halves = [half_request(where) for _ in range(300)]

        def post(one: int) -> tuple[int, int]:
            with contextlib.suppress(httpx.HTTPError):
                return one, client.post("/alerts", json=alert(one)).status_code
            return one, 0

        with ThreadPoolExecutor(32) as pool:
            answers = dict(pool.map(post, range(number)))
        for path in ("/", "/healthz", "/status.json"):
            began = time.monotonic()
            with contextlib.suppress(httpx.HTTPError):
                answered = client.get(path).status_code == 200 and time.monotonic() - began < 10
                others.add(None if answered else f"{path} took {time.monotonic() - began:.1f} s", None)
        for half in halves:
            half.close()
    queued = {one.service for one in Queue(project).incidents(10 * number)}
    for one, status in answers.items():
        is_kept = f"s{one}" in queued
        lost = f"alert {one} was answered {status}" if status not in (202, 429, 503) else None
        posts.add(lost, f"alert {one} was answered {status}, kept: {is_kept}" if is_kept != (status == 202) else None)
    return {"alerts at once, 300 half requests beside them": posts, "pages asked for meanwhile": others}


def half_request(where: tuple[str, int]) -> socket.socket:
    """Begin to post an alert, and say no more."""
    connection = socket.create_connection(where)
    connection.sendall(b"POST /alerts HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n")
    return connection


def fuzz(project: Path, number: int, chance: random.Random) -> dict[str, Count]:
    """Send broken webhooks and requests, and read broken notebooks."""
    bodies, heads, notebooks = Count(), Count(), Count()
    whole = json.dumps(alert(0)).encode()
    with watching(project) as client:
        for _ in range(number // 2):
            body = broken(whole, chance)
            bodies.add(*asked(client, "POST", "/alerts", {"Content-Type": "application/json"}, body))
            header = {"Host": chance.choice(["[", "a:b:c", "", "évil".encode().decode("latin-1"), "x" * 5000])}
            path = chance.choice(
                ["/", "/reports/", "/reports/../../etc", "/incidents/%00", "/runbooks/%ff", "/status.json"]
            )
            heads.add(*asked(client, chance.choice(["GET", "POST", "PUT"]), path, header, b""))
        alive = client.get("/healthz").status_code == 200
    if not alive:
        bodies.add("lepton watch does not answer any more", None)
    content = (project / "notebooks/n.ipynb").read_bytes()
    for _ in range(number):
        path = project / "notebooks/broken.ipynb"
        path.write_bytes(broken(content, chance))
        try:
            prepare(Request(path), project)
        except LeptonError:
            notebooks.add(None, None)
        except Exception as error:
            notebooks.add(f"a notebook ends in {type(error).__name__}: {error}", None)
        else:
            notebooks.add(None, None)
    return {"webhooks of nonsense": bodies, "strange paths and hosts": heads, "broken notebooks": notebooks}


def asked(
    client: httpx.Client, method: str, path: str, headers: dict[str, str], body: bytes
) -> tuple[str | None, None]:
    """Ask once; return what was wrong with the answer, if it is an error of the server's own, or none came."""
    try:
        status = client.request(method, path, headers=headers, content=body).status_code
    except (httpx.LocalProtocolError, UnicodeEncodeError):  # a client may not even send that
        return None, None
    except httpx.HTTPError as error:
        return f"{method} {path} {headers}: {type(error).__name__}", None
    return (f"{method} {path} {headers} {body[:80]!r}: {status}" if status == 500 else None), None


def broken(content: bytes, chance: random.Random) -> bytes:
    """Return bytes of which some were cut out, doubled or replaced; or JSON of which a value was."""
    if chance.random() < 0.5:
        document = json.loads(content)
        replace_somewhere(document, chance)
        return json.dumps(document).encode()
    at, end = sorted(chance.randrange(len(content)) for _ in range(2))
    other = chance.choice([b"", content[at:end] * 2, chance.randbytes(8), b"\x00", b"\xff\xfe", b"{" * 1000])
    return content[:at] + other + content[end:]


def replace_somewhere(document: object, chance: random.Random) -> None:
    """Replace one value, somewhere within a document, by one of another kind."""
    strange: list[object] = [None, [], {}, 0, -1, 1e400, "", "\ud800", "x" * 10_000, [[]], {"": None}, True]
    keys = list(document) if isinstance(document, dict) else list(range(len(document)))  # type: ignore[arg-type]
    key = chance.choice(keys)
    inner = document[key]  # type: ignore[index]
    if isinstance(inner, (dict, list)) and inner and chance.random() < 0.7:
        replace_somewhere(inner, chance)
    else:
        document[key] = chance.choice(strange)  # type: ignore[index]


def report(counts: dict[str, Count], seed: int) -> str:
    """Return the section in Markdown."""
    lines = [
        "## Chaos",
        "",
        f"`benchmarks/chaos.py --seed {seed}`, {datetime.now(UTC):%Y-%m-%d}: Python {sys.version.split()[0]}, "
        f"{os.cpu_count()} cores. A third of the kills come within {1000 * EARLY_S:.0f} ms of a run, the others within "
        "the whole; every other run is on a warm kernel.",
        "",
        "| what | tried | survived | lost | lied |",
        "|---|---|---|---|---|",
    ]
    for what, count in counts.items():
        survived = count.tried - count.lost - count.lied
        lines.append(f"| {what} | {count.tried} | {survived} | {count.lost} | {count.lied} |")
    total = [sum(getattr(count, name) for count in counts.values()) for name in ("tried", "lost", "lied")]
    lines.append(f"| all | {total[0]} | {total[0] - total[1] - total[2]} | {total[1]} | {total[2]} |")
    notes = [f"- {what}: {note[:300]}" for what, count in counts.items() for note in count.notes[:2]]
    return "\n".join([*lines, *(["", "What went wrong:", "", *notes] if notes else [])])


if __name__ == "__main__":
    main()
