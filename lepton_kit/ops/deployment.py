"""Brings a new version of a model into a running service by steps, and takes one back.

A deployment begins with the new version beside the old one, tests it over HTTP while no user is answered by it, gives
it a growing share of the requests while both are compared, and ends with the new version alone, or with the old one as
before. What happened is kept as a record, with the service's deployments and the name of the person. A `Rehearsal` is
a service of its own to try all this on.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
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
from lepton_kit.ops.services import start_service
from lepton_kit.ops.stored_models import fetch_version
from lepton_kit.serving.canary import Counts, Finding, Rule, as_json, judge, read_counts
from lepton_kit.serving.control import (
    TOKEN,
    await_workers,
    change_desired_state,
    note_deployment,
    read_config,
    read_desired_state,
    read_reports,
    service_folder,
)
from lepton_kit.tls import trusted

STEPS = (0.05, 0.25, 0.5, 1.0)
FORMAT = "lepton-deployment/1"


class ServiceClient:
    """A running service, as its administrator sees it; it has an address and a token (its `LEPTON_ADMIN_TOKEN`)."""

    def __init__(self, address: str, token: str) -> None:
        self.address = address
        self._headers = {"Authorization": f"Bearer {token}"}
        self._http = httpx.Client(base_url=address, timeout=60, trust_env=False, verify=trusted())

    def version(self) -> str:
        """Return the version that answers now."""
        return str(self.ask("GET", "/readyz").json()["version"])

    def candidate(self) -> str | None:
        """Return the version that stands beside it, if any."""
        found = self.ask("GET", "/readyz").json()["candidate"]
        return None if found is None else str(found)

    def counts(self) -> Mapping[str, Counts]:
        """Return what each version has done so far; one that is not known, nothing."""
        return defaultdict(Counts, read_counts(self.ask("GET", "/metrics").text))

    def reload(self, version: str, candidate: str | None = None, share: float = 0.0, **more: Any) -> None:
        """Set the version that answers, and the share of requests for a candidate.

        Raises InputError when the service refuses; the message says why.
        """
        body = {"version": version, "candidate": candidate, "share": share, **more}
        answer = self.ask("POST", "/admin/reload", json=body, headers=self._headers)
        if answer.status_code != 200:
            raise InputError(f"service at {self.address}: {_error_of(answer)}")

    def predict(self, body: Any, version: str) -> httpx.Response:
        """Ask one version for predictions, whatever its share."""
        return self.ask("POST", "/v1/predict", json=body, headers={"X-Model-Version": version})

    def ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        """Return the answer to a request; InputError when there is none."""
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
            {"share": step.share, "requests": {"old": step.old.requests, "new": step.new.requests},
             "findings": [as_json(found) for found in step.findings]}
            for step in self.steps
        ]  # fmt: skip
        plain = ("model", "outcome", "reason", "apart", "started", "ended", "run_id")
        return {
            "format": FORMAT, "from": self.old, "to": self.new, **{name: getattr(self, name) for name in plain},
            "unit": self.task.unit, "rule": asdict(self.rule), "checks": [asdict(one) for one in self.checks],
            "steps": steps,
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

    The version that answers now is the old one; `rule` decides after each step, and `run_id` is noted with the changes.
    The version is rolled back when an integration test fails, when a step has too few requests to judge, or when the
    rule calls it worse; an error on the way, such as a service that ends, leaves the old version too. The registry's
    promoted version follows: a rolled back version that had been promoted is withdrawn there as well.

    `traffic` is called with the share at each step, and returns when the step has had its requests; `steps` are growing
    shares, the last one 1. Raises InputError when the version is missing or damaged, answers already, or the service
    refuses or does not answer.
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
        _end(service, registry, made, f"stopped by {type(error).__name__}: {error}")
        raise
    _end(service, registry, made, made.reason)
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
    ready, many = service.ask("GET", "/readyz").status_code, service.predict({"rows": rows}, version)
    first = (_predictions(many) if many.status_code == 200 else expected).head(1)
    checks = [
        Check("the service is ready", ready == 200, f"status {ready}"),
        _agrees("golden inputs give the golden outputs", many, expected, version),
        _agrees(
            "a row alone gives what it gives in a batch", service.predict({"row": rows[0]}, version), first, version
        ),
        *(_refuses(service, version, "a row without a feature", {"row": row}, f"row.{name}") for name, row in lacking),
        *(_refuses(service, version, "a value that is no number", {"row": row}, f"row.{n}") for n, row in no_number),
        _refuses(service, version, "an empty batch", {"rows": []}, "rows"),
    ]
    counts = service.counts()[version]
    kept = counts.requests >= 3 and counts.failed < counts.requests and bool(counts.slower)
    return [*checks, Check("its requests are counted under its name", kept, f"{counts.requests:.0f} requests")]


def _sendable(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Return rows as JSON can hold them: what is missing is null."""
    return [dict(row) for row in json.loads(rows.to_json(orient="records", double_precision=15))]


