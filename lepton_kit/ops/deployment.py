"""Brings a new version of a model into a running service by steps, and takes one back.

A deployment begins with the new version beside the old one, tests it over HTTP while no user is answered by it, gives
it a growing share of the requests while both are compared, and ends with the new version alone, or with the old one as
before. What happened is kept as a record, with the service's deployments and the name of the person.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pandas as pd

from lepton_kit.errors import InputError
from lepton_kit.models.flavors import Model
from lepton_kit.models.golden import AGREEMENT, deviation, golden_rows
from lepton_kit.models.registry import Registry
from lepton_kit.models.tasks import TASKS, Task
from lepton_kit.ops.load import running_address
from lepton_kit.serving.canary import Counts, Finding, Rule, as_json, judge, read_counts
from lepton_kit.serving.config import TOKEN, read_config
from lepton_kit.serving.control import (
    change_desired_state,
    note_deployment,
    read_desired_state,
    read_reports,
    service_folder,
)
from lepton_kit.serving.following import await_workers

STEPS = (0.05, 0.25, 0.5, 1.0)
FORMAT = "lepton-deployment/1"


class ServiceClient:
    """A running service, as its administrator sees it.

    Parameters
    ----------
    address
        Such as `http://127.0.0.1:8000`.
    token
        The service's `LEPTON_ADMIN_TOKEN`.
    """

    def __init__(self, address: str, token: str) -> None:
        self.address = address
        self._headers = {"Authorization": f"Bearer {token}"}
        self._http = httpx.Client(base_url=address, timeout=60, trust_env=False)

    def version(self) -> str:
        """Return the version that answers now."""
        return str(self.get("/readyz").json()["version"])

    def candidate(self) -> str | None:
        """Return the version that stands beside it, if any."""
        found = self.get("/readyz").json()["candidate"]
        return None if found is None else str(found)

    def counts(self) -> dict[str, Counts]:
        """Return what each version has done so far."""
        return read_counts(self.get("/metrics").text)

    def reload(self, version: str, candidate: str | None = None, share: float = 0.0, **more: Any) -> None:
        """Set the version that answers, and the share of requests for a candidate.

        Raises InputError when the service refuses; the message says why.
        """
        body = {"version": version, "candidate": candidate, "share": share, **more}
        answer = self.send("/admin/reload", json=body, headers=self._headers)
        if answer.status_code != 200:
            raise InputError(f"service at {self.address}: {_error_of(answer)}")

    def predict(self, body: Any, version: str) -> httpx.Response:
        """Ask one version for predictions, whatever its share."""
        return self.send("/v1/predict", json=body, headers={"X-Model-Version": version})

    def get(self, path: str) -> httpx.Response:
        """Return the answer to a GET request."""
        return self._ask("GET", path)

    def send(self, path: str, **more: Any) -> httpx.Response:
        """Return the answer to a POST request."""
        return self._ask("POST", path, **more)

    def _ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        try:
            return self._http.request(method, path, **more)
        except httpx.HTTPError as error:
            raise InputError(f"service at {self.address}: does not answer ({type(error).__name__})") from error


@dataclass(frozen=True)
class Check:
    """One integration test: what must hold, whether it does, and what was found."""

    name: str
    passed: bool
    found: str


@dataclass(frozen=True)
class Step:
    """One share of the requests, what both versions did meanwhile, and how they compare."""

    share: float
    old: Counts
    new: Counts
    findings: Sequence[Finding]

    @property
    def worse(self) -> list[str]:
        """Return the names of the indicators that speak against the new version."""
        return [found.name for found in self.findings if found.verdict == "worse"]


@dataclass
class Deployment:
    """What a deployment did; `outcome` is `promoted` or `rolled back`, and `reason` says why.

    `apart` is how far apart both versions answered the golden rows, in the unit of the task's distance.
    """

    model: str
    old: str
    new: str
    rule: Rule
    run_id: str
    task: Task = TASKS["interval_forecast"]
    apart: float | None = None
    started: str = field(default_factory=lambda: _now())
    ended: str = ""
    outcome: str = ""
    reason: str = ""
    checks: list[Check] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)

    def record(self) -> dict[str, Any]:
        """Return the deployment record, as JSON can hold it."""
        steps = [
            {
                "share": step.share,
                "requests": {"old": step.old.requests, "new": step.new.requests},
                "findings": [as_json(found) for found in step.findings],
            }
            for step in self.steps
        ]
        return {
            "format": FORMAT, "model": self.model, "from": self.old, "to": self.new, "outcome": self.outcome,
            "reason": self.reason, "apart": self.apart, "unit": self.task.unit,
            "started": self.started, "ended": self.ended, "run_id": self.run_id,
            "rule": asdict(self.rule), "checks": [asdict(check) for check in self.checks], "steps": steps,
        }  # fmt: skip


Traffic = Callable[[float], object]
"""What happens while the candidate has a share (0 to 1) of the requests: load is driven, or real requests awaited."""


def deploy(
    service: ServiceClient,
    registry: Registry,
    model: str,
    version: str,
    traffic: Traffic,
    *,
    steps: Sequence[float] = STEPS,
    rule: Rule | None = None,
    run_id: str = "",
) -> Deployment:
    """Bring a version into a running service by steps, or take it back.

    The version is rolled back when an integration test fails, when a step has too few requests to judge, or when the
    rule calls it worse; an error on the way, such as a service that ends, leaves the old version too. The registry's
    promoted version follows: a rolled back version that had been promoted is withdrawn there as well.

    Parameters
    ----------
    service
        The running service; the version that answers now is the old one.
    registry, model, version
        The new version.
    traffic
        Called with the share at each step; returns when the step has had its requests.
    steps
        Growing shares of the requests, the last one 1.
    rule
        When the new version counts as worse.
    run_id
        The run that deploys, for the records.

    Raises
    ------
    InputError
        When the version is missing or damaged, answers already, or the service refuses or does not answer.
    """
    check_steps(steps)
    loaded, old, golden = registry.load(model, version), service.version(), registry.golden(model, version)
    if golden is None:
        raise InputError(
            f"model {model!r}: {version} keeps no golden examples, so nothing can be asked before users ask; "
            "register it with --reference or --golden"
        )
    if old == version:
        raise InputError(f"model {model!r}: {version} is what the service answers with already")
    made = Deployment(model, old, version, rule or Rule(), run_id, loaded.task)
    service.reload(old, version, 0.0, note=f"{version} beside {old}, to be tested")
    try:
        made.checks = integration_tests(service, loaded, golden, version)
        made.apart = _distance(service, golden, made)
        _climb(service, made, steps, traffic)
    except BaseException as error:
        _take_back(service, registry, made, f"stopped by {type(error).__name__}: {error}")
        raise
    if made.reason:
        _take_back(service, registry, made, made.reason)
    else:
        _promote(service, registry, made)
    return made


def _climb(service: ServiceClient, made: Deployment, steps: Sequence[float], traffic: Traffic) -> None:
    """Give a tested version its growing shares, until one speaks against it: `reason` says what."""
    if failed := [check.name for check in made.checks if not check.passed]:
        made.reason = f"integration test failed: {'; '.join(failed)}"
        return
    for share in steps:
        if service.candidate() != made.new:
            made.reason = f"before {share:.0%}: somebody else withdrew {made.new}"
            return
        made.steps.append(_step(service, made, share, traffic))
        if made.reason:
            return


def check_steps(steps: Sequence[float]) -> None:
    """Raise InputError unless the shares grow from above 0 to 1."""
    if not steps or list(steps) != sorted(set(steps)) or steps[0] <= 0 or steps[-1] != 1:
        shown = ", ".join(f"{share:g}" for share in steps)
        raise InputError(f"steps of a deployment: {shown or 'none'}: must be growing shares above 0 that end with 1")


def integration_tests(service: ServiceClient, model: Model, golden: pd.DataFrame, version: str) -> list[Check]:
    """Ask a version through the service what users will ask, and what they must not; `golden` has its answers."""
    rows = _sendable(golden_rows(golden))
    expected = golden[model.task.columns(golden)]
    needed = [name for name in model.columns if name not in model.optional]
    numbers = [name for name in needed if name not in model.categorical]
    lacking = [(name, {n: v for n, v in rows[0].items() if n != name}) for name in needed[:1]]
    no_number = [(name, {**rows[0], name: "x"}) for name in numbers[:1]]
    return [
        _is_ready(service),
        _gives_golden_outputs(service, rows, expected, version),
        _one_is_as_many(service, rows, version),
        *(_refuses(service, version, "a row without a feature", {"row": row}, f"row.{name}") for name, row in lacking),
        *(_refuses(service, version, "a value that is no number", {"row": row}, f"row.{n}") for n, row in no_number),
        _refuses(service, version, "an empty batch", {"rows": []}, "rows"),
        _counts_are_kept(service, version),
    ]


def _sendable(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Return rows as JSON can hold them: what is missing is null."""
    return [dict(row) for row in json.loads(rows.to_json(orient="records", double_precision=15))]


