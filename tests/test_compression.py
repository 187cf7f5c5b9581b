"""The advisor: smaller forms of any model, what they cost and gain, which is recommended, and how it is registered."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from models_of_others import COLUMNS, NUMBERS, classifier, keep_onnx, keep_skops, people
from models_sample import google_prices
from sklearn.linear_model import LogisticRegression

from lepton_kit.data.contracts import Contract
from lepton_kit.errors import InputError
from lepton_kit.models import compression
from lepton_kit.models.baselines import ConstantVolatility, EwmaVolatility
from lepton_kit.models.compression import (
    BATCH,
    ORIGINAL,
    Advice,
    advise,
    candidates,
    compressed_card,
    may_stand_in,
    measure,
    pays_from,
    sweep,
)
from lepton_kit.models.conversion import FORMS, as_onnx
from lepton_kit.models.distillation import distil
from lepton_kit.models.evaluation import Bootstrap, gate, losses
from lepton_kit.models.fitting import fit
from lepton_kit.models.flavors import load_model
from lepton_kit.models.footprint import STATUS
from lepton_kit.models.forecasters import Network
from lepton_kit.models.golden import golden_deviation, golden_examples
from lepton_kit.models.registry import Registry
from lepton_kit.models.tasks import TASKS
from lepton_kit.models.training import Examples, TrainingSettings
from subjects.prices.examples import examples, train

ROWS = Bootstrap(samples=500, block=1)


@pytest.fixture(scope="module")
def parts():
    return {part: examples(google_prices(), part) for part in ("train", "validation", "test")}


@pytest.fixture(scope="module")
def teacher():
    return train(google_prices(), TrainingSettings("gru", epochs=6)).forecaster


@pytest.fixture(scope="module")
def student(teacher, parts):
    return distil(teacher, parts["train"].features)


@pytest.fixture(scope="module")
def opponents(parts):
    return {"constant volatility": ConstantVolatility.fitted(parts["train"]), "EWMA volatility": EwmaVolatility()}


def judged(teacher, student, test, opponents):
    """Return the gate's word on a student, on days that neither has seen."""
    others = {ORIGINAL: teacher, **opponents}
    daily = {who: losses(one, test.features, test.target) for who, one in others.items()}
    return gate(losses(student, test.features, test.target), daily)


def widened(forecaster, factor):
    """Return a copy of a forecaster whose intervals are wider, or narrower."""
    network = Network(forecaster.architecture)
    network.load_state_dict(forecaster.network.state_dict())
    with torch.no_grad():
        network.log_std.bias.add_(np.log(factor))
    return replace(forecaster, network=network)


def table(**given):
    """Return a table as `measure` gives it: of each candidate its upper loss, time for a batch, and bytes."""
    rows = [
        {"candidate": name.replace("_", " "), "lost": upper - 0.01, "lower": upper - 0.02, "upper": upper,
         "us_per_row": 10.0, "us_per_batch": us, "memory_kib": 100.0, "bytes": size}
        for name, (upper, us, size) in {"original": (0.0, 100.0, 1000), **given}.items()
    ]  # fmt: skip
    return pd.DataFrame(rows)


# --- candidates and what they cost ------------------------------------------------------------------------------------


def test_a_classifier_of_another_maker_has_smaller_forms_measured_side_by_side(tmp_path):
    rows = people(900)
    model = load_model(keep_skops(tmp_path / "m", classifier(rows[:500])))
    made, refused = candidates(model, rows[COLUMNS][:500], tmp_path / "made")
    assert set(made) == {"float32", "distilled linear", "distilled mlp 4"}
    assert set(refused) == {"float16", "int8", "pruned 1/2", "pruned 1/4"}
    assert "no hidden units" in refused["pruned 1/2"] and "no dense layer" in refused["int8"]
    held_out = Examples(rows[COLUMNS][500:], rows["actual"][500:])
    measured = measure({ORIGINAL: model, **made}, held_out, ROWS, repeats=5).set_index("candidate")
    own = model.task.loss(model.predict(held_out.features), held_out.target).mean()
    assert measured.loc[ORIGINAL, ["loss", "lost", "lower", "upper"]].tolist() == pytest.approx([own, 0, 0, 0])
    assert (measured["lower"] <= measured["lost"]).all() and (measured["lost"] <= measured["upper"]).all()
    assert (measured[["us_per_row", "us_per_batch", "bytes"]] > 0).all(axis=None)
    size = sum(path.stat().st_size for path in (tmp_path / "made/float32").iterdir())
    assert measured.loc["float32", "bytes"] == size
    chosen = advise(measured.reset_index(), "bytes")
    assert chosen.reason == "pays" and measured.loc[chosen.candidate, "upper"] < 0.05


