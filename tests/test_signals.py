"""Signals of known servers, and those that a service declares."""

from pathlib import Path

import numpy as np
import pytest

from lepton_kit.errors import InputError
from lepton_kit.models.tasks import task_of
from lepton_kit.project.settings import read_settings
from lepton_kit.serving.metrics import ServiceMetrics
from lepton_kit.telemetry.declaration import Declaration, signals_of
from lepton_kit.telemetry.scrape import parse
from lepton_kit.telemetry.selectors import parse_selector
from lepton_kit.telemetry.signals import ROLES, from_json, preset, presets, series_of, to_json

EXPOSITIONS = Path(__file__).with_name("expositions")


def exposition(name: str) -> str:
    if name != "lepton":
        return (EXPOSITIONS / f"{name}.txt").read_text(encoding="utf-8")
    metrics = ServiceMetrics()
    metrics.expect_version("v1")
    counted, task = metrics.of("v1"), task_of("interval_forecast")
    counted.note(task, ("lower", "upper"), np.array([[-0.1, 0.1]]))
    counted.note_actual(task, {"lower": -0.1, "upper": 0.1, "mean": 0.0}, 0.05)
    metrics.model.labels("goog", "v1", "current").set(2)
    metrics.fresh.labels("stale").inc()
    return metrics.text().decode()


def test_the_ten_presets_that_are_promised_are_there():
    promised = "bentoml dcgm fastapi kserve lepton node ray-serve sglang triton vllm"
    assert {*promised.split()} <= {*presets()}


@pytest.mark.parametrize("name", presets())
def test_every_selector_of_a_preset_finds_series_in_what_the_server_really_shows(name):
    samples = parse(exposition(name), {"job": "it"}, 5.0)
    assert preset(name).keys() <= ROLES.keys()
    for text in series_of(preset(name)):
        selector = parse_selector(text)
        assert any(selector.matches(one.metric, one.labels) for one in samples), text


@pytest.mark.parametrize("name", presets())
def test_a_preset_has_the_kinds_that_the_server_says(name):
    kinds = dict(line.split()[2:4] for line in exposition(name).splitlines() if line.startswith("# TYPE"))
    for role, signal in preset(name).items():
        told = {part: kinds.get(parse_selector(text).metric) for part, text in signal.parts(ROLES[role].kind).items()}
        if ROLES[role].kind == "histogram" and signal.count is None:
            assert kinds[parse_selector(signal.selector).metric] == "histogram", role
        elif ROLES[role].kind == "gauge":
            assert told["value"] == "gauge", role
        else:  # the sums and counts of a histogram are counters without a line of their own
            assert set(told.values()) <= {"counter", None}, role


def test_own_selectors_stand_above_presets_and_the_first_preset_above_the_next():
    given = Declaration(signals={"preset": ["vllm", "fastapi"], "queue_length": {"selector": "mine", "scale": 2}})
    found = signals_of(given)
    assert (found["queue_length"].selector, found["queue_length"].scale) == ("mine", 2)
    assert found["latency"].selector == "vllm:e2e_request_latency_seconds"
    assert found["invalid"].selector == 'http_requests_total{status=~"4.."}'


def test_the_labels_of_a_service_narrow_its_series_and_not_those_of_the_machine():
    found = signals_of(Declaration(signals=["triton", "node"]), {"job": "chat"})
    assert found["latency"].parts("histogram") == {
        "sum": 'nv_inference_request_duration_us{job="chat"}',
        "count": 'nv_inference_request_success{job="chat"}',
    }
    assert found["idle_seconds"].selector == 'node_cpu_seconds_total{mode="idle"}'


def test_a_service_that_declares_nothing_is_only_known_to_be_up():
    assert list(signals_of(Declaration())) == ["up"]


def test_signals_are_kept_as_json_and_roles_of_a_later_time_are_left_out():
    found = signals_of(Declaration(signals=["triton", "dcgm"]))
    assert from_json({**to_json(found), "later": {"selector": "x"}}) == found
    with pytest.raises(InputError, match="signals"):
        from_json({"latency": {"selector": "rate(x[5m])"}})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ('signals = "vllmm"', r"services\.chat\.signals\.preset.*'vllmm'.*must be one of bentoml, dcgm"),
        ('signals = { que = "x" }', r"services\.chat\.signals'.*'que'.*must be preset, or one of up, queue_length"),
        ('signals = { memory = "rate(x[5m])" }', r"services\.chat\.signals\.memory.*not plain selectors"),
    ],
)
def test_a_mistake_is_named_with_its_key_and_what_is_allowed(tmp_path, given, said):
    (tmp_path / "lepton.toml").write_text(f"[services.chat]\n{given}\n", encoding="utf-8")
    with pytest.raises(InputError, match=said):
        read_settings(tmp_path)