def _predictions(answer: httpx.Response) -> pd.DataFrame:
    given = answer.json()
    return pd.DataFrame(given["forecasts"] if "forecasts" in given else given["predictions"])


def wait_for_requests(service: ServiceClient, version: str, minimum: int, seconds: float) -> Traffic:
    """Return the traffic of a service of its own: `seconds`, or up to ten times as long for `minimum` requests."""

    def wait(share: float) -> None:
        before = service.counts().get(version, Counts())
        began = time.monotonic()
        while time.monotonic() - began < 10 * seconds:
            time.sleep(min(1.0, seconds))
            seen = service.counts().get(version, Counts()).since(before).requests
            if seen >= minimum and time.monotonic() - began >= seconds:
                return

    return wait


def deploy_to(name: str, project: Path, version: str, steps: Sequence[float], seconds: float) -> Deployment:
    """Bring a version (`current`: the promoted one) into a running service, with the requests that it has anyway.

    Raises InputError when the service does not run here, `LEPTON_ADMIN_TOKEN` is not set or wrong, or as `deploy` says.
    """
    folder = service_folder(project / "services", name)
    check_steps(steps)
    if not 0.1 <= seconds <= 7 * 86400:
        raise InputError(f"--step-seconds {seconds:g}: must be from 0.1 s to a week")
    address, config, token = running_address(folder), read_config(folder), os.environ.get(TOKEN, "")
    if config is None or not token:
        raise InputError(f"{TOKEN} is not set: deploying needs the service's token")
    registry, service, rule = Registry(config.registry), ServiceClient(address, token), Rule()
    chosen = registry.folder(config.model, version).name
    traffic = wait_for_requests(service, chosen, rule.minimum_requests, seconds)
    return deploy(service, registry, config.model, chosen, traffic, steps=steps, rule=rule, run_id="lepton deploy")


