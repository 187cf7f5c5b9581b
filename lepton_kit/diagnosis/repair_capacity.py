"""What follows from a recording for a service that is too slow: workers, a limit of the queue, or a smaller model.

A queue model is fed with what was measured: how many requests came and how unevenly, how long a worker was busy with
one and how that varied. It says how long requests would wait for each number of workers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from lepton_kit.diagnosis.case import build_case
from lepton_kit.diagnosis.means import Step
from lepton_kit.diagnosis.plans import Operator, Plan, remedy
from lepton_kit.diagnosis.queueing import Demand, bounded, mean_wait
from lepton_kit.diagnosis.workload import GREW, Measured, measure
from lepton_kit.errors import InputError
from lepton_kit.telemetry.recordings import Recording
from lepton_kit.telemetry.selectors import parse_selector
from lepton_kit.telemetry.signals import preset, presets
from lepton_kit.telemetry.slo import Objective

SOURCES = (
    "M/M/c: Erlang (1917)",
    "uneven arrivals and service times: Allen–Cunneen (Allen 1990, section 5.3; Whitt 1993)",
    "bounded queue: M/M/c/K (Kleinrock 1975, chapter 3), its room scaled by the variabilities (Whitt 2004)",
)
"""Where the formulae come from."""

HIGHEST_USE = 0.85
"""Workers that are busier than this are too few, however short the mean wait: a small surge would fill the queue."""


@dataclass(frozen=True)
class Needs:
    """What is wanted, and what is allowed.

    Parameters
    ----------
    wait
        Mean seconds that a request may wait.
    in_time
        Seconds within which an accepted request must be answered; the queue's limit follows from it.
    most_workers
        Workers that a machine has room for.
    most_machines
        Machines that there may be; a service that was started by `lepton serve` has one.
    refused
        Share of the requests that the queue's limit may refuse; a tenth of the budget of an objective of 99.9 %.
        `tolerated_refusals` takes it from the objectives of a service.
    """

    wait: float = 0.05
    in_time: float = 0.1
    most_workers: int = 8
    refused: float = 0.0001
    most_machines: int = 1

    def __post_init__(self) -> None:
        if not (
            0 < self.wait < math.inf and 0 < self.in_time < math.inf and min(self.most_workers, self.most_machines) >= 1
        ):
            raise InputError(f"{self}: wait and in_time must be above 0 s, most_workers and most_machines at least 1")
        if not 0 < self.refused < 1:
            raise InputError(f"refused = {self.refused!r}: must be between 0 and 1")

    @property
    def room(self) -> int:
        """Workers that all machines have room for."""
        return self.most_workers * self.most_machines


PART_OF_BUDGET = 0.1
"""Of an error budget a repaired service may spend this part on refusals; the rest is for what nobody planned."""


def tolerated_refusals(objectives: Sequence[Objective]) -> float:
    """Return the share of requests that may be refused: a tenth of the smallest budget that refusals are paid from.

    Objectives that do not count a refused request as bad, such as those of the forecasts, do not matter; where none
    does, it is what `Needs` has.
    """
    budgets = [one.budget for one in objectives if is_hurt_by_refusals(one)]
    return PART_OF_BUDGET * min(budgets) if budgets else Needs().refused


def is_hurt_by_refusals(objective: Objective) -> bool:
    """Tell whether an objective counts a refused request, and not as a good one.

    A refused request has the status 429, or what a known server's signal `refusals` says of it.
    """
    told = [*objective.selector.matchers, *objective.total.matchers]
    refused = {one.label: "429" for one in told if "status" in one.label or "code" in one.label}
    for signals in map(preset, presets()):
        if (signal := signals.get("refusals")) and parse_selector(signal.selector).metric == objective.selector.metric:
            refused = {one.label: one.value for one in parse_selector(signal.selector).matchers}
    is_in_total, is_counted = (
        all(one.matches(refused) for one in selector.matchers if one.label in refused)
        for selector in (objective.total, objective.selector)
    )
    return bool(refused) and is_in_total and is_counted == (objective.events == "bad")


@dataclass(frozen=True)
class Smaller:
    """A compressed version of the model, and how long it takes for a request compared with the present one (0 to 1)."""

    version: str
    service_ratio: float

    def __post_init__(self) -> None:
        if not 0 < self.service_ratio < 1:
            raise InputError(f"service_ratio = {self.service_ratio!r} of {self.version}: must be between 0 and 1")


def smaller_of(version: str, card: Mapping[str, Any], measured: Measured) -> Smaller | None:
    """Return a compressed version with the time that it would need, or None where it may not stand in, or is no faster.

    Only the model's part of a request becomes shorter: reading and checking it takes as long as before (Amdahl 1967).

    >>> card = {"compression": {"may_stand_in": True, "times_as_fast": {"us_per_row": 4.0}}}
    >>> measured = Measured(Demand(10, 0.1), 1, 1, 0.0, 0.8, 0.0, 1.0, 1.0, 1.0)
    >>> smaller_of("v3", card, measured)
    Smaller(version='v3', service_ratio=0.4)
    """
    compression = card.get("compression", {})
    if not compression.get("may_stand_in"):
        return None
    faster = float(compression["times_as_fast"]["us_per_row"])
    share = 0.0 if math.isnan(measured.model_share) else measured.model_share
    ratio = round(1 - share * (1 - 1 / faster), 6)
    return Smaller(version, ratio) if 0 < ratio < 1 else None


@dataclass(frozen=True)
class CapacityPlan(Plan):
    """How large the service must be.

    Parameters
    ----------
    workers, queue_limit
        Worker processes, and requests that may be in each.
    version
        The compressed version to answer with; None keeps the present one.
    restart
        Whether to replace the workers by fresh ones, because they changed and not the demand.
    is_futile
        Whether no number of workers helps, as a request takes too long for a worker that has nothing else to do. Then
        `workers` are those that there were, and `queue_limit` is that of a request as it was before.
    measured
        What the plan rests on; `demand.rate` and `demand.service` are the two that matter most.
    options
        A row per number of workers (and the compressed version): `version`, `workers`, `utilisation`, `wait_s`
        (predicted mean), `refused` and `accepted_wait_s` (with the queue's limit), `enough`; `machines` where there may
        be several, and `cost_per_hour` where the service declares what a worker costs.
    reasons
        Why, a sentence each.
    """

    workers: int
    queue_limit: int
    version: str | None
    restart: bool
    measured: Measured
    options: pd.DataFrame
    reasons: tuple[str, ...]
    is_futile: bool = False
    machines: int = 1
    cost_per_hour: float | None = None

    @property
    def resizes(self) -> bool:
        """Whether the plan changes how large the service is, or the version that answers."""
        return not self.is_futile or self.measured.lost > 0

    @property
    def action(self) -> str:
        """Return in words what the plan does to a service."""
        said = ["no number of workers helps: none is added"] if self.is_futile else []
        spread = f" on {self.machines} machines" if self.machines > 1 else ""
        said += [f"{self.workers} workers{spread}, at most {self.queue_limit} requests in each"] if self.resizes else []
        said += [f"answer with {self.version}"] if self.version else []
        said += ["replace each worker by a fresh one"] if self.restart else []
        return "; ".join(said)

    @property
    def predicted_wait(self) -> float:
        """Return the mean wait (s) that the queue model predicts for the workers that will answer."""
        answering = self.workers - self.measured.lost
        chosen = self.options["version"].eq(self.version or "") & self.options["workers"].eq(answering)
        return float(self.options.loc[chosen, "wait_s"].iloc[0])

    def steps(self) -> Sequence[Step]:
        """Return the new size and the restart, as far as the plan has them."""
        size = [Step(("scale",), f"{self.workers} workers")] if self.resizes else []
        return size + ([Step(("restart",), "replace each worker by a fresh one")] if self.restart else [])

    def carry_out(self, operator: Operator) -> tuple[str, ...]:
        """Scale the service and replace its workers, and return what was done."""
        why, state, done = "; ".join(self.reasons), operator.state(), []
        ways = self.means(operator.ways).ways
        if "scale" in ways:
            version = self.version or state.version
            operator.set_state(replace(state, version=version, workers=self.workers, queue_limit=self.queue_limit), why)
            made = operator.state()
            limit = f", at most {made.queue_limit} requests in each, version {made.version}" if made.queue_limit else ""
            if made != state:
                done.append(f"{made.workers} workers{limit}")
        if "restart" in ways:
            operator.restart_workers(why)
            done.append("each worker was replaced by a fresh one" + ("" if self.resizes else "; no workers were added"))
        return tuple(done)


@remedy("compute", runbook="repair-capacity")
def plan_capacity(recording: Recording, needs: Needs | None = None, smaller: Smaller | None = None) -> CapacityPlan:
    """Say how large a service must be, from the recording of an incident.

    The fewest workers, not fewer than before, that keep the wait and refuse hardly a request; where the machine has no
    room for them, the compressed version; where there is none, or it is too slow as well, as many workers as there is
    room for, and the queue's limit refuses what could not be answered in time. For each worker that no longer answers,
    one is added, as what makes it hang may do so again. Where one request alone takes a worker longer than it may, as
    behind a slow disk, none is added: they would all be as slow.

    Raises
    ------
    InputError
        When too few requests were recorded since the onset to measure what is asked of the service.
    """
    measured = measure(build_case(recording))
    needs = needs or Needs()
    there_was = math.ceil(measured.workers / needs.most_machines)  # each had room for these
    needs = replace(needs, most_workers=max(needs.most_workers, there_was))
    declared = recording.incident.declaration
    options = option_table(measured.demand, needs, smaller, declared.cost_per_worker_hour)
    allowed = options[options["workers"] >= measured.workers]
    enough = allowed[allowed["enough"]]
    is_futile = enough.empty and measured.demand.service > needs.in_time
    own = allowed[allowed["version"] == ""]
    chosen = (enough if len(enough) else own.head(1) if is_futile else own.tail(1)).iloc[0]
    version = str(chosen["version"]) or None
    service = measured.demand.service * (smaller.service_ratio if smaller and version else 1.0)
    if is_futile and measured.service_growth > 1:
        service /= measured.service_growth
    workers = min(int(chosen["workers"]) + measured.lost, needs.room)
    each = declared.cost_per_worker_hour
    return CapacityPlan(
        workers=workers,
        queue_limit=queue_limit(service, needs),
        version=version,
        restart=measured.ails,
        measured=measured,
        options=options,
        reasons=(*_reasons(measured, needs, chosen, is_futile), *_cost(workers, measured, each, declared.currency)),
        is_futile=is_futile,
        machines=math.ceil(workers / needs.most_workers),
        cost_per_hour=None if each is None else workers * each,
    )


def queue_limit(service: float, needs: Needs) -> int:
    """Return how many requests may be in a worker, so that the last of them is answered in time.

    >>> queue_limit(0.012, Needs(in_time=0.1))
    8
    """
    return max(1, math.floor(needs.in_time / service))


def option_table(
    demand: Demand, needs: Needs, smaller: Smaller | None = None, cost_per_worker_hour: float | None = None
) -> pd.DataFrame:
    """Return what the queue model predicts for each number of workers, and for the compressed version (last).

    It is that of one queue for all workers, which several machines have behind a balancer that sends each request to
    a free one; a balancer that sends them in turn makes them wait longer.

    >>> table = option_table(Demand(rate=30, service=0.05), Needs(wait=0.05, in_time=0.5, most_workers=3))
    >>> table[["workers", "utilisation", "wait_s", "enough"]].round(3).values.tolist()
    [[1, 1.5, inf, False], [2, 0.75, 0.064, False], [3, 0.5, 0.008, True]]
    """
    versions = [("", 1.0)] + ([(smaller.version, smaller.service_ratio)] if smaller else [])
    rows = []
    for version, ratio in versions:
        asked = Demand(demand.rate, demand.service * ratio, demand.arrival_scv, demand.service_scv)
        limit = queue_limit(asked.service, needs)
        for workers in range(1, needs.room + 1):
            wait, use = mean_wait(asked, workers), asked.utilisation(workers)
            refused, accepted_wait = bounded(asked, workers, workers * (limit - 1))
            enough = wait <= needs.wait and use <= HIGHEST_USE and refused <= needs.refused
            rows.append((version, workers, use, wait, refused, accepted_wait, enough))
    columns = ["version", "workers", "utilisation", "wait_s", "refused", "accepted_wait_s", "enough"]
    table = pd.DataFrame(rows, columns=columns)
    if needs.most_machines > 1:
        table["machines"] = -(-table["workers"] // needs.most_workers)
    if cost_per_worker_hour is not None:
        table["cost_per_hour"] = table["workers"] * cost_per_worker_hour
    return table


def _reasons(measured: Measured, needs: Needs, chosen: pd.Series, is_futile: bool) -> tuple[str, ...]:
    demand = measured.demand
    said = [
        f"{demand.rate:.3g} requests a second keep a worker busy for {1000 * demand.service:.3g} ms each: "
        f"{demand.load:.2f} workers' worth",
        f"squared coefficients of variation: {demand.arrival_scv:.2f} of the arrivals, {demand.service_scv:.2f} of the "
        "service times",
    ]
    if measured.lost:
        said.append(f"{measured.left} of {measured.workers} workers are left")
    if measured.service_growth >= GREW:
        said.append(f"a request keeps a worker busy {measured.service_growth:.1f} times as long as before")
    if measured.rate_growth >= GREW:
        said.append(f"{measured.rate_growth:.1f} times as many requests come as before")
    if measured.memory_growth >= GREW:
        said.append(f"the memory of a worker is {measured.memory_growth:.1f} times what it was")
    version = f" with {chosen['version']}" if chosen["version"] else ""
    wait = f"{1000 * chosen['wait_s']:.3g} ms" if math.isfinite(chosen["wait_s"]) else "without end"
    said.append(
        f"{chosen['workers']} workers{version}: {chosen['utilisation']:.0%} busy, predicted mean wait {wait}, "
        f"{chosen['refused']:.2g} of the requests refused"
    )
    if is_futile:
        said.append(
            f"no number of workers helps: one request keeps a worker busy for {1000 * demand.service:.3g} ms, and "
            f"should be answered within {1000 * needs.in_time:g} ms; look at the disk, at what else takes the "
            "processor, and at what the model calls"
        )
    elif not chosen["enough"]:
        said.append(
            f"no allowed number of workers (up to {needs.room}) keeps a mean wait of {1000 * needs.wait:g} ms "
            f"and refuses at most {needs.refused:.2g} of the requests: the queue's limit refuses "
            f"{chosen['refused']:.2g} so that the rest is answered within {needs.in_time:g} s"
        )
    return tuple(said)


def _cost(workers: int, measured: Measured, each: float | None, currency: str) -> tuple[str, ...]:
    if each is None:
        return ()
    now, before = (f"{count * each:g} {currency}".strip() for count in (workers, measured.workers))
    return (f"{workers} workers cost {now} an hour; before it was {before}",)