def _predictions(answer: httpx.Response) -> pd.DataFrame:
    given = answer.json()
    return pd.DataFrame(given["forecasts"] if "forecasts" in given else given["predictions"])


class Rehearsal(ServiceClient):
    """A real `lepton serve` in a project of its own, whose registry is a copy: nothing else is touched.

    It answers with `old`, the version promoted before the given one, which is `new`. Where there is none, as after the
    first training, `new` is a copy of the given version (an A/A test). It ends with this process, or by `stop`.

    Raises InputError when the version is missing or damaged.
    """

    def __init__(self, registry: Registry, model: str, version: str, workers: int = 1) -> None:
        registry.verify(model, version)
        self.project, self.model = Path(tempfile.mkdtemp(prefix="rehearsal-")), model
        atexit.register(shutil.rmtree, self.project, ignore_errors=True)
        shutil.copytree(registry.root / model, self.project / "models" / model)
        (self.project / "lepton.toml").touch()
        self.registry, before = Registry(self.project / "models"), registry.incumbent(model, version)
        self.old, self.new = (before, version) if before else (version, self.copy(version))
        self.registry.promote(model, self.old, "", "what answers before the deployment")
        self.running = start_service(
            self.project, f"{model}@{self.old}", workers=workers, queue_limit=1000, seconds=180
        )
        atexit.register(self.running.stop)
        super().__init__(self.running.address, self.running.token)

    def copy(self, version: str) -> str:
        """Save a version's very weights as a further version, and return its name."""
        kept, model = self.registry, self.model
        card = {**kept.card(model, version), "data": f"the very weights of {version}"}
        return kept.save(model, kept.load(model, version), card, kept.golden(model, version))

    def deploy(self, traffic: Traffic, **more: Any) -> Deployment:
        """Bring `new` in as `deploy` does, which takes `more`."""
        return deploy(self, self.registry, self.model, self.new, traffic, **more)

    def stop(self) -> int:
        """End the service, remove its project, and return the exit code of the service."""
        code = self.running.stop()
        shutil.rmtree(self.project, ignore_errors=True)
        return code


def wait_for_requests(service: ServiceClient, version: str, minimum: int, seconds: float) -> Traffic:
    """Return the traffic of a service of its own: `seconds`, or up to ten times as long for `minimum` requests."""

    def wait(share: float) -> None:
        before = service.counts()[version]
        began = time.monotonic()
        while time.monotonic() - began < 10 * seconds:
            time.sleep(min(1.0, seconds))
            seen = service.counts()[version].since(before).requests
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
    fetch_version(project, config.model, version)
    chosen = registry.folder(config.model, version).name
    traffic = wait_for_requests(service, chosen, rule.minimum_requests, seconds)
    return deploy(service, registry, config.model, chosen, traffic, steps=steps, rule=rule, run_id="lepton deploy")