def rollback(name: str, project: Path, run_id: str, reason: str, seconds: float = 60.0) -> str:
    """Take a service back to its earlier good version, whether it runs or not, and return what was done.

    A candidate that has a share of the requests is withdrawn, and the old version stays. Without one, the version
    that was promoted before is promoted again, and a running service loads it.

    Parameters
    ----------
    name
        A service of the project, or, where none of that name was ever started, a model of its registry.
    project
        The project's root.
    run_id, reason
        Who asked, and why, for the records.
    seconds
        How long the workers may take to follow.

    Raises
    ------
    InputError
        When there is no earlier version, or it is damaged; nothing is changed then.
    LeptonError
        When the workers do not follow.
    """
    folder = service_folder(project / "services", name)
    config = read_config(folder)
    if config is None:
        back = Registry(project / "models").rollback(name, run_id, reason)
        return f"model {name}: {back} is promoted again; no service {name} was ever started here"
    held = read_desired_state(folder)
    serving, candidate = held.version, held.candidate
    registry = Registry(config.registry)
    target = _earlier(registry, config.model, serving, candidate, run_id, reason)
    if not read_reports(folder):
        return f"service {name}: is not running; it will answer with {target} when it is started"
    desired = change_desired_state(folder, version=target, candidate=None, share=0.0)
    note_deployment(folder, target, f"rolled back from {candidate or serving}: {reason}")
    followed = await_workers(folder, desired, seconds)
    words = f"candidate {candidate} is withdrawn, {target} answers alone" if candidate else f"{serving} → {target}"
    return f"service {name}: {words}; {followed.workers} worker(s) followed"


def _earlier(registry: Registry, model: str, serving: str, candidate: str | None, run_id: str, reason: str) -> str:
    """Return the version to go back to, which is the promoted one afterwards."""
    promoted = registry.current(model)
    if candidate is not None:
        registry.verify(model, serving)
        if promoted == candidate and registry.incumbent(model, candidate) is not None:
            registry.rollback(model, run_id, reason)
        return serving
    if promoted is not None and promoted != serving and registry.incumbent(model, promoted) != serving:
        registry.verify(model, promoted)  # what answers was never promoted: the promoted one is the good one
        return promoted
    return registry.rollback(model, run_id, reason)


