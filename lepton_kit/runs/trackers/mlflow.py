"""Writes runs, and which version served when, into an MLflow server."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pandas as pd

from lepton_kit.errors import InputError
from lepton_kit.runs.trackers.base import Run, tracker
from lepton_kit.secrets import without_password
from lepton_kit.tls import trusted

MOST_POINTS = 1000
"""Metrics in one request, which takes no more."""
LONGEST_PARAM, LONGEST_TAG = 6000, 5000
"""Characters that MLflow takes."""
KNOWN = "lepton.run_id"
"""The tag by which a run that was written before is found."""
ENDED = {"succeeded": "FINISHED", "cancelled": "KILLED"}
"""What MLflow calls how a run ended; all else has FAILED."""


@tracker("mlflow")
def _to_mlflow(run: Run, target: str) -> str:
    """Write a run through MLflow's REST interface; one that is there already is found by its tag `lepton.run_id`."""
    manifest = run.manifest
    with MLflow(target) as server:
        experiment = server.experiment(manifest.name)
        tags = {
            "lepton.status": manifest.status, "mlflow.source.name": manifest.notebook,
            "mlflow.source.type": "NOTEBOOK", "mlflow.note.content": manifest.title,
        }  # fmt: skip
        tags |= {"mlflow.source.git.commit": manifest.git.commit} if manifest.git else {}
        tags |= {"lepton.error": f"{manifest.error.name}: {manifest.error.message}"} if manifest.error else {}
        tags |= {f"result.{name}": value for name, value in run.words.items()}
        started, ended = manifest.started.timestamp(), (manifest.ended or manifest.started).timestamp()
        made, is_whole = server.run(experiment, manifest.run_id, started, tags)
        if not is_whole:
            server.log(made, manifest.parameters, run.numbers, run.curves, ended)
            for name, path in run.files.items():
                server.upload(experiment, made, name, path)
            server.end(made, ENDED.get(manifest.status, "FAILED"), ended)
        return server.page(experiment, made)


