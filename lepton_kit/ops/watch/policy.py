"""What an alert and its diagnosis start: `[alerts.<name>]`, `[remedies]` and `[postmortem]` of lepton.toml, checked.

The settings are checked when they are read: the notebooks are there, and take the parameters that they are given.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_kit.diagnosis.means import why_to_ask
from lepton_kit.errors import InputError
from lepton_kit.files import SINGLE_NAME
from lepton_kit.ops.declared import is_served_here, ways_of
from lepton_kit.ops.watch.jobs import Proposal, Start
from lepton_kit.ops.watch.objectives import read_all_objectives
from lepton_kit.ops.watch.webhook import Alert
from lepton_kit.project.declarations import declared
from lepton_kit.project.settings import Action, AlertRule, FromLabel, Remedy, Settings
from lepton_kit.runs.manifest import Result
from lepton_kit.runs.notebooks import locate_notebook, read_notebook
from lepton_kit.runs.parameters import Parameter, check_values, read_parameters
from lepton_kit.runs.shipped import name_of
from lepton_kit.telemetry.slo import alert_name

if TYPE_CHECKING:
    from lepton_kit.telemetry.slo import Objective

USUAL = AlertRule(
    runbook="runbooks/incident-diagnosis.ipynb", on_resolved=Action(runbook="runbooks/service-health.ipynb")
)
"""What an alert of an objective starts that the settings do not name."""

RECORDING = "recording"
"""The parameter of a runbook that is given the folder of the incident's evidence."""


@dataclass(frozen=True)
class Route:
    r"""A runbook with its typed parameters, and what fills them: literals, and the labels that are allowed to.

    It is started by alerts of these `severities` (None: of all), and `on_resolved` when such an alert ends.

    >>> from lepton_kit.runs.parameters import parse_parameters
    >>> parameters = parse_parameters("service: str = ''\ndays: int = 1", "r.ipynb")
    >>> route = Route("r.ipynb", parameters, {}, {"days": "days"})
    >>> route.start({"days": "3", "service": "not asked for"})
    Start(notebook='r.ipynb', parameters={'days': '3'})
    >>> route.start({"days": "soon"})
    "parameter 'days' = 'soon' (from label 'days'): must be int: Input should be a valid integer, unable to parse ..."
    """

    notebook: str
    parameters: list[Parameter] | None
    literals: Mapping[str, Any]
    labels: Mapping[str, str]
    severities: Sequence[str] | None = None
    on_resolved: Route | None = None

    def start(self, labels: Mapping[str, str]) -> Start | str:
        """Return what an alert with these labels starts, or why it starts nothing."""
        if missing := [label for label in self.labels.values() if label not in labels]:
            return f"the alert has no label {missing[0]!r}, which fills a parameter of {self.notebook}"
        given = {name: labels[label] for name, label in self.labels.items()}
        for name, label in self.labels.items():
            only = [parameter for parameter in self.parameters or [] if parameter.name == name]
            try:
                check_values(only, {name: given[name]}, None, self.notebook, f"label {label!r}")
            except InputError as error:
                return str(error)
        return Start(self.notebook, {**self.literals, **given})


class Routes:
    """What each known alert starts: those that settings name, and those of the objectives of declared services.

    Raises InputError when a runbook is missing, has no such parameter or one of another type, or lets a label name a
    file or a secret.
    """

    def __init__(self, settings: Settings, project: Path) -> None:
        named = {name: _rule(rule, f"alerts.{name}", project) for name, rule in settings.alerts.items()}
        others = {alert_name(one) for one in read_all_objectives(settings, project)} - named.keys()
        usual = _rule(USUAL, "alerts", project) if others else None
        self._routes = named | {name: usual for name in others if usual}

    def on_firing(self, alert: Alert) -> Start | str:
        """Return what an alert that has begun starts, or why it starts nothing."""
        route = self._routes.get(alert.name)
        if route is None:
            return f"no runbook is set for alerts named {alert.name!r}"
        severity = alert.labels.get("severity", "")
        if route.severities is not None and severity not in route.severities:
            return f"severity {severity!r} starts nothing (those that do: {', '.join(route.severities)})"
        return route.start(alert.labels)

    def on_resolved(self, alert: Alert) -> Start | str | None:
        """Return the recovery check of an alert that has ended, or why there is none; None where none is set."""
        route = self._routes.get(alert.name)
        return route.on_resolved.start(alert.labels) if route and route.on_resolved else None

    def runbook(self, name: str) -> str | None:
        """Return the runbook of an alert's name."""
        route = self._routes.get(name)
        return route.notebook if route else None

    def reads_recording(self, name: str) -> bool:
        """Say whether the runbook of an alert's name is given a recording of the incident."""
        route = self._routes.get(name)
        return route is not None and RECORDING in [parameter.name for parameter in route.parameters or []]


def _rule(rule: AlertRule, where: str, project: Path) -> Route:
    resolved = _route(rule.on_resolved, f"{where}.on_resolved", project) if rule.on_resolved else None
    return replace(_route(rule, where, project), severities=rule.severities, on_resolved=resolved)


def _route(action: Action, where: str, project: Path) -> Route:
    origin = f"lepton.toml, {where}"
    labels = {name: value.label for name, value in action.parameters.items() if isinstance(value, FromLabel)}
    literals = {name: value for name, value in action.parameters.items() if name not in labels}
    start, parameters = checked_start(action.runbook, literals, origin, project, later=labels)
    notebook = start.notebook
    known = {parameter.name: parameter for parameter in parameters or []}
    for name in labels:
        if name not in known:
            raise InputError(f"{origin}: {notebook} has no parameter {name!r} (it has: {', '.join(known) or 'none'})")
        if known[name].holds_path or known[name].holds_secret or "Any" in known[name].annotation:
            raise InputError(
                f"{origin}: parameter {name!r} is {known[name].annotation}: a label may fill numbers, texts and "
                "choices, but no path, no secret, and nothing without a type"
            )
    return Route(notebook, parameters, literals, labels)


def checked_start(
    runbook: str,
    literals: Mapping[str, Any],
    origin: str,
    project: Path,
    *,
    later: Collection[str] = (),
    needs: str | None = None,
) -> tuple[Start, list[Parameter] | None]:
    """Return the run that a setting asks for, by the notebook's path relative to the project, and its parameters.

    `later` names the parameters that are filled later, and `needs` one that must be there. Raises an InputError that
    names the setting (`origin`).
    """
    try:
        path = locate_notebook(str(project / runbook) if (project / runbook).is_file() else runbook, project)
        notebook = name_of(path, project)
        if Path(notebook).is_absolute():
            raise InputError(f"notebook {runbook!r} is outside the project")
        parameters = read_parameters(read_notebook(path), path.name)
    except InputError as error:
        raise InputError(f"{origin}: {error}") from error
    names = [one.name for one in parameters or []]
    if needs is not None and needs not in names:
        raise InputError(f"{origin}: {notebook} has no parameter {needs!r} (it has: {', '.join(names) or 'none'})")
    rest = [one for one in parameters or [] if one.name not in {*later, RECORDING} - {*literals}]
    check_values(None if parameters is None else rest, literals, None, notebook, origin)
    return Start(notebook, dict(literals)), parameters


# --- after a diagnosis ------------------------------------------------------------------------------------------------

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
            from lepton_kit.diagnosis.remedies import in_order  # pandas: not before there is something to order

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
            likely, least = (f"{100 * one:.3g}%" for one in (probability, self._remedies.least_probability))
            return f"the diagnosis is {likely} probable, and {least} is needed (least_probability)"
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