def test_a_graph_is_not_offered_in_single_precision_once_more(tmp_path):
    rows = people()
    fitted = LogisticRegression().fit(rows[NUMBERS].to_numpy(), rows["actual"])
    model = load_model(keep_onnx(tmp_path / "m", fitted, NUMBERS))
    made, refused = candidates(model, rows[NUMBERS], tmp_path / "made")
    assert refused["float32"] == "it is an ONNX graph already"
    assert {"float16", "int8", "distilled linear"} <= set(made)


def test_a_forecaster_keeps_its_files_when_it_is_distilled_and_is_a_graph_otherwise(teacher, parts, tmp_path):
    made, refused = candidates(teacher, parts["train"].features, tmp_path)
    assert set(made) == {"float32", "float16", "distilled linear", "distilled mlp 4"}
    assert "8-bit kernels" in refused["int8"]  # its weights are mostly recurrent
    kinds = {name: type(one).__name__ for name, one in made.items()}
    assert kinds["distilled linear"] == "Forecaster" and kinds["float32"] == "LoadedModel"


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    """The kit's own trees, of columns whose names are no identifiers, and the rows that they learnt from."""
    names = {"age": "größe", "income": "credit amount", "colour": "colour"}
    rows = people(400).rename(columns=names)
    contract = Contract(("größe", "credit amount"), ("colour",), target="actual", is_class=True)
    learnt = Examples(rows[list(names.values())], rows["actual"])
    return fit("trees", learnt, contract, TASKS["classification_binary"], tmp_path_factory.mktemp("trees")), learnt


def test_the_trees_of_the_kit_become_graphs_that_answer_alike_whatever_their_columns_are_called(trees, tmp_path):
    model, learnt = trees
    made, refused = candidates(model, learnt.features, tmp_path)
    assert {"float32", "distilled linear", "distilled mlp 4"} <= set(made)
    fresh = people(300, seed=3).rename(columns=dict(zip(COLUMNS, model.columns, strict=True)))
    graph, own = (one.predict(fresh)["proba"] for one in (made["float32"], model))
    assert ((graph - own).abs() < 1e-5).mean() > 0.98  # a value that lies on a split may fall to its other side
    assert refused["int8"] == "it has no dense layer to quantise"


def test_the_memory_of_trees_is_measured_where_openmp_may_use_several_threads(trees, monkeypatch):
    model, learnt = trees
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    memory = measure({ORIGINAL: model}, learnt, ROWS, repeats=1)["memory_kib"]
    assert memory.notna().all() or not STATUS.is_file()


def test_memory_that_is_not_measured_in_time_is_not_a_number_and_said(trees, monkeypatch):
    model, learnt = trees
    monkeypatch.setattr(compression, "MEMORY_S", 0.01)
    with pytest.warns(UserWarning, match="not measured: it took over"):
        assert measure({ORIGINAL: model}, learnt, ROWS, repeats=1)["memory_kib"].isna().all()


def test_a_form_that_cannot_be_asked_is_refused(tmp_path, monkeypatch):
    rows = people()
    model = load_model(keep_skops(tmp_path / "m", classifier(rows)))
    of_numbers = load_model(keep_onnx(tmp_path / "n", LogisticRegression().fit(rows[NUMBERS], rows["actual"]), NUMBERS))
    broken = as_onnx(of_numbers)  # a graph of other columns
    monkeypatch.setitem(FORMS, "float32", lambda graph, _: broken)
    made, refused = candidates(model, rows[COLUMNS], tmp_path / "made")
    assert "float32" in refused and "float32" not in made and "distilled linear" in made


def test_a_table_begins_with_the_original(teacher, parts):
    with pytest.raises(InputError, match="'original' comes first"):
        measure({"small": teacher}, parts["test"])


# --- the advice -----------------------------------------------------------------------------------------------------


def test_the_candidate_that_gains_most_without_losing_is_chosen_with_its_figures():
    found = advise(table(int8=(0.01, 40.0, 300), float32=(0.0, 20.0, 500), distilled=(0.3, 5.0, 100)))
    assert (found.candidate, found.reason) == ("float32", "pays")
    assert found.figures["gain"] == found.figures["us_per_batch"] == 5.0
    assert (found.figures["upper"], found.figures["bytes"]) == (0.0, 2.0)