class MLflow:
    """An MLflow server, spoken to by its REST interface (version 2.0), so that its packages need not be here.

    Use as a context manager. Raises InputError, with the address but no password, when it cannot be reached or
    refuses what it is sent.
    """

    def __init__(self, address: str) -> None:
        if not re.match(r"https?://", address):
            raise InputError(
                f"tracker 'mlflow' = {without_password(address)!r}: must be the address of an MLflow server "
                "(http://…), such as that of `mlflow server`; MLflow keeps its folders of files up no longer"
            )
        try:
            url = httpx.URL(address)
        except httpx.InvalidURL as error:
            raise InputError(f"tracker 'mlflow' = {without_password(address)!r}: not an address ({error})") from None
        self._address = str(url.copy_with(userinfo=b"")).rstrip("/")  # what people and messages are shown
        auth = (url.username, url.password) if url.userinfo else None
        self._client = httpx.Client(auth=auth, timeout=10, verify=trusted())

    def __enter__(self) -> MLflow:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def experiment(self, name: str) -> str:
        """Return the id of an experiment, which is made where it is missing."""
        found = self._ask("GET", "experiments/get-by-name", absent={}, params={"experiment_name": name})
        return str(
            (found.get("experiment") or self._ask("POST", "experiments/create", {"name": name}))["experiment_id"]
        )

    def run(self, experiment: str, name: str, started: float, tags: Mapping[str, str]) -> tuple[str, bool]:
        """Return the id of the run with the tag `lepton.run_id` = `name`, and whether it is whole.

        One that was left half-written is deleted, and another begun. `started` are Unix seconds.
        """
        for found, status in self.find(experiment, name).items():
            if status != "RUNNING":
                return found, True
            self._ask("POST", "runs/delete", {"run_id": found})
        return self.begin(experiment, name, name, started, tags), False

    def find(self, experiment: str, known_as: str) -> dict[str, str]:
        """Return the ids of the runs whose tag `lepton.run_id` is `known_as`, with their status."""
        asked = {"experiment_ids": [experiment], "filter": f"tags.`{KNOWN}` = '{known_as}'", "max_results": 100}
        found = self._ask("POST", "runs/search", asked).get("runs", [])
        return {str(one["info"]["run_id"]): str(one["info"]["status"]) for one in found}

    def begin(self, experiment: str, known_as: str, name: str, started: float, tags: Mapping[str, str]) -> str:
        """Begin a run that `find` knows by `known_as`, and return its id; `started` are Unix seconds."""
        told = [{"key": key, "value": value[:LONGEST_TAG]} for key, value in {**tags, KNOWN: known_as}.items()]
        made = {"experiment_id": experiment, "run_name": name, "start_time": _ms(started), "tags": told}
        return str(self._ask("POST", "runs/create", made)["run"]["info"]["run_id"])

    def log(
        self, run: str, params: Mapping[str, Any], numbers: Mapping[str, float], curves: Mapping[str, pd.Series],
        at: float,
    ) -> None:  # fmt: skip
        """Log parameters, metrics, and metrics by step."""
        said = [{"key": _key(name), "value": _text(value)[:LONGEST_PARAM]} for name, value in params.items()]
        points = [(name, 0, value) for name, value in numbers.items()]
        points += [(name, int(str(step)), value) for name, curve in curves.items() for step, value in curve.items()]
        sent = [
            {"key": _key(name), "value": float(value), "timestamp": _ms(at), "step": step}
            for name, step, value in points
        ]
        for first in range(0, len(said), 100):
            self._ask("POST", "runs/log-batch", {"run_id": run, "params": said[first : first + 100]})
        for first in range(0, len(sent), MOST_POINTS):
            self._ask("POST", "runs/log-batch", {"run_id": run, "metrics": sent[first : first + MOST_POINTS]})

    def upload(self, experiment: str, run: str, name: str, path: Path) -> None:
        """Upload a file as an artifact of a run."""
        where = f"mlflow-artifacts/artifacts/{experiment}/{run}/artifacts/{quote(name)}"
        self._send("PUT", where, content=path.read_bytes())

    def end(self, run: str, status: str, ended: float | None) -> None:
        """Say how a run ended, and when (Unix seconds)."""
        self._ask("POST", "runs/update", {"run_id": run, "status": status, "end_time": ended and _ms(ended)})

    def page(self, experiment: str, run: str = "") -> str:
        """Return where people find an experiment, or a run of it."""
        return f"{self._address}/#/experiments/{experiment}" + (f"/runs/{run}" if run else "")

    def _ask(self, method: str, what: str, sent: Any = None, absent: Any = None, **more: Any) -> dict[str, Any]:
        answer = self._send(method, f"mlflow/{what}", absent is not None, json=sent, **more)
        try:
            return dict(absent if answer.status_code == 404 else answer.json())
        except (ValueError, TypeError):
            raise InputError(f"tracker 'mlflow' = {self._address!r}: is no MLflow server: {what} is no JSON") from None

    def _send(self, method: str, what: str, may_be_absent: bool = False, **more: Any) -> httpx.Response:
        shown = f"tracker 'mlflow' = {self._address!r}"
        try:
            answer = self._client.request(method, f"{self._address}/api/2.0/{what}", **more)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise InputError(f"{shown}: cannot be reached: {without_password(str(error))}") from error
        if answer.is_success or (may_be_absent and answer.status_code == 404):
            return answer
        try:
            why = answer.json()["message"]
        except (ValueError, KeyError, TypeError):
            why = answer.text[:200]
        raise InputError(f"{shown}: refused {what.split('/artifacts/')[0]}: {answer.status_code} {why}")


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _key(name: str) -> str:
    """Return a name of a parameter or metric as MLflow takes it."""
    return re.sub(r"[^\w\-. /]", "_", name)
