"""Real services for tests: a small registry, and `lepton serve` as a process on loopback."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import torch
from helpers import PATIENCE_S
from models_sample import google_prices
from processes import Lepton

from lepton_kit.diagnosis.capture import capture
from lepton_kit.models.forecasters import Architecture, model_columns, untrained
from lepton_kit.models.golden import golden_examples
from lepton_kit.models.registry import Registry
from lepton_kit.project.declarations import declared
from lepton_kit.serving.control import read_reports
from lepton_kit.serving.requestlog import FILE, declared_rows
from subjects.prices.features import next_day_return, price_features

TOKEN = "open sesame"
ADMIN = {"Authorization": f"Bearer {TOKEN}"}


def features() -> pd.DataFrame:
    return price_features(google_prices(), lookback=3)


def keep_model(project: Path, shift: float = 0.0) -> str:
    """Keep a version of `goog` whose forecasts lie `shift` standard deviations above the baseline's; return it."""
    rows = features().head(400)
    torch.manual_seed(0)
    forecaster = untrained(Architecture("linear", model_columns(rows)), rows, level=0.02)
    forecaster.network.mean.bias.data.fill_(shift)
    golden, known = golden_examples(forecaster, rows), rows.assign(actual=next_day_return(google_prices()))
    return Registry(project / "models").save("goog", forecaster, {"data": shift}, golden, reference=known)


def project_with_model(project: Path) -> Path:
    """Make a project with versions v1 (promoted) and v2 of the model `goog`."""
    project.mkdir(parents=True, exist_ok=True)
    (project / "lepton.toml").write_text("")
    first, _ = keep_model(project), keep_model(project, shift=0.5)
    Registry(project / "models").promote("goog", first, "test", "the first")
    return project


@dataclasses.dataclass
class Service:
    process: Lepton
    client: httpx.Client
    folder: Path

    def predict(self, **body: Any) -> httpx.Response:
        return self.client.post("/v1/predict", json=body or {"row": row()})

    def sample(self, name: str, **labels: str) -> float:
        """Return the sum of the samples of a metric with at least these labels."""
        total = 0.0
        for line in self.client.get("/metrics").text.splitlines():
            head, _, value = line.rpartition(" ")
            if head.partition("{")[0] == name and all(f'{key}="{held}"' in head for key, held in labels.items()):
                total += float(value)
        return total


def row(number: int = -1) -> dict[str, float]:
    return {str(name): float(value) for name, value in features().iloc[number].items()}


@contextlib.contextmanager
def serving(
    project: Path,
    *words: str,
    token: str | None = TOKEN,
    model: str = "goog",
    constants: Mapping[str, float] | None = None,
) -> Iterator[Service]:
    """Run `lepton serve` for a model on a free port, with other values of constants by their names, and end it."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("LEPTON_", "PROMETHEUS_"))}
    if token is not None:
        environment["LEPTON_ADMIN_TOKEN"] = token
    command = ("serve", model, "--port", "0", *words)
    workers = int(words[words.index("--workers") + 1]) if "--workers" in words else 1
    out = project / "serve.log"
    process = Lepton(*command, project=project, environment=environment, out=out, constants=constants)
    folder = project / "services" / model
    try:
        address = wait_for(lambda: (folder / "address").read_text().strip() if (folder / "address").exists() else None)
        with httpx.Client(base_url=address, timeout=30) as client:
            wait_for(lambda: _answers(client) and len(read_reports(folder)) == workers)
            yield Service(process, client, folder)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            raise


def captured(service_folder: Path, source: Any, start: float, end: float, folder: Path) -> Any:
    """Freeze what a service that `lepton serve` runs did, as its own declaration says."""
    project, name = service_folder.parents[1], service_folder.name
    return capture(name, declared(project, name), project, source, start, end, folder)


def log_of(service: Service) -> pd.DataFrame:
    """Return the requests of the last ten minutes."""
    return read_requests(service.folder / "requests", time.time() - 600, time.time() + 1)


def read_requests(folder: Path, start: float, end: float) -> pd.DataFrame:
    """Return the rows of a log from `start` to `end` (Unix seconds), with a column for each feature and answer."""
    place, window = declared_rows(folder, folder), {"start_ms": int(start * 1000), "end_ms": int(end * 1000)}
    with contextlib.closing(sqlite3.connect(folder / FILE, timeout=10)) as database:
        held = pd.read_sql_query(place.query, database, params=window)
    held["request_id"] = held["request_id"].str.split("/", n=1).str[0]  # also where the log is still empty
    held.insert(0, "time", pd.to_datetime(held.pop("time_ms"), unit="ms", utc=True))
    answers, features = _spread(held.pop("answers")), _spread(held.pop("features")).add_prefix("feature_")
    told = held[["actual", "rating", "comment"]]
    return pd.concat([held.drop(columns=list(told)), answers, features, told], axis=1)


def _spread(texts: pd.Series) -> pd.DataFrame:
    """Return a column for each field of objects in text: of numbers where all of its values are."""
    rows = [json.loads(text) if isinstance(text, str) else {} for text in texts]
    names = list(dict.fromkeys(name for row in rows for name in row))
    wide = pd.DataFrame({name: [row.get(name) for row in rows] for name in names}, index=texts.index)
    return wide.assign(**{name: pd.to_numeric(wide[name]) for name in names if _are_numbers(wide[name])})


def _are_numbers(column: pd.Series) -> bool:
    return all(value is None or isinstance(value, int | float) for value in column)


def wait_for(question: Any, seconds: float = PATIENCE_S) -> Any:
    """Return the first true answer to a question; fail when there is none in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if answer := question():
            return answer
        time.sleep(0.05)
    raise AssertionError("nothing happened in time")


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False
