import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from models_sample import google_prices

from lepton_kit.data.profiles import read_profile
from lepton_kit.errors import InputError
from lepton_kit.models.flavors import PROFILE
from lepton_kit.models.forecasters import Architecture, model_columns, untrained
from lepton_kit.models.golden import golden_deviation, golden_examples
from lepton_kit.models.registry import Registry, read_candidate
from subjects.prices.features import price_features

FILES = ["model.safetensors", "scaler.json", "architecture.json", "card.json", "golden.parquet"]


@pytest.fixture(scope="module")
def features():
    return price_features(google_prices())


def model(features, seed=0):
    torch.manual_seed(seed)
    return untrained(Architecture("mlp", model_columns(features), 4), features, level=0.02)


@pytest.fixture
def shelf(tmp_path):
    return Registry(tmp_path / "models")


def save(shelf, features, seed=0):
    made = model(features, seed)
    return shelf.save("goog", made, {"run_id": f"run-{seed}"}, golden_examples(made, features))


def test_a_saved_version_can_be_loaded_and_answers_as_before(shelf, features):
    version = save(shelf, features)
    assert version == "v1"
    assert golden_deviation(shelf.load("goog", "v1"), shelf.golden("goog", "v1")) == 0
    card = shelf.card("goog", "v1")
    assert card["run_id"] == "run-0" and card["name"] == "goog" and card["created"].endswith("+00:00")


def test_versions_are_counted_and_listed_oldest_first(shelf, features):
    assert [save(shelf, features, seed) for seed in range(11)] == [f"v{n}" for n in range(1, 12)]
    assert shelf.versions("goog")[-2:] == ["v10", "v11"]


def test_the_very_same_model_saved_again_is_not_kept_twice(shelf, features):
    save(shelf, features, 0), save(shelf, features, 1)
    assert save(shelf, features, 0) == "v1"
    assert shelf.versions("goog") == ["v1", "v2"]


def test_the_same_weights_learnt_from_other_data_are_another_version(shelf, features):
    """Else a card would go on naming data that the model was not judged on."""
    made = model(features)
    saved = [shelf.save("goog", made, {"data": {"sha256": sha}}) for sha in ("a", "b", "a", "b")]
    assert saved == ["v1", "v2", "v1", "v2"]
    assert shelf.card("goog", "v2")["data"] == {"sha256": "b"}


def test_the_sums_are_those_of_sha256sum(shelf, features):
    save(shelf, features)
    checked = subprocess.run(
        ["sha256sum", "--check", "--strict", "SHA256SUMS"],
        cwd=shelf.folder("goog", "v1"),
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0
    assert checked.stdout.count(": OK") == len(FILES)


@pytest.mark.parametrize("file", FILES)
def test_one_byte_changed_is_refused_and_the_file_is_named(shelf, features, file):
    path = shelf.root / "goog" / save(shelf, features) / file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"{file}: has been changed"):
        shelf.load("goog", "v1")


def test_a_missing_or_added_file_is_refused_by_name(shelf, features):
    folder = shelf.root / "goog" / save(shelf, features)
    (folder / "extra.pkl").write_text("")
    with pytest.raises(InputError, match=r"extra.pkl: not listed"):
        shelf.verify("goog", "v1")
    (folder / "extra.pkl").unlink()
    (folder / "card.json").unlink()
    with pytest.raises(InputError, match=r"card.json: missing"):
        shelf.verify("goog", "v1")


@pytest.mark.parametrize(
    ("sums", "message"),
    [("", "does not list"), ("nonsense\n", "is not '<sha256>"), (f"{'0' * 64}  ../../secret\n", "is not '<sha256>")],
)
def test_damaged_sums_are_refused(shelf, features, sums, message):
    folder = shelf.root / "goog" / save(shelf, features)
    (folder / "SHA256SUMS").write_text(sums)
    with pytest.raises(InputError, match=message):
        shelf.verify("goog", "v1")


def test_a_version_without_sums_is_refused(shelf, features):
    (shelf.root / "goog" / save(shelf, features) / "SHA256SUMS").unlink()
    with pytest.raises(InputError, match=r"SHA256SUMS: no such file"):
        shelf.load("goog", "v1")


def test_a_version_holds_the_profile_of_all_rows_it_learnt_from(shelf, features):
    learnt = features.assign(actual=0.0)
    version = shelf.save("goog", model(features), {}, reference=learnt)
    profile = read_profile(shelf.verify("goog", version) / PROFILE)
    assert profile.rows == len(learnt)
    assert profile.columns["return_0"].known == learnt["return_0"].notna().sum()


