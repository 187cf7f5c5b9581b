"""How runs are executed that somebody starts in a browser, and what follows on them."""

from __future__ import annotations

import logging
import threading
from contextlib import suppress
from pathlib import Path

from lepton_kit.errors import LeptonError
from lepton_kit.project.settings import read_settings
from lepton_kit.runs.background import BackgroundRun
from lepton_kit.runs.manifest import Manifest
from lepton_kit.runs.runner import Options, Request

logger = logging.getLogger(__name__)


def options_of(project: Path) -> Options:
    """Return how `[lab]` of lepton.toml has runs executed."""
    lab = read_settings(project).lab
    return Options(cell_timeout=lab.cell_timeout, timeout=lab.timeout, retries=lab.retries, backoff=lab.backoff)


def publish(run: Manifest, project: Path) -> Path | None:
    """Put a run's page into the report site and return it; None where `[lab]` has it off, or it cannot be made.

    What goes wrong is logged: a run is none the worse for it.
    """
    if not read_settings(project).lab.report:
        return None
    from lepton_kit.reports.publish import publish_runs  # figures and Markdown, which a start need not wait for
    from lepton_kit.reports.site import build_site

    try:
        publish_runs(project, [run])
        page = build_site(project).folder / "runs" / run.run_id / "index.html"
    except Exception as error:
        logger.warning("run %s has no page: %s", run.run_id, error)
        return None
    return page if page.is_file() else None


class StartedRuns:
    """The runs that a server's pages have started; they end with it, cancelled."""

    def __init__(self, project: Path) -> None:
        self._project = project
        self.all: list[BackgroundRun] = []
        self._adding = threading.Lock()

    def start(self, request: Request) -> int:
        """Start a run, and return the number by which its beginning is asked for."""
        run = BackgroundRun(request, self._project, options_of(self._project))
        threading.Thread(target=self._publish, args=[run], daemon=True).start()
        with self._adding:
            self.all.append(run)
            return len(self.all) - 1

    def running(self, run_id: str) -> BackgroundRun | None:
        """Return a run that still goes on, by its id."""
        return next((one for one in self.all if one.run_id == run_id and one.is_running), None)

    def stop(self) -> None:
        """Cancel those that still go on, and wait until their manifests say so."""
        for run in self.all:
            run.stop()
        for run in self.all:
            with suppress(LeptonError):
                run.wait()

    def _publish(self, run: BackgroundRun) -> None:
        with suppress(LeptonError):  # its page says why it did not begin
            publish(run.wait(), self._project)
