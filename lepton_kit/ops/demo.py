"""Two incidents from their beginning to their recovery and their pages, with real processes on this machine.

Real prices are replayed at a model that `lepton serve` serves, and their feed stops. After that the scoring example, a
service that the kit did not make, is asked through a proxy that makes one column ten times too large. Each time `lepton
watch` observes: alerts fire, their evidence is frozen and diagnosed, the repair is approved, the feed is restarted, the
objectives are met again, and the incident is looked back on. Both are published in the end. One follows the other so
that two cores are enough. Objectives have windows `TIME_SCALE` times shorter than usual.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path

from lepton_kit.errors import LeptonError
from lepton_kit.ops.faults import find_fault
from lepton_kit.ops.following import ALERTED, DIAGNOSED, IDLE, LOOKED_BACK, RECOVERED, REPAIRED, Facts
from lepton_kit.ops.live_drills import NOBODY, RESTART, Declared, Served, Stage, following
from lepton_kit.ops.watch.evidence import FOLDER
from lepton_kit.project.settings import (
    NOTIFY_VARIABLE,
    REMEDIES_VARIABLE,
    SERVICES_VARIABLE,
    WATCH_VARIABLE,
    Settings,
    read_settings,
)
from lepton_kit.runs.ids import short_id
from lepton_kit.runs.shipped import in_project_or_shipped

TIME_SCALE = 600  # an hour is 6 seconds
HEALTHY_S = 15.0
OBSERVED_S = 15.0

SETTINGS = f"""
time_scale = {TIME_SCALE}
scrape_interval = 0.25
source = 'telemetry/demo-{{token}}'
workers = 1
report = false
"""
"""Of `lepton watch`: one runbook at a time and no page rendered meanwhile, so that the services have a core for
themselves and no step waits for a renderer."""

REMEDIES = f"""
[data]
policy = "ask"
parameters = {{ observe_seconds = {OBSERVED_S} }}
[compute]
parameters = {{ observe_seconds = {OBSERVED_S} }}
[model]
parameters = {{ observe_seconds = {OBSERVED_S} }}
"""

APPROVED_BY, WHY = "lepton demo", "given by the demonstration, in the place of a person"


def demonstrate(
    project: Path, announce: Callable[[str], object], model: str = "goog", example: str = "scoring"
) -> dict[str, Path]:
    """Let the feed of a served model stop and an example's feed go wrong, and follow both to their recovery and pages.

    The project's registry has a promoted version of the model, whose service is called so, and `example` is the subject
    that runs beside it. Returns the page of each service's incident, by the service's name. Raises LeptonError when a
    service or the watch does not start, a step does not come in its time, or a page cannot be made.
    """
    began = time.monotonic()

    def tell(text: str) -> None:
        announce(f"{time.monotonic() - began:5.1f} s  {text}")

    stages = _prepared(project, model, example)
    incidents = {stage.name: _followed(stage, above, tell) for stage, above in stages}
    tell("the services and lepton watch are stopped; the incidents are published")
    return _published(project, incidents, stages[-1][1])


def _followed(stage: Stage, above: Mapping[str, str], tell: Callable[[str], None]) -> Facts:
    """Let a service run, follow what its fault brings to the postmortem, stop everything, and return the incident."""
    hour = 3600 / TIME_SCALE

    def tell_of(text: str) -> None:
        tell(f"{stage.name}: {text}")

    def approve(incident: str, repair: Facts) -> None:
        """Approve by the command by which a person does."""
        words = ["approve", incident, "--cause", repair["cause"], "--by", APPROVED_BY, "--note", WHY]
        _lepton(stage.project, "approval", *words)
        tell_of(f"approved by this demonstration in your place (by hand: lepton approve {short_id(incident)})")

    with following(stage, above, tell_of, approve) as follower:
        tell_of(f"requests arrive; an hour of the objectives takes {hour:g} s")
        tell_of(f"its fault begins once no alert of it has fired for {HEALTHY_S:g} s")
        try:
            follower.inject(stage.inject, HEALTHY_S)
            tell_of(f"from now on, {stage.fault.description}")
            follower.follow(ALERTED, DIAGNOSED, REPAIRED, RECOVERED)
            tell_of("all objectives are met again: no alert fires")
            follower.follow(LOOKED_BACK, IDLE)
        except LeptonError as error:
            raise LeptonError(f"{error} (logs: {stage.project / FOLDER / 'demo.log'})") from error
        return follower.seen.incident


def _prepared(project: Path, model: str, example: str) -> list[tuple[Stage, dict[str, str]]]:
    """Return the two services in the order in which they are shown, and the variables by which settings know them."""
    settings, written = read_settings(project), ""
    if example not in settings.services:
        written = in_project_or_shipped(f"subjects/{example}/declaration.toml", project).read_text(encoding="utf-8")
        settings = Settings.model_validate(tomllib.loads(written))
    served = Served(project, find_fault("stale-feed", 0), model, ratings=0.05)
    declared = Declared(project, find_fault("scaled-column", 3), example, settings.services[example])
    return [
        (served, _above(f"{model}.{RESTART}")),
        (declared, _above(written.replace("[services.", "["))),
    ]


def _above(services: str) -> dict[str, str]:
    return {
        WATCH_VARIABLE: SETTINGS.format(token=secrets.token_hex(3)),
        REMEDIES_VARIABLE: REMEDIES,
        NOTIFY_VARIABLE: NOBODY,
        SERVICES_VARIABLE: services,
    }


def _published(project: Path, incidents: Mapping[str, Facts], above: Mapping[str, str]) -> dict[str, Path]:
    """Publish incidents with their runs, and return their pages; how long a renderer takes is not limited."""
    site = project / "reports" / "_site" / "incidents"
    pages = {service: site / one["id"] / "index.html" for service, one in incidents.items()}
    runs = [job["run_id"] for one in incidents.values() for job in one["runs"] if job["run_id"]]
    _lepton(project, "pages", "publish", *runs, *(f"--incident={one['id']}" for one in incidents.values()), **above)
    if missing := [page for page in pages.values() if not page.is_file()]:
        raise LeptonError(f"step 'pages': {missing[0]} was not made")
    return pages


def _lepton(project: Path, step: str, *words: str, **above: str) -> None:
    command = [sys.executable, "-m", "lepton_kit.cli", *words]
    done = subprocess.run(command, cwd=project, env={**os.environ, **above}, capture_output=True, text=True)
    if done.returncode != 0:
        raise LeptonError(f"step {step!r}: lepton {' '.join(words)}: {(done.stderr or done.stdout)[-500:].strip()}")