def rollback(name: str, project: Path, run_id: str, reason: str) -> str:
    """Take a service back to its earlier good version, whether it runs or not, and return what was done.

    A candidate that has a share of the requests is withdrawn, and the old version stays. Without one, the version
    that was promoted before is promoted again, and a running service loads it.

    `name` is a service of the project, or, where none of that name was ever started, a model of its registry.

    Raises
    ------
    InputError
        When there is no earlier version, or it is damaged; nothing is changed then.
    LeptonError
        When the workers do not follow within 60 s.
    """
    folder = service_folder(project / "services", name)
    config = read_config(folder)
    if config is None:
        back = Registry(project / "models").rollback(name, run_id, reason)
        return f"model {name}: {back} is promoted again; no service {name} was ever started here"
    held = read_desired_state(folder)
    serving, candidate = held.version, held.candidate
    target = _earlier(Registry(config.registry), config.model, serving, candidate, run_id, reason)
    if not read_reports(folder):
        return f"service {name}: is not running; it will answer with {target} when it is started"
    desired = change_desired_state(folder, version=target, candidate=None, share=0.0)
    note_deployment(folder, target, f"rolled back from {candidate or serving}: {reason}")
    followed = await_workers(folder, desired, 60.0)
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
    old, new = (after[version].since(before[version]) for version in (made.old, made.new))
    if new.requests < made.rule.minimum_requests:
        made.reason = (
            f"at {share:.0%}: {new.requests:.0f} requests of {made.new} are too few to judge it; "
            f"{made.rule.minimum_requests} are needed"
        )
        return Step(share, old, new, [])
    is_same_time = old.requests >= made.rule.minimum_requests
    compared = old if is_same_time or not made.steps else max(made.steps, key=lambda s: s.old.requests).old
    step = Step(share, old, new, judge(compared, new, made.rule, is_same_time, made.task))
    if worse := [found.name for found in step.findings if found.verdict == "worse"]:
        made.reason = f"at {share:.0%}: {'; '.join(worse)} worse than {made.old}'s"
    return step


def _end(service: ServiceClient, registry: Registry, made: Deployment, against: str) -> None:
    """Let the new version answer alone; where something speaks against it, the old one."""
    made.outcome, made.ended = "rolled back" if against else "promoted", _now()
    made.reason = (
        against or f"{len(made.checks)} integration tests passed, and in {len(made.steps)} steps nothing was worse"
    )
    if not against:
        registry.promote(made.model, made.new, made.run_id, made.reason)
    elif registry.current(made.model) == made.new and registry.incumbent(made.model, made.new) is not None:
        registry.rollback(made.model, made.run_id, against)
    note = f"{made.new} {made.outcome}: {made.reason}"[:500]
    service.reload(made.old if against else made.new, note=note, record=made.record())


def _agrees(name: str, answer: httpx.Response, expected: pd.DataFrame, version: str) -> Check:
    if answer.status_code != 200 or answer.json()["version"] != version:
        return Check(name, False, f"status {answer.status_code}: {_error_of(answer)}")
    worst = deviation(_predictions(answer), expected)
    return Check(name, worst <= AGREEMENT, f"{len(expected)} rows, largest relative deviation {worst:.1g}")


def _distance(service: ServiceClient, golden: pd.DataFrame, made: Deployment) -> float | None:
    """Return how far apart both versions answer the golden rows on average; None where one does not take them."""
    given = [service.predict({"rows": _sendable(golden_rows(golden))}, version) for version in (made.old, made.new)]
    if any(answer.status_code != 200 for answer in given):
        return None
    before, after = map(_predictions, given)
    return float(made.task.distance(after, before).mean())


def _refuses(service: ServiceClient, version: str, what: str, body: Any, place: str) -> Check:
    answer = service.predict(body, version)
    named = [found["field"] for found in answer.json().get("fields", [])] if answer.status_code == 422 else []
    return Check(f"{what} is refused, and the field named", place in named, f"status {answer.status_code}: {named}")


def _error_of(answer: httpx.Response) -> str:
    try:
        return str(answer.json().get("error", ""))[:300]
    except (json.JSONDecodeError, AttributeError):
        return f"status {answer.status_code}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
