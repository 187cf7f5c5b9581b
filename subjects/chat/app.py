"""The chat example's server: OpenAI's endpoints and vLLM's metrics before a stand-in engine (engine.py).

    python -m subjects.chat.app --port 8300

It knows nothing of Lepton Kit. Its logs hold descriptors of texts (tokens, length, language), never a text.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import prometheus_client as prom
import uvicorn
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from subjects.chat.engine import Engine, Sequence, language_of, unknown_share

MODEL = "stand-in"
STATED = "a stand-in engine: words drawn at random, in the time that a formula says; no language model"


def described(text: str) -> dict[str, Any]:
    """Return what the logs hold of a text."""
    return {"tokens": len(text.split()), "length": len(text), "language": language_of(text)}


class Chat:
    """The server's state: its engine, the version that answers, and its logs."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.version, self.before = folder, "", ""
        self.registry = prom.CollectorRegistry()
        prom.ProcessCollector(registry=self.registry)
        self.engine = Engine(MODEL, self.registry)
        self.http = prom.Counter(
            "http_requests", "Requests by route and status.", ["handler", "method", "status"], registry=self.registry
        )
        self.ratings = prom.Counter("chat_ratings", "Ratings, good from 4 on.", ["good"], registry=self.registry)
        self.replicas = prom.Gauge("chat_replicas", "Replicas of the engine.", registry=self.registry)
        for good in ("yes", "no"):
            self.ratings.labels(good)
        (folder / "log").mkdir(parents=True, exist_ok=True)

    def write(self, name: str, **entry: Any) -> None:
        """Append a line to one of the logs, with the time."""
        with (self.folder / name).open("a", encoding="utf-8") as log:
            log.write(json.dumps({"ts": datetime.now(UTC).isoformat(), **entry}) + "\n")

    def deploy(self, version: str) -> None:
        """Let a version answer from now on."""
        folder = self.folder / "models" / version
        if not (folder / "engine.json").is_file() or folder.parent != self.folder / "models":
            raise HTTPException(404, f"version {version!r} does not exist")
        if version != self.version:
            self.engine.load(folder)
            self.before, self.version = self.version, version
            self.write("deployments.jsonl", time=datetime.now(UTC).isoformat(), version=version)
            self.write("log/app.jsonl", level="INFO", message=f"version {version} answers")

    def scale(self, replicas: int) -> None:
        """Let as many replicas of the engine run."""
        self.engine.replicas = replicas
        self.replicas.set(replicas)

    def served(self, asked: str, prompt: str, sequence: Sequence, version: str) -> None:
        """Log an answer that is over."""
        answer = " ".join(sequence.made)
        self.http.labels("/v1/chat/completions", "POST", "2xx" if sequence.finished != "abort" else "4xx").inc()
        self.write(
            "log/requests.jsonl", id=asked, model=version, status=200 if sequence.finished != "abort" else 499,
            latency_ms=round((time.monotonic() - sequence.came) * 1000, 3),
            first_token_ms=None if sequence.first_after is None else round(sequence.first_after * 1000, 3),
            prompt=described(prompt), answer={**described(answer), "out_of_vocabulary": unknown_share(answer)},
        )  # fmt: skip


def requested(body: dict[str, Any], prompt: str) -> Sequence:
    """Return the sequence that a request asks for: its answer's length follows from the prompt."""
    longest = min(int(body.get("max_tokens") or 64), 512)
    tokens = len(prompt.split())
    return Sequence(tokens, 8 + (len(prompt) * 7) % 33, language_of(prompt), longest)


def chunk(asked: str, content: str | None, finished: str | None) -> str:
    """Return an event of a stream, as OpenAI writes it."""
    delta = {} if content is None else {"content": content}
    choice = {"index": 0, "delta": delta, "finish_reason": finished}
    made = {"id": asked, "object": "chat.completion.chunk", "created": int(time.time()), "model": MODEL}
    return f"data: {json.dumps({**made, 'choices': [choice]})}\n\n"


def make_app(folder: Path, version: str) -> FastAPI:
    """Return the server on a folder, in which `models/<version>` lie."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        running = asyncio.create_task(chat.engine.run())
        yield
        running.cancel()

    chat = Chat(folder)
    chat.deploy(version)
    chat.scale(1)
    app = FastAPI(title="Chat", lifespan=lifespan)

    @app.post("/v1/chat/completions")
    async def complete(request: Request) -> Response:
        try:
            body = await request.json()
            prompt = " ".join(str(message["content"]) for message in body["messages"])
            sequence = requested(body, prompt)
        except (ValueError, TypeError, KeyError) as error:
            chat.http.labels("/v1/chat/completions", "POST", "4xx").inc()
            raise HTTPException(400, f"not a chat completion: {type(error).__name__}") from error
        asked, answering = f"chatcmpl-{uuid.uuid4().hex}", chat.version
        chat.engine.add(sequence)

        async def tokens() -> AsyncIterator[str]:
            try:
                while (token := await sequence.tokens.get()) is not None:
                    yield token
            finally:
                chat.engine.abort(sequence)  # does nothing to one that is over
                chat.served(asked, prompt, sequence, answering)

        async def events() -> AsyncIterator[str]:
            async for token in tokens():
                yield chunk(asked, token + " ", None)
            yield chunk(asked, None, sequence.finished)
            yield "data: [DONE]\n\n"

        if body.get("stream"):
            return StreamingResponse(events(), media_type="text/event-stream")
        text = " ".join([token async for token in tokens()])
        message = {"role": "assistant", "content": text}
        counted = {"prompt_tokens": sequence.prompt_tokens, "completion_tokens": len(sequence.made)}
        counted["total_tokens"] = sum(counted.values())
        choices = [{"index": 0, "message": message, "finish_reason": sequence.finished}]
        made = {"id": asked, "object": "chat.completion", "created": int(time.time()), "model": MODEL}
        return JSONResponse({**made, "choices": choices, "usage": counted})

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        one = {"id": MODEL, "object": "model", "owned_by": "example", "root": chat.version, "description": STATED}
        return {"object": "list", "data": [one]}

    @app.post("/ratings")
    async def rate(request: Request) -> dict[str, str]:
        given = await request.json()
        chat.ratings.labels("yes" if given["rating"] >= 4 else "no").inc()
        chat.write("ratings.jsonl", id=given["id"], rating=given["rating"])
        return {"status": "kept"}

    @app.post("/admin/{action}")
    async def admin(action: str, request: Request) -> dict[str, Any]:
        body = json.loads(await request.body() or b"{}")
        if action == "scale":
            chat.scale(int(body["replicas"]))
        elif action in ("deploy", "roll_back"):
            chat.deploy(str(body["version"]) if action == "deploy" else chat.before)
        else:
            raise HTTPException(404, f"action {action!r} does not exist")
        return {"version": chat.version, "replicas": chat.engine.replicas}

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {}

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(prom.generate_latest(chat.registry), media_type=prom.CONTENT_TYPE_LATEST)

    return app


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, default=Path("services/chat"))
    parser.add_argument("--port", type=int, default=8300)
    parser.add_argument("--version", default="v1")
    told = parser.parse_args()
    for name, made_up in (("v1", 0.02), ("v2", 0.5)):  # v2 is the worse one
        made = told.folder / "models" / name / "engine.json"
        made.parent.mkdir(parents=True, exist_ok=True)
        made.write_text(json.dumps({"made_up": made_up}), encoding="utf-8")
    uvicorn.run(make_app(told.folder, told.version), host="127.0.0.1", port=told.port, log_level="warning")