def _step(service: ServiceClient, made: Deployment, share: float, traffic: Traffic) -> Step:
    service.reload(made.old, made.new, share)
    before = service.counts()
    traffic(share)
    after = service.counts()
    old, new = (after.get(v, Counts()).since(before.get(v, Counts())) for v in (made.old, made.new))
    if new.requests < made.rule.minimum_requests:
        made.reason = (
            f"at {share:.0%}: {new.requests:.0f} requests of {made.new} are too few to judge it; "
            f"{made.rule.minimum_requests} are needed"
        )
        return Step(share, old, new, [])
    is_same_time = old.requests >= made.rule.minimum_requests
    compared = old if is_same_time or not made.steps else max(made.steps, key=lambda s: s.old.requests).old
    step = Step(share, old, new, judge(compared, new, made.rule, is_same_time, made.task))
    if step.worse:
        made.reason = f"at {share:.0%}: {'; '.join(step.worse)} worse than {made.old}'s"
    return step


def _promote(service: ServiceClient, registry: Registry, made: Deployment) -> None:
    made.outcome, made.ended = "promoted", _now()
    made.reason = f"{len(made.checks)} integration tests passed, and in {len(made.steps)} steps nothing was worse"
    registry.promote(made.model, made.new, made.run_id, made.reason)
    service.reload(made.new, note=f"{made.new} promoted: {made.reason}"[:500], record=made.record())


def _take_back(service: ServiceClient, registry: Registry, made: Deployment, reason: str) -> None:
    made.outcome, made.ended, made.reason = "rolled back", _now(), reason
    if registry.current(made.model) == made.new and registry.incumbent(made.model, made.new) is not None:
        registry.rollback(made.model, made.run_id, reason)
    service.reload(made.old, note=f"{made.new} rolled back: {reason}"[:500], record=made.record())


def _is_ready(service: ServiceClient) -> Check:
    answer = service.get("/readyz")
    return Check("the service is ready", answer.status_code == 200, f"status {answer.status_code}")


def _gives_golden_outputs(
    service: ServiceClient, rows: list[dict[str, Any]], expected: pd.DataFrame, version: str
) -> Check:
    name = "golden inputs give the golden outputs"
    answer = service.predict({"rows": rows}, version)
    if answer.status_code != 200 or answer.json()["version"] != version:
        return Check(name, False, f"status {answer.status_code}: {_error_of(answer)}")
    worst = deviation(_predictions(answer), expected)
    return Check(name, worst <= AGREEMENT, f"{len(rows)} rows, largest relative deviation {worst:.1g}")


def _distance(service: ServiceClient, golden: pd.DataFrame, made: Deployment) -> float | None:
    """Return how far apart both versions answer the golden rows on average; None where one does not take them."""
    given = [service.predict({"rows": _sendable(golden_rows(golden))}, version) for version in (made.old, made.new)]
    if any(answer.status_code != 200 for answer in given):
        return None
    before, after = map(_predictions, given)
    return float(made.task.distance(after, before).mean())


def _one_is_as_many(service: ServiceClient, rows: list[dict[str, Any]], version: str) -> Check:
    name = "a row alone gives what it gives in a batch"
    alone, many = (service.predict(body, version) for body in ({"row": rows[0]}, {"rows": rows}))
    if not alone.status_code == many.status_code == 200:
        return Check(name, False, f"statuses {alone.status_code} and {many.status_code}")
    one, first = _predictions(alone), _predictions(many).head(1)
    shown = [f"{value:.6g}" if isinstance(value, float) else repr(value) for value in (one.iat[0, 0], first.iat[0, 0])]
    return Check(name, deviation(one, first) <= AGREEMENT, f"{one.columns[0]} {shown[0]} and {shown[1]}")


def _refuses(service: ServiceClient, version: str, what: str, body: Any, place: str) -> Check:
    answer = service.predict(body, version)
    named = [found["field"] for found in answer.json().get("fields", [])] if answer.status_code == 422 else []
    return Check(f"{what} is refused, and the field named", place in named, f"status {answer.status_code}: {named}")


def _counts_are_kept(service: ServiceClient, version: str) -> Check:
    counts = service.counts().get(version, Counts())
    passed = counts.requests >= 3 and counts.failed < counts.requests and bool(counts.slower)
    return Check("its requests are counted under its name", passed, f"{counts.requests:.0f} requests")


def _error_of(answer: httpx.Response) -> str:
    try:
        return str(answer.json().get("error", ""))[:300]
    except (json.JSONDecodeError, AttributeError):
        return f"status {answer.status_code}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
