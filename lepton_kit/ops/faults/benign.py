"""What looks like a fault and is none: the service is asked more, or the world truly changes."""

from __future__ import annotations

from lepton_kit.ops.faults.base import Fault, Plant


class Surge(Fault):
    """More requests than usual come at once, within what the workers can do. Severity: 1 fills half of it.

    Live, the load is what is given to `lepton replay`; this fault cannot make more of it.
    """

    name = "surge"
    cause = "none"
    description = "a surge of requests within the capacity"
    live = False

    def strike(self, plant: Plant) -> None:
        """Multiply the rate."""
        factor = max(1.0, 0.5 / plant.utilisation)
        plant.surge(lambda _: 1 + (factor - 1) * self.severity)


class SeasonalGrowth(Fault):
    """Requests come more and more often, within what the workers can do. Severity: 1 fills half of it in 5 minutes.

    Live, the load is what is given to `lepton replay`; this fault cannot make more of it.
    """

    name = "seasonal-growth"
    cause = "none"
    description = "the load grows slowly, within the capacity, as before a holiday"
    live = False

    def strike(self, plant: Plant) -> None:
        """Let the rate grow."""
        factor = max(1.0, 0.5 / plant.utilisation)
        plant.surge(lambda since: 1 + (factor - 1) * self.severity * min(since / 300, 1.0))


class MarketShift(Fault):
    """The real market of late 2007 and 2008 comes. Severity: the share of the days that are of that time.

    Live, the prices are what is given to `lepton replay`; this fault cannot change them.
    """

    name = "market-shift"
    cause = "none"
    description = "the market truly becomes wilder: rows and actuals are real ones of November 2007 to October 2008"
    severities = (0.5, 1.0)
    live = False

    def strike(self, plant: Plant) -> None:
        """Ask about wild days."""
        plant.change_world(self.severity)


BENIGN = (Surge, MarketShift, SeasonalGrowth)