def test_of_those_that_gain_nearly_as_much_the_one_that_loses_least_is_chosen():
    assert advise(table(worse=(0.04, 20.0, 1), better=(0.01, 21.0, 1))).candidate == "better"


def test_none_is_advised_where_8_bits_are_slower_than_32_for_so_small_a_model():
    found = advise(table(int8=(0.01, 150.0, 300)))
    assert (found.candidate, found.reason, found.nearest) == (None, "gains too little", "int8")
    assert found.figures["gain"] < 1
    assert str(found).startswith("none: int8 needs more time for 256 rows than the original")


def test_none_is_advised_where_all_that_gain_lose_too_much():
    found = advise(table(pruned=(0.2, 10.0, 300), int8=(0.0, 90.0, 300)))
    assert (found.candidate, found.reason, found.nearest) == (None, "loses too much", "pruned")
    assert "its loss is +19.0%" in str(found)


def test_another_goal_has_another_answer():
    measured = table(int8=(0.0, 150.0, 100), float32=(0.0, 40.0, 600))
    assert [advise(measured, goal).candidate for goal in ("us_per_batch", "bytes")] == ["float32", "int8"]
    assert advise(measured, "memory_kib").candidate is None


def test_memory_below_a_page_counts_as_a_page_and_unknown_memory_is_no_goal():
    measured = table(int8=(0.0, 150.0, 100))
    found = advise(measured.assign(memory_kib=[40.0, 0.0]), "memory_kib")
    assert (found.candidate, found.figures["gain"]) == ("int8", 10.0)
    assert advise(measured.assign(memory_kib=0.0), "memory_kib").reason == "gains too little"
    with pytest.raises(InputError, match="memory cannot be measured on this system: choose goal us_per_batch"):
        advise(measured.assign(memory_kib=np.nan), "memory_kib")
    assert advise(measured.assign(memory_kib=np.nan), "bytes").candidate == "int8"


@pytest.mark.parametrize("unknown", [np.nan, np.inf])
def test_a_loss_that_is_no_share_of_a_perfect_original_is_not_judged(unknown):
    found = advise(table(int8=(unknown, 10.0, 300)))
    assert (found.candidate, found.reason, found.nearest) == (None, "not judged", "int8")
    assert "not judged" in str(found) and "nan" not in str(found) and "inf" not in str(found)


def test_a_model_without_a_smaller_form_is_said_to_have_none():
    found = advise(table())
    assert (found.candidate, found.reason, found.nearest) == (None, "no candidate", None)
    assert str(found) == "none: the model has no smaller form here"