def test_nothing_is_current_before_a_promotion(shelf, features):
    save(shelf, features)
    assert shelf.current("goog") is None and shelf.incumbent("goog", "v1") is None
    with pytest.raises(InputError, match="no version has been promoted"):
        shelf.load("goog")


def test_a_promotion_is_current_and_remembered(shelf, features):
    save(shelf, features)
    shelf.promote("goog", "v1", "run-7", "better")
    assert shelf.current("goog") == "v1"
    assert shelf.load("goog").architecture.model == "mlp"
    (entry,) = shelf.history("goog")
    assert (entry["action"], entry["version"], entry["run_id"], entry["reason"]) == ("promote", "v1", "run-7", "better")


def test_promoting_what_is_current_changes_nothing(shelf, features):
    save(shelf, features)
    shelf.promote("goog", "v1", "run-7", "better")
    shelf.promote("goog", "v1", "run-8", "better still")
    assert len(shelf.history("goog")) == 1


def test_a_damaged_version_is_not_promoted(shelf, features):
    (shelf.root / "goog" / save(shelf, features) / "model.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match=r"model.safetensors: has been changed"):
        shelf.promote("goog", "v1", "run", "why")
    assert shelf.current("goog") is None and shelf.history("goog") == []


def test_a_candidate_meets_the_same_incumbent_before_and_after_its_promotion(shelf, features):
    save(shelf, features, 0), save(shelf, features, 1)
    shelf.promote("goog", "v1", "run", "first")
    assert shelf.incumbent("goog", "v2") == "v1"
    shelf.promote("goog", "v2", "run", "second")
    assert shelf.incumbent("goog", "v2") == "v1"
    assert shelf.incumbent("goog", "v3") == "v2"


def test_a_rollback_goes_to_the_version_before_and_not_back_and_forth(shelf, features):
    for seed in range(3):
        shelf.promote("goog", save(shelf, features, seed), "run", "better")
    assert shelf.rollback("goog", "run", "bad") == "v2"
    assert shelf.current("goog") == "v2" and shelf.incumbent("goog", "v4") == "v2"
    assert shelf.rollback("goog", "run", "worse") == "v1"
    with pytest.raises(InputError, match="no earlier version"):
        shelf.rollback("goog", "run", "worst")
    assert shelf.current("goog") == "v1"
    assert [entry["action"] for entry in shelf.history("goog")] == ["promote"] * 3 + ["rollback"] * 2


def test_a_rollback_to_a_damaged_version_is_refused(shelf, features):
    for seed in range(2):
        shelf.promote("goog", save(shelf, features, seed), "run", "better")
    (shelf.folder("goog", "v1") / "scaler.json").write_text("{}")
    with pytest.raises(InputError, match=r"scaler.json"):
        shelf.rollback("goog", "run", "bad")
    assert shelf.current("goog") == "v2"


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        "7",
        '{"action": "promote"}',
        '{"action": "eat", "version": "v1"}',
        '{"action": "promote", "version": "../v1"}',
        '{"action": "promote", "version": 1}',
    ],
)
def test_a_damaged_line_of_the_history_is_named(shelf, features, line):
    shelf.promote("goog", save(shelf, features), "run", "why")
    with (shelf.root / "goog" / "history.jsonl").open("a") as history:
        history.write(line + "\n")
    for ask in (shelf.history, lambda name: shelf.incumbent(name, "v2"), lambda name: shelf.rollback(name, "r", "why")):
        with pytest.raises(InputError, match=r"history\.jsonl: line 2 .* is not a promotion or rollback"):
            ask("goog")


def test_a_rollback_of_nothing_in_the_history_is_refused(shelf, features):
    save(shelf, features)
    (shelf.root / "goog" / "history.jsonl").write_text('{"action": "rollback", "version": "v1"}\n')
    with pytest.raises(InputError, match=r"history\.jsonl: holds a rollback with no promotion before it"):
        shelf.incumbent("goog", "v1")


@pytest.mark.parametrize("ask", ["current", "load", "rollback"])
def test_a_damaged_history_names_itself_to_all_who_ask_for_the_current_version(shelf, features, ask):
    shelf.promote("goog", save(shelf, features), "run", "why")
    (shelf.root / "goog" / "history.jsonl").write_bytes(b"\xff\xfe")
    more = ("run", "why") if ask == "rollback" else ()
    with pytest.raises(InputError, match=r"history\.jsonl: line 1 .* is not a promotion or rollback"):
        getattr(shelf, ask)("goog", *more)


