"""Models that answer over HTTP: the Open Inference Protocol v2 (KServe, Triton, …), and MLflow's `/invocations`."""

from __future__ import annotations

import re
from typing import Any

import httpx
import numpy as np
import pandas as pd

from lepton_kit.errors import InputError
from lepton_kit.models.answers import Asked
from lepton_kit.tls import trusted

SECONDS = 30.0
MODEL = re.compile(r"(?P<model>.*/v2/models/[^/]+(/versions/[^/]+)?)(/infer)?/?")
NUMBERS = ("FP", "INT", "UINT", "BOOL")


def ask_over_http(address: str) -> Asked:
    """Return what asks a model at an address, and what it says of its inputs.

    Raises InputError when the address is neither, or does not answer as its protocol says.
    """
    client = httpx.Client(timeout=SECONDS, trust_env=False, verify=trusted())
    if address.rstrip("/").endswith("/invocations"):
        return Asked(lambda rows: _invoke(client, address, rows))
    matched = MODEL.fullmatch(address)
    if not matched:
        raise InputError(f"model {address}: must end in /v2/models/M, /v2/models/M/versions/V or /invocations")
    place = matched["model"]
    said = _answer(client, "GET", place)
    try:
        inputs = [(str(one["name"]), str(one["datatype"]), list(one["shape"])) for one in said["inputs"]]
    except (LookupError, TypeError) as error:
        raise InputError(f"model {address}: does not say its inputs as the Open Inference Protocol has it") from error
    by_column = len(inputs) > 1 or (len(inputs) == 1 and inputs[0][2][-1:] in ([1], [-1]))

    def ask(rows: pd.DataFrame) -> dict[str, np.ndarray]:
        if by_column:
            sent = [_tensor(name, kind, rows[[name]]) for name, kind, _ in inputs]
        else:
            sent = [_tensor(inputs[0][0], inputs[0][1], rows)]
        return tensors(_answer(client, "POST", f"{place}/infer", {"inputs": sent})["outputs"], f"model {address}")

    named = tuple(name for name, _, _ in inputs) if by_column else ()
    return Asked(ask, named, tuple(name for name, kind, _ in inputs if by_column and kind == "BYTES"))


def tensors(given: Any, what: str) -> dict[str, np.ndarray]:
    """Return the tensors of an Open Inference Protocol body as arrays by name; InputError where one is none."""
    try:
        return {
            str(one["name"]): np.array(
                one["data"], object if one["datatype"] == "BYTES" else None
            ).reshape(one["shape"])
            for one in given
        }  # fmt: skip
    except (LookupError, TypeError, ValueError) as error:
        raise InputError(f"{what}: not tensors with name, shape, datatype and data ({error})") from error


def _tensor(name: str, kind: str, rows: pd.DataFrame) -> dict[str, Any]:
    values = rows.to_numpy(float if kind.startswith(NUMBERS) else object)
    if kind.startswith(NUMBERS[1:]):
        values = values.astype(int)
    data = [None if value != value else value for value in values.ravel().tolist()]  # JSON has no NaN
    return {"name": name, "shape": list(values.shape), "datatype": kind, "data": data}


def _invoke(client: httpx.Client, address: str, rows: pd.DataFrame) -> Any:
    data = [[None if value != value else value for value in row] for row in rows.to_numpy(object).tolist()]
    given = _answer(client, "POST", address, {"dataframe_split": {"columns": list(rows), "data": data}})
    if "predictions" not in given:
        raise InputError(f"model {address}: its answer holds no 'predictions'")
    return given["predictions"]


def _answer(client: httpx.Client, method: str, address: str, body: Any = None) -> dict[str, Any]:
    try:
        answer = client.request(method, address, json=body)
        if answer.status_code != 200:
            raise InputError(f"model {address}: answered {answer.status_code}: {answer.text[:200]}")
        given = answer.json()
    except (httpx.HTTPError, ValueError) as error:
        raise InputError(f"model {address}: does not answer ({type(error).__name__})") from error
    if not isinstance(given, dict):
        raise InputError(f"model {address}: answered with a {type(given).__name__}, not an object")
    return given
