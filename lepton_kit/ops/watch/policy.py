"""What follows on a diagnosis: `[remedies]` and `[postmortem]` of lepton.toml, checked when they are read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_kit.diagnosis.means import why_to_ask
from lepton_kit.files import SINGLE_NAME
from lepton_kit.ops.declared import is_served_here, ways_of
from lepton_kit.ops.watch.jobs import Proposal, Start
from lepton_kit.ops.watch.routing import RECORDING, checked_start
from lepton_kit.project.declarations import declared
from lepton_kit.project.settings import Remedy, Settings
from lepton_kit.runs.manifest import Result

if TYPE_CHECKING:
    from lepton_kit.telemetry.slo import Objective

SERVICE = "service"
"""The parameter of a remedy's runbook that is given the service's name."""
NO_REMEDY = (None, "none")
LOOKING_BACK = ("history", RECORDING, "after", "judgement")
"""The parameters of the postmortem's runbook that are given what an incident left."""


class Policy:
    """Which repairs a diagnosis asks for, and which of them wait for a person.

    Raises InputError when a runbook is missing, or has no such parameter or one of another type.
    """

    def __init__(self, settings: Settings, project: Path) -> None:
        self._remedies, self._settings, self._project = settings.remedies, settings, project
        self._starts: dict[str, Start] = {}
        for cause, one in settings.remedies.by_cause().items():
            origin, given = f"lepton.toml, remedies.{cause}", one.parameters
            self._starts[cause], _ = checked_start(one.runbook, given, origin, project, later=[SERVICE], needs=SERVICE)
        self.postmortem: Start | None = None
        self.postmortem_when = ""
        if (after := settings.postmortem) is not None:
            origin = "lepton.toml, postmortem"
            start, _ = checked_start(after.runbook, after.parameters, origin, project, later=LOOKING_BACK)
            self.postmortem, self.postmortem_when = start, after.when

    def proposals(
        self, results: Mapping[str, Result], objective: Objective | None = None, service: str = ""
    ) -> list[Proposal]:
        """Return the repairs that a diagnosis asks for, in order: what acts on the objective that alerted comes first.

        Parameters
        ----------
        results
            What the diagnosis recorded: `cause`, and where it knows them `also` (further causes), `probability`, and
            `remedy`, which is `none` where nothing is to be repaired.
        objective
            The one that alerted, where it is known.
        service
            What is repaired. A repair that it declares no action for, or that none of its actions takes back, waits
            for a person, whatever the policy.

        Returns
        -------
        list of Proposal
            One for each cause that has a remedy in the settings; none for `none` and `unknown`.
        """
        said = {name: result.value for name, result in results.items()}
        if said.get("remedy", "") in NO_REMEDY:
            return []
        policies = self._remedies.by_cause()
        causes = [cause for cause in _causes(said) if cause in policies]
        if objective is not None:
            from lepton_kit.diagnosis.plans import in_order  # pandas: not before there is something to order

            causes = list(in_order(causes, objective))
        probability = _probability(said, causes[0]) if causes else None
        return [
            Proposal(
                cause,
                self._starts[cause].notebook,
                self._starts[cause].parameters,
                self._why_to_ask(policies[cause], probability) or self._why_not_alone(cause, service),
            )
            for cause in causes
        ]

    def _why_not_alone(self, cause: str, service: str) -> str:
        if not (
            service in self._settings.services
            or (SINGLE_NAME.fullmatch(service) and is_served_here(service, self._project))
        ):
            return ""  # nobody declared it: the runbook says so
        declaration = declared(self._project, service, self._settings)
        return why_to_ask(cause, ways_of(service, declaration, self._project))

    def _why_to_ask(self, remedy: Remedy, probability: Any) -> str:
        if remedy.policy == "ask":
            return "the policy of this cause is to ask"
        if not isinstance(probability, int | float) or isinstance(probability, bool):
            return "the diagnosis did not say how probable it is"
        if not probability >= self._remedies.least_probability:  # not a number is not enough either
            least = self._remedies.least_probability
            return f"the diagnosis is {probability:.0%} probable, and {least:.0%} is needed (least_probability)"
        return ""


def _causes(said: Mapping[str, Any]) -> list[str]:
    """Return the causes of a diagnosis, the first one first.

    >>> _causes({"cause": "data", "also": ["compute"]}), _causes({"cause": "none"}), _causes({})
    (['data', 'compute'], ['none'], [])
    """
    also = said.get("also")
    further = also if isinstance(also, list) else [also]
    return list(dict.fromkeys(cause for cause in (said.get("cause"), *further) if isinstance(cause, str)))


def _probability(said: Mapping[str, Any], cause: str) -> Any:
    """Return how probable a diagnosis is, or the cause that the alert put first in place of the likeliest one.

    >>> ranking = {"columns": ["cause", "probability"], "rows": [["data", 0.99], ["compute", 0.6]]}
    >>> said = {"cause": "data", "also": ["compute"], "probability": 0.99, "ranking": ranking}
    >>> _probability(said, "data"), _probability(said, "compute"), _probability({"probability": 0.9}, "compute")
    (0.99, 0.6, 0.9)
    """
    ranking = said.get("ranking")
    if cause == said.get("cause") or not isinstance(ranking, dict):
        return said.get("probability")
    rows = [dict(zip(ranking["columns"], row, strict=True)) for row in ranking["rows"]]
    return next((row["probability"] for row in rows if row["cause"] == cause), said.get("probability"))