@pytest.mark.parametrize(("step", "more", "after"), [("promote", ["v3"], "v3"), ("rollback", [], "v1")])
def test_a_kill_at_any_moment_leaves_the_version_before_or_the_one_after(shelf, features, tmp_path, step, more, after):
    versions = [save(shelf, features, seed) for seed in range(3)]
    for version in versions[:2]:
        shelf.promote("goog", version, "run", "better")
    found, was_killed = set(), True
    while was_killed:
        moment = len(list(tmp_path.glob("killed-*")))
        home = tmp_path / f"killed-{moment}"
        shutil.copytree(shelf.root, home)
        was_killed = killed_at(moment, lambda home=home: getattr(Registry(home), step)("goog", *more, "run", "why"))
        left = Registry(home)
        found.add(current := left.current("goog"))
        assert left.history("goog")[-1]["version"] == current
        if current != "v1":
            assert left.rollback("goog", "run", "bad") != current
    assert found == {"v2", after}


def killed_at(moment, act):
    """Do something in a forked process that kills itself at its n-th file operation; say whether it came that far."""
    if child := os.fork():
        _, status = os.waitpid(child, 0)
        assert status in (0, signal.SIGKILL)
        return status != 0
    seen = itertools.count()

    def hook(event, _):
        if event in ("open", "os.rename", "os.chmod") and next(seen) == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    try:
        sys.addaudithook(hook)
        act()
        os._exit(0)
    finally:
        os._exit(1)


def test_a_rollback_returns_another_version_or_says_that_there_is_none(shelf, features):
    save(shelf, features, 0), save(shelf, features, 1)
    history = shelf.root / "goog" / "history.jsonl"
    twice = '{"action": "promote", "version": "v2"}\n' * 2  # as an earlier kit left it after a kill
    history.write_text('{"action": "promote", "version": "v1"}\n' + twice)
    assert shelf.rollback("goog", "run", "bad") == "v1" == shelf.current("goog")
    history.write_text(twice)
    with pytest.raises(InputError, match="no earlier version"):
        shelf.rollback("goog", "run", "bad")
    assert shelf.current("goog") == "v2"


@pytest.mark.parametrize("name", ["", "../goog", "Goog", "a/b", ".hidden"])
def test_a_name_that_is_not_a_folder_of_the_registry_is_refused(shelf, features, name):
    with pytest.raises(InputError, match="model name"):
        shelf.save(name, model(features), {})
    assert not shelf.root.exists()


@pytest.mark.parametrize("version", ["v2", "v0", "../v1", ""])
def test_an_unknown_version_is_refused_with_those_there_are(shelf, features, version):
    save(shelf, features)
    with pytest.raises(InputError, match="there are v1"):
        shelf.folder("goog", version)


def test_a_failed_save_leaves_nothing_behind(shelf, features):
    with pytest.raises(TypeError):
        shelf.save("goog", model(features), {"not for JSON": object()})
    assert [path.name for path in (shelf.root / "goog").iterdir()] == [".lock"]


def test_saves_at_the_same_time_do_not_collide(shelf, features):
    """Threads do here: each opens the lock anew, as each process would."""
    models = [model(features, seed) for seed in (1, 2, 3, 4)] * 2
    with ThreadPoolExecutor(8) as pool:
        versions = list(pool.map(lambda made: shelf.save("goog", made, {}), models))
    assert versions[:4] == versions[4:] and sorted(versions[:4]) == shelf.versions("goog") == ["v1", "v2", "v3", "v4"]
    for version in shelf.versions("goog"):
        shelf.verify("goog", version)


def test_golden_outputs_notice_another_model(shelf, features):
    save(shelf, features, 0)
    other = model(features, 0)
    with torch.no_grad():
        other.network.log_std.bias.fill_(0.01)
    assert golden_deviation(other, shelf.golden("goog", "v1")) > 1e-3


def test_golden_examples_of_nonsense_are_refused(features):
    with pytest.raises(InputError, match="golden examples"):
        golden_deviation(model(features), features)


@pytest.mark.parametrize("content", ["", "[]", '{"name": "goog"}', '{"name": "goog", "version": 1}'])
def test_a_candidate_file_of_nonsense_is_refused_by_name(tmp_path, content):
    path = tmp_path / "candidate.json"
    path.write_text(content)
    with pytest.raises(InputError, match=r"candidate.json"):
        read_candidate(path)


def test_a_copied_version_stays_whole(shelf, features, tmp_path):
    save(shelf, features)
    shutil.copytree(shelf.root, tmp_path / "elsewhere")
    assert Registry(tmp_path / "elsewhere").verify("goog", "v1").is_dir()
    assert json.loads((tmp_path / "elsewhere/goog/v1/card.json").read_text())["name"] == "goog"
