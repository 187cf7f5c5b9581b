"""Who gets in at `lepton watch`: slow and idle clients, foreign names, and requests that are none."""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from helpers import PATIENCE_S, write_notebook
from services import wait_for
from starlette.responses import PlainTextResponse
from watching import alert, watching, webhook

from lepton_kit.ops.watch.door import MOST_CONNECTIONS, MOST_HEAD, OwnHost, host_name
from lepton_kit.ops.watch.webhook import LOOPBACK

SETTINGS = '[watch]\nworkers = 0\nhosts = ["watch.example.org"]\n[alerts.Known]\nrunbook = "runbooks/diagnose.ipynb"\n'


@pytest.fixture(scope="module")
def kit(tmp_path_factory):
    """One watch for all requests here; none of them does it harm."""
    project = tmp_path_factory.mktemp("door")
    (project / "lepton.toml").write_text(SETTINGS)
    write_notebook(project / "runbooks/diagnose.ipynb", ["1"])
    with watching(project, "--insecure") as kit:
        yield kit


def connect(kit):
    url = kit.client.base_url
    return socket.create_connection((url.host, url.port), PATIENCE_S)


def sent(kit, text):
    """Send a request by hand, and return the status of the answer."""
    with connect(kit) as connection:
        connection.sendall(text)
        answer = connection.recv(65536)
    return int(answer.split()[1]) if answer else None


def closed(connections):
    """Wait until the server has closed connections; return what it answered on each, in their order."""
    left, answers = set(connections), {}

    def are_closed():
        for one in select.select(list(left), [], [], 0.5)[0]:
            with contextlib.suppress(ConnectionError):
                answers[one] = one.recv(65536)
            left.discard(one)
        return not left

    wait_for(are_closed)
    return [answers.get(one, b"") for one in connections]


HALVES = {
    "nothing": b"",
    "half a head": b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n",
    "no body": b"POST /alerts HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 900\r\n"
    b"Content-Type: application/json\r\n\r\n",
    "no form": b"POST /approvals HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 900\r\n"
    b"Content-Type: application/x-www-form-urlencoded\r\n\r\njob=",
}


def test_hundreds_of_half_requests_keep_nobody_out_and_each_part_has_a_deadline(kit):
    with contextlib.ExitStack() as stack:
        halves = {name: [stack.enter_context(connect(kit)) for _ in range(75)] for name in HALVES}
        for name, connections in halves.items():
            for one in connections:
                one.sendall(HALVES[name])
        slow = stack.enter_context(connect(kit))
        slow.sendall(HALVES["half a head"])
        for number in range(20):
            assert kit.post(alert(1000 + number)).status_code == 202
        assert kit.client.get("/status.json").status_code == 200
        wait_for(lambda: is_ended_by_one_byte(slow))  # which one now and then does not hold for ever
        answers = {name: {answer[:12] for answer in closed(connections)} for name, connections in halves.items()}
    late = b"HTTP/1.1 408"
    assert answers["no body"] == answers["no form"] == {late}
    assert answers["nothing"] | answers["half a head"] <= {late, b""}


def is_ended_by_one_byte(connection):
    """Send one byte more of a head, and say whether the server has ended the connection."""
    with contextlib.suppress(ConnectionError):
        connection.sendall(b"x")
        return select.select([connection], [], [], 0)[0]
    return True


def test_of_too_many_connections_the_idle_ones_give_way(kit):
    with contextlib.ExitStack() as stack:
        idle = [stack.enter_context(connect(kit)) for _ in range(MOST_CONNECTIONS + 100)]
        assert kit.client.get("/healthz").status_code == 200
        assert set(closed(idle[:50])) == {b""}  # and not 408, as at the end of their time
        assert kit.post(alert(2000)).status_code == 202


def test_heads_and_forms_are_bounded(kit):
    huge = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"x" * (MOST_HEAD + 10)
    assert sent(kit, huge) == 400
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert kit.client.post("/approvals", content=b"a=" + b"x" * 20_000, headers=form).status_code == 413
    assert kit.client.get("/healthz").status_code == 200


