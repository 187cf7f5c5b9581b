"""`lepton demo`: an incident of each of two services, from its beginning to its recovery and its page."""

from __future__ import annotations

from lepton_kit.runs.project import find_project


def demo() -> None:
    """Let the feeds of two services go wrong, and follow the alerts to the recoveries and the incidents' pages."""
    from lepton_kit.ops.demo import demonstrate

    console = new_console()

    def announce(line: str) -> None:
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    for made in demonstrate(find_project(), announce):
        announce(f"incident of {made.service}: {made.page.as_uri()}")
