"""A proxy before a real server: what passes unchanged, and what each fault makes of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time

import httpx
import pytest
import uvicorn
from monitors import free_port
from services import wait_for
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from lepton_kit.ops.faults.base import Fault
from lepton_kit.ops.faults.compute import Dropped, QueueSaturation, SlowBodies
from lepton_kit.ops.faults.data import Nulls, RenamedCategory, Scaled, StaleFeed
from lepton_kit.ops.proxy import proxied

BODY = {"inputs": {"radius": 2.0, "size": "small"}, "more": 1}


class Server:
    """Keeps what it was sent, and how long each body took."""

    def __init__(self):
        self.seen, self.took, self.cut = [], [], 0

    async def score(self, request):
        began = time.monotonic()
        try:
            self.seen.append(json.loads(await request.body()))
        except ClientDisconnect:
            self.cut += 1
            raise
        self.took.append(time.monotonic() - began)
        return JSONResponse({"path": request.url.path}, 201, {"x-own": "kept"})

    async def stream(self, _):
        async def parts():
            for number in range(3):
                yield f"data: {number}\n\n"
                await asyncio.sleep(0.05)

        return StreamingResponse(parts(), media_type="text/event-stream")


@pytest.fixture
def server():
    made, port = Server(), free_port()
    routes = [Route("/score", made.score, methods=["POST"]), Route("/stream", made.stream)]
    running = uvicorn.Server(uvicorn.Config(Starlette(routes=routes), port=port, log_level="critical"))
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    wait_for(lambda: running.started)
    made.address = f"http://127.0.0.1:{port}"
    yield made
    running.should_exit = True
    thread.join(10)


@contextlib.contextmanager
def asking(server, fault, is_on=lambda: True):
    with (
        proxied(server.address, ["inputs.*"], fault, is_on) as address,
        httpx.Client(base_url=address, trust_env=False, timeout=20) as client,
    ):
        yield client


class Nothing(Fault):
    name, cause, description = "nothing", "none", "nothing"


def test_what_passes_before_the_fault_is_unchanged_with_status_headers_and_stream(server):
    with asking(server, Scaled(), is_on=lambda: False) as client:
        answer = client.post("/score", json=BODY)
        assert (answer.status_code, answer.headers["x-own"], answer.json()) == (201, "kept", {"path": "/score"})
        assert server.seen == [BODY]
        assert client.get("/stream").text == "data: 0\n\ndata: 1\n\ndata: 2\n\n"


@pytest.mark.parametrize(
    ("fault", "sent"),
    [
        (Scaled(), {"radius": 20.0, "size": "small"}),
        (RenamedCategory(), {"radius": 2.0, "size": "SMALL"}),
        (Nothing(), {"radius": 2.0, "size": "small"}),
    ],
)
def test_a_fault_of_data_changes_the_row_and_nothing_else(server, fault, sent):
    with asking(server, fault) as client:
        client.post("/score", json=BODY)
        client.post("/score", json={"id": "not a row"})
    assert server.seen == [{**BODY, "inputs": sent}, {"id": "not a row"}]


def test_a_stuck_feed_sends_its_first_row_and_one_with_gaps_leaves_values_out(server):
    other = {"inputs": {"radius": 3.0, "size": "large"}, "more": 1}
    with asking(server, StaleFeed()) as client:
        for body in (BODY, other):
            client.post("/score", json=body)
    assert server.seen == [BODY, BODY]
    with asking(server, Nulls(severity=1.0)) as client:
        client.post("/score", json=BODY)
    assert list(server.seen[-1]["inputs"].values()).count(None) == 1


def test_a_crowd_is_seen_by_the_service(server):
    with asking(server, QueueSaturation(severity=1.0)) as client:
        client.post("/score", json=BODY)
        wait_for(lambda: len(server.seen) == 10)


def test_a_slow_network_is_seen_in_the_time_that_the_service_measures(server):
    with asking(server, SlowBodies()) as client:
        client.post("/score", json=BODY)
    assert server.seen == [BODY]
    assert server.took[0] >= 0.4


def test_dropped_connections_reach_neither_side_whole(server):
    with asking(server, Dropped(seed=3)) as client:
        answers = [client.post("/score", json=BODY).status_code for _ in range(30)]
    assert 3 < answers.count(502) < 20
    wait_for(lambda: server.cut == answers.count(502))  # each is noticed a moment after its answer
    assert len(server.seen) == answers.count(201)


def test_a_service_that_is_gone_is_answered_with_502():
    with proxied(f"http://127.0.0.1:{free_port()}", ["inputs.*"], Scaled(), lambda: False) as address:
        assert httpx.post(f"{address}/score", json=BODY, trust_env=False).status_code == 502
