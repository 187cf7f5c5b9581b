"""`lepton demo`: one incident from its beginning to its recovery and its page."""

from __future__ import annotations

from lepton_kit.commands.terminal import say
from lepton_kit.runs.project import find_project


def demo() -> None:
    """Serve a model, stop its data feed, and follow the alert to the recovery and the incident's page."""
    from lepton_kit.ops.demo import demonstrate

    made = demonstrate(find_project(), say)
    say(f"incident page: {made.page.as_uri()}")
