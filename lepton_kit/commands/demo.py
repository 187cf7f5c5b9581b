"""`lepton demo`: one incident from its beginning to its recovery and its page."""

from __future__ import annotations

from lepton_kit.commands.terminal import new_console
from lepton_kit.runs.project import find_project


def demo() -> None:
    """Serve a model, let its feed stop, and follow the alert to the recovery and the incident's page."""
    from lepton_kit.ops.demo import demonstrate

    console = new_console()

    def announce(line: str) -> None:
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    made = demonstrate(find_project(), announce)
    announce(f"incident page: {made.page.as_uri()}")