PATHS = ["/", "/status.json", "/healthz", "/metrics", "/incidents/x", "/runbooks/Known", "/reports/", "/style.css"]


@pytest.mark.parametrize("path", PATHS)
def test_no_page_is_shown_to_who_asks_for_another_host(kit, path):
    url = kit.client.base_url
    for host in ("evil.example", f"evil.example:{url.port}", "127.0.0.1.evil.example", "localhost.evil.example"):
        assert kit.client.get(path, headers={"Host": host}).status_code == 403
    for host in ("localhost", "[::1]:99", "127.0.0.1", "WATCH.example.org:443"):
        assert kit.client.get(path, headers={"Host": host}).status_code in (200, 404)


def test_no_alert_is_taken_and_nothing_decided_for_another_host(kit):
    before = len(kit.queue.incidents(1000))
    assert kit.client.post("/alerts", json=webhook(alert(3000)), headers={"Host": "evil.example"}).status_code == 403
    assert len(kit.queue.incidents(1000)) == before
    form = {"Content-Type": "application/x-www-form-urlencoded", "Host": "evil.example"}
    assert kit.client.post("/approvals", content=b"job=1&decision=approve", headers=form).status_code == 403


@pytest.mark.parametrize(
    "host", [b"[", b"]", b"[::1", b"127.0.0.1:x", b"127.0.0.1:99999", b"a@127.0.0.1", b"", b"\xff", b"a b"]
)
@pytest.mark.parametrize("line", [b"GET / HTTP/1.1", b"POST /approvals HTTP/1.1", b"GET /reports HTTP/1.1"])
def test_a_malformed_host_is_refused(kit, host, line):
    form = b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 0\r\n"
    assert sent(kit, line + b"\r\nHost: " + host + b"\r\n" + form + b"\r\n") in (400, 403)


def test_a_missing_host_and_two_of_them_are_refused(kit):
    assert sent(kit, b"GET / HTTP/1.0\r\n\r\n") == 400
    assert sent(kit, b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.example\r\n\r\n") == 400


ODD = [
    "/reports/", "/reports", "/reports/x/../..", "/reports/%00", "/reports/" + "x" * 5000, "/reports//", "/incidents/",
    "/incidents/%ff", "/incidents/%00", "/runbooks/%2e%2e", "/runbooks/%00", "/%00", "//", "/?%", "/alerts",
    "/approvals",
]  # fmt: skip


@pytest.mark.parametrize("path", ODD)
def test_no_path_is_an_error_of_the_server(kit, path):
    for method in ("GET", "POST", "PUT", "HEAD"):
        request = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        assert sent(kit, request.encode()) < 500


def test_many_at_once_who_hang_up_within_a_request_are_no_error(kit):
    def hang_up(number):
        with connect(kit) as connection:
            connection.sendall(list(HALVES.values())[number % 4])

    with ThreadPoolExecutor(8) as senders:
        list(senders.map(hang_up, range(200)))
    assert kit.client.get("/healthz").status_code == 200
    assert "Traceback" not in (kit.project / "watch.log").read_text()


@pytest.mark.parametrize(("host", "is_taken"), [("127.0.0.1", False), ("0.0.0.0", True), ("::", True)])
def test_where_other_machines_reach_it_an_address_is_a_name_of_the_server(host, is_taken):
    door = httpx.ASGITransport(OwnHost(PlainTextResponse("in"), host))

    async def answers(name: str) -> int:
        async with httpx.AsyncClient(transport=door, base_url=f"http://{name}") as client:
            return (await client.get("/")).status_code

    assert asyncio.run(answers("192.0.2.7:8088")) == (200 if is_taken else 403)
    assert asyncio.run(answers("evil.example")) == 403
    assert {host_name(name) for name in ("LOCALHOST:1", "127.0.0.1", "[::1]")} == LOOPBACK
