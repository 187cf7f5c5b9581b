"""`lepton demo`: an incident of each of two services, from its beginning to its recovery and its page."""

from __future__ import annotations

from lepton_kit.commands.terminal import say
from lepton_kit.runs.project import find_project


def demo() -> None:
    """Let the feeds of two services go wrong, and follow the alerts to the recoveries and the incidents' pages."""
    from lepton_kit.ops.demo import demonstrate

    for service, page in demonstrate(find_project(), say).items():
        say(f"incident of {service}: {page.as_uri()}")
