"""What follows on a diagnosis by the settings: which repair, and whether it waits for a person."""

import json

import pytest
from helpers import ROOT, write_notebook
from repairs import SETTINGS, project_with_repairs

from lepton_kit.errors import InputError
from lepton_kit.ops.watch.app import watch
from lepton_kit.ops.watch.policy import Policy
from lepton_kit.project.settings import read_settings
from lepton_kit.runs.manifest import Result
from lepton_kit.telemetry.slo import read_objectives

COMPUTE = {"cause": Result(value="compute"), "probability": Result(value=0.99)}


@pytest.fixture
def repaired(project):
    return project_with_repairs(project)


def proposals(project, **said):
    results = {name: Result(value=value) for name, value in ({"probability": 0.99} | said).items()}
    made = Policy(read_settings(project), project).proposals(results)
    return {one.cause: one.why for one in made}


def test_a_cause_starts_its_remedy_by_itself_or_asks_as_its_policy_says(repaired):
    assert proposals(repaired, cause="compute") == {"compute": ""}
    assert proposals(repaired, cause="data") == {"data": "the policy of this cause is to ask"}


@pytest.mark.parametrize("cause", ["none", "unknown", "model", "nonsense", None, 3])
def test_without_a_fault_or_a_remedy_for_it_nothing_follows(repaired, cause):
    assert proposals(repaired, cause=cause) == {}


def test_a_diagnosis_that_asks_for_no_remedy_gets_none(repaired):
    assert (
        proposals(repaired, cause="compute", remedy=None) == proposals(repaired, cause="compute", remedy="none") == {}
    )
    assert proposals(repaired, cause="compute", remedy="repair-capacity") == {"compute": ""}


@pytest.mark.parametrize(
    ("declared", "why"),
    [
        ({}, "no action scale or restart is declared"),
        ({"scale": ["true", "{workers}"]}, ""),
        ({"restart": ["true"]}, ""),
    ],
)
def test_a_repair_that_no_action_makes_waits_for_a_person_whatever_the_policy(repaired, declared, why):
    actions = "".join(f"{name} = {json.dumps(words)}\n" for name, words in declared.items())
    (repaired / "lepton.toml").write_text(f"{SETTINGS}\n[services.goog.actions]\n{actions}")
    made = Policy(read_settings(repaired), repaired).proposals(COMPUTE, service="goog")
    assert [one.why for one in made] == [why]


@pytest.mark.parametrize(
    ("declared", "why"),
    [
        (["roll_back"], "roll_back cannot be undone: no action deploy is declared"),
        (["roll_back", "deploy"], ""),
        (["deploy"], ""),
        ([], "no action roll_back or deploy or restart is declared"),
    ],
)
def test_what_nothing_takes_back_is_never_left_to_the_policy(repaired, declared, why):
    settings = SETTINGS.replace("[remedies.data]", "[remedies.model]").replace('policy = "ask"', 'policy = "auto"')
    actions = "".join(f"{name} = ['true']\n" for name in declared)
    (repaired / "lepton.toml").write_text(f"{settings}\n[services.goog.actions]\n{actions}")
    results = COMPUTE | {"cause": Result(value="model")}
    assert [one.why for one in Policy(read_settings(repaired), repaired).proposals(results, service="goog")] == [why]


@pytest.mark.parametrize("also", [["data"], "data", ["data", "compute", "none"]])
def test_two_causes_are_repaired_one_after_the_other_and_each_once(repaired, also):
    assert list(proposals(repaired, cause="compute", also=also)) == ["compute", "data"]


def test_the_repair_that_acts_on_the_objective_that_alerted_comes_first_if_it_is_probable_itself(repaired):
    ranking = {"columns": ["cause", "probability"], "rows": [["data", 0.99], ["compute", 0.6]]}
    results = {"cause": "data", "also": ["compute"], "probability": 0.99, "ranking": ranking}
    recorded = {name: Result(value=value) for name, value in results.items()}
    objectives = {one.name: one for one in read_objectives(ROOT / "slo/goog")}
    policy = Policy(read_settings(repaired), repaired)

    def order(objective):
        return [one.cause for one in policy.proposals(recorded, objective)]

    assert order(None) == order(objectives["goog-freshness"]) == ["data", "compute"]
    assert order(objectives["goog-latency"]) == order(objectives["goog-availability"]) == ["compute", "data"]
    first = policy.proposals(recorded, objectives["goog-latency"])[0]
    assert first.why == "the diagnosis is 60% probable, and 80% is needed (least_probability)"