@pytest.mark.parametrize("wrong", [{"goal": "beauty"}, {"least_gain": 0.5}, {"margin": -0.1}])
def test_a_bad_limit_is_refused_by_name(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        advise(table(int8=(0.0, 50.0, 100)), **wrong)


def test_a_sweep_measures_each_form_at_each_width_and_tells_from_where_8_bits_save_room(tmp_path):
    swept = sweep([4, 64], tmp_path, columns=3, repeats=2)
    assert swept.groupby("width").size().tolist() == [4, 4]
    assert (swept.loc[swept["form"] == "float32", "faster"] == 1).all()
    sizes = swept.set_index(["width", "form"])["bytes"]
    assert sizes[4, "int8"] > sizes[4, "float32"] and sizes[64, "int8"] < sizes[64, "float32"]


def test_a_form_pays_from_the_width_after_which_it_never_loses_again():
    swept = pd.DataFrame({"width": [8, 32, 128, 512], "form": "int8", "faster": [1.3, 0.7, 1.5, 2.0]})
    assert pays_from(swept, "int8") == 128
    assert pays_from(swept, "int8", least_gain=1.8) == 512
    assert pays_from(swept, "int8", least_gain=3) is pays_from(swept, "float16") is None


def test_measuring_leaves_torch_as_it_was(tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        sweep([4], tmp_path, columns=3, repeats=1)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


def test_a_batch_is_answered_faster_by_a_linear_student_than_by_its_recurrent_teacher(teacher, student, parts):
    """Measured side by side: ten steps after one another against one product, several times as long."""
    measured = measure({ORIGINAL: teacher, "linear": student}, parts["validation"]).set_index("candidate")
    assert BATCH == 256
    assert measured.loc[ORIGINAL, "us_per_batch"] > 1.5 * measured.loc["linear", "us_per_batch"]


# --- standing in ------------------------------------------------------------------------------------------------------


def test_a_close_student_may_stand_in(teacher, student, parts, opponents):
    assert may_stand_in(judged(teacher, student, parts["test"], opponents))


def test_a_student_that_says_something_else_may_not_stand_in(teacher, student, parts, opponents):
    """Intervals half as wide: worse than the teacher, and than any naive forecast."""
    found = judged(teacher, widened(student, 0.5), parts["test"], opponents)
    assert not may_stand_in(found) and found.verdicts[0].relative.lower > 0.05
    assert not found.promote


def test_a_student_that_is_as_good_as_a_poor_teacher_may_not_stand_in(teacher, student, parts, opponents):
    found = judged(*(widened(one, 0.5) for one in (teacher, student)), parts["test"], opponents)
    assert found.verdicts[0].relative.upper < 0.05 and not may_stand_in(found)


def test_a_student_that_was_asked_no_naive_forecast_is_not_judged(teacher, student, parts):
    with pytest.raises(InputError, match="at least one naive model"):
        may_stand_in(judged(teacher, student, parts["test"], {}))


def advice(candidate):
    return Advice(candidate, "pays", candidate, "us_per_batch", 2.0, 0.05, {})


def test_a_compressed_version_is_found_by_its_original(teacher, student, parts, tmp_path):
    shelf = Registry(tmp_path / "models")
    card = {"run_id": "run-1", "limits": "one series", "data": {"sha256": "a"}, "parameters": {"model": "gru"}}
    golden = {one: golden_examples(forecaster, parts["test"].features) for one, forecaster in
              (("teacher", teacher), ("student", student))}  # fmt: skip
    first = shelf.save("goog", teacher, card, golden["teacher"])
    shelf.promote("goog", first, "run-1", "the first")
    assert shelf.compressed("goog") is None
    own = compressed_card(shelf.card("goog", first), first, advice("distilled linear"), student, may_stand_in=True)
    second = shelf.save("goog", student, {**own, "run_id": "run-2"}, golden["student"])
    assert shelf.compressed("goog") == shelf.compressed("goog", first) == second
    assert shelf.compressed("goog", second) is None
    assert shelf.current("goog") == first
    assert golden_deviation(shelf.load("goog", second), shelf.golden("goog", second)) == 0


def test_a_compressed_graph_of_another_maker_is_registered_as_any_version(tmp_path):
    rows, shelf = people(), Registry(tmp_path / "models")
    model = load_model(keep_skops(tmp_path / "m", classifier(rows)))
    first = shelf.save("scoring", model, {"data": None, "subject": "scoring"})
    made, _ = candidates(model, rows[COLUMNS], tmp_path / "made")
    own = compressed_card(shelf.card("scoring", first), first, advice("float32"), made["float32"])
    second = shelf.save("scoring", made["float32"], own, golden_examples(made["float32"], rows[COLUMNS]))
    assert shelf.compressed("scoring", first) == second
    assert golden_deviation(shelf.load("scoring", second), shelf.golden("scoring", second)) == 0
    assert shelf.card("scoring", second)["subject"] == "scoring"


def test_the_card_of_a_compressed_version_says_whence_it_is_and_what_it_costs(student):
    given = {"name": "goog", "created": "2026-01-01", "run_id": "run-1", "limits": "one series", "data": {"x": 1}}
    given["parameters"] = {"model": "gru", "seed": 4}
    card = compressed_card(given, "v3", advice("distilled linear"), student, loss={"mean": 0.01})
    assert card["compressed_from"] == "v3" and card["data"] == {"x": 1}
    assert card["parameters"] == {"model": "linear", "seed": 4, "width": 2}
    assert card["limits"].startswith("one series; distilled linear of v3")
    assert card["compression"] == {"candidate": "distilled linear", "loss": {"mean": 0.01}}
    assert not {"name", "created", "run_id"} & set(card)


def test_the_newest_of_several_compressed_versions_is_found(teacher, tmp_path, parts):
    shelf = Registry(tmp_path / "models")
    small = [distil(teacher, parts["train"].features, "mlp", width, steps=5) for width in (1, 2, 3)]
    saved = [
        shelf.save("goog", one, {"compressed_from": of}) for one, of in zip(small, ("v1", "v1", "v9"), strict=True)
    ]
    assert shelf.compressed("goog", "v1") == saved[1]
    with pytest.raises(InputError, match="no version 'v9'"):
        shelf.compressed("goog", "v9")
