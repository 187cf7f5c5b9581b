"""What looks like a fault and is none: the service is asked more, or the world truly changes."""

from __future__ import annotations

from lepton_kit.ops.faults.base import Fault, Plant, fault


@fault
class Surge(Fault):
    """More requests than usual come at once, within what the workers can do. Severity: 1 fills half of it.

    Live, the load is what is given to `lepton replay`; this fault cannot make more of it.
    """

    name = "surge"
    cause = "none"
    description = "a surge of requests within the capacity"
    live = False

    def inject(self, plant: Plant) -> None:
        factor = max(1.0, 0.5 / plant.utilisation)
        plant.surge(lambda _: 1 + (factor - 1) * self.severity)


@fault
class SeasonalGrowth(Fault):
    """Requests come more and more often, within what the workers can do. Severity: 1 fills half of it in 5 minutes.

    Live, the load is what is given to `lepton replay`; this fault cannot make more of it.
    """

    name = "seasonal-growth"
    cause = "none"
    description = "the load grows slowly, within the capacity, as before a holiday"
    live = False

    def inject(self, plant: Plant) -> None:
        factor = max(1.0, 0.5 / plant.utilisation)
        plant.surge(lambda since: 1 + (factor - 1) * self.severity * min(since / 300, 1.0))


@fault
class MarketShift(Fault):
    """The real market of late 2007 and 2008 comes. Severity: the share of the days that are of that time.

    Live, the prices are what is given to `lepton replay`; this fault cannot change them.
    """

    name = "market-shift"
    cause = "none"
    description = "the market truly becomes wilder: rows and actuals are real ones of November 2007 to October 2008"
    severities = (0.5, 1.0)
    live = False

    def inject(self, plant: Plant) -> None:
        plant.change_world(self.severity)


@fault
class NewTopic(Fault):
    """Rows come of a class that no version has learnt. Severity: the share of the rows that are of it.

    Live, what is asked is given to `lepton replay`; this fault cannot change it.
    """

    name = "new-topic"
    cause = "none"
    description = "people ask about something new: rows come of a class that no version has learnt"
    severities = (0.4, 0.8)
    usual = 0.5
    live = False

    def inject(self, plant: Plant) -> None:
        plant.change_world(self.severity)


@fault
class Swing(NewTopic):
    """Known classes come in other shares. Severity: the share of the rows that are of one, whatever they were."""

    name = "swing"
    description = "people think otherwise: more rows than usual are of one class that each version knows"
    severities = (0.3, 0.8)


@fault
class SameVersion(Fault):
    """A deployment after which all is as before. Severity has no meaning.

    Live, no declared action deploys a version that is another one by its name alone.
    """

    name = "same-version"
    cause = "none"
    description = "a version is deployed that answers exactly as the one before"
    live = False

    def inject(self, plant: Plant) -> None:
        plant.deploy_next(is_bad=False)