@pytest.mark.parametrize(
    ("probability", "why"),
    [
        (0.8, ""),
        (0.79, "the diagnosis is 79% probable, and 80% is needed"),
        (float("nan"), "80% is needed"),
        (None, "did not say how probable"),
        ("high", "did not say how probable"),
        (True, "did not say how probable"),
    ],
)
def test_a_diagnosis_that_is_not_probable_enough_waits_for_a_person(repaired, probability, why):
    told = proposals(repaired, cause="compute", probability=probability)["compute"]
    assert why in told
    assert bool(told) == bool(why)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("repair.ipynb", "none.ipynb", ["remedies.data", "none.ipynb"]),
        ('what = "data"', "whta = 1", ["remedies.data", "'whta'", "did you mean 'what'"]),
        ("repair.ipynb", "diagnose.ipynb", ["remedies.data", "has no parameter 'service'", "says"]),
        ('"ask"', '"sometimes"', ["remedies.data.policy", "sometimes"]),
        ("most_per_hour = 3", "most_per_hour = -1", ["remedies.most_per_hour", "-1"]),
        ("most_per_hour", "most_per_day", ["remedies.most_per_day"]),
        ("[remedies]", "[postmortem]\nrunbook = 'gone.ipynb'\n[remedies]", ["postmortem", "gone.ipynb"]),
    ],
)
def test_a_wrong_remedy_is_one_clear_error_at_the_start(repaired, old, new, words):
    (repaired / "lepton.toml").write_text(SETTINGS.replace(old, new, 1))
    with pytest.raises(InputError) as told:
        watch(repaired, "127.0.0.1", 0, insecure=False, announce=print)
    for word in words:
        assert word in str(told.value)
    assert not (repaired / "incidents").exists()


def test_a_variable_stands_above_the_policy_of_each_cause_and_leaves_the_rest(repaired, monkeypatch):
    monkeypatch.setenv("LEPTON_REMEDIES", "most_per_hour = 50\ndata.policy = 'auto'")
    made = read_settings(repaired).remedies
    assert (made.most_per_hour, made.data.policy, made.data.parameters) == (50, "auto", {"what": "data"})
    assert (made.compute.policy, made.model) == ("auto", None)


@pytest.mark.parametrize(
    ("above", "told"),
    [
        ("most_per_hour = ", "variable LEPTON_REMEDIES: not TOML"),
        ("data.policy = 'never'", "remedies.data.policy.*'never'.*from the variable LEPTON_REMEDIES"),
        ("most_per_hour = -1", "-1.*from the variable LEPTON_REMEDIES"),
    ],
)
def test_a_wrong_variable_is_named_as_what_is_wrong(repaired, monkeypatch, above, told):
    monkeypatch.setenv("LEPTON_REMEDIES", above)
    with pytest.raises(InputError, match=told):
        read_settings(repaired)


def test_what_the_file_says_wrongly_is_not_blamed_on_the_variable(repaired, monkeypatch):
    monkeypatch.setenv("LEPTON_REMEDIES", "most_per_hour = 5")
    (repaired / "lepton.toml").write_text(SETTINGS.replace('"ask"', '"sometimes"'))
    with pytest.raises(InputError, match="sometimes") as told:
        read_settings(repaired)
    assert "LEPTON_REMEDIES" not in str(told.value)


def test_the_postmortem_is_checked_with_what_it_will_be_given(repaired):
    write_notebook(repaired / "runbooks/look.ipynb", ["1"], "history: Path = 'x'\nrows: int = 1")
    text = SETTINGS + '[postmortem]\nrunbook = "runbooks/look.ipynb"\nparameters = { rows = 2 }\n'
    (repaired / "lepton.toml").write_text(text)
    start = Policy(read_settings(repaired), repaired).postmortem
    assert (start.notebook, start.parameters) == ("runbooks/look.ipynb", {"rows": 2})
