"""A training that is killed and goes on ends in the same weights, bit for bit."""

import os
import random
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from lepton_kit.errors import InputError
from lepton_kit.models.checkpoints import Checkpoints
from lepton_kit.models.training import Examples, TrainingSettings, train_on

SETTINGS = TrainingSettings("mlp", width=3, batch_size=16, epochs=50, patience=5, seed=4)
STEPS = 4 * 6


def rows(seed: int, days: int = 60) -> Examples:
    chance = np.random.default_rng(seed)
    features = pd.DataFrame({"return_0": chance.normal(0, 0.01, days), "return_1": chance.normal(0, 0.01, days)})
    features["volatility_ewma"] = 0.01 + 0.002 * chance.uniform(size=days)
    return Examples(features, pd.Series(chance.normal(0, 0.01, days)))


FIT, CHECK = rows(0), rows(1, 30)


class Deadly(Checkpoints):
    """Kills its process after a step."""

    kill_after = 0

    def is_due(self) -> bool:
        self.kill_after -= 1
        if self.kill_after == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().is_due()


def train_until_killed(file, kill_after):
    checkpoints = Deadly(file, every_steps=5)
    checkpoints.kill_after = kill_after
    train_on(FIT, CHECK, SETTINGS, checkpoints=checkpoints)


def same(one, other) -> bool:
    weights = [trained.forecaster.network.state_dict() for trained in (one, other)]
    return all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0]) and one.history.equals(
        other.history
    )


def kill_and_resume(folder: str) -> None:
    """Kill trainings in processes that are forks of this one, which has no threads, and resume them."""
    whole, chance = train_on(FIT, CHECK, SETTINGS), random.Random(11)
    for time in range(20):
        file, left = Path(folder) / f"{time}.pt", STEPS
        for _ in range(1 + time % 2):  # every second one is killed twice
            kill_after = chance.randint(1, left)
            if not (victim := os.fork()):
                train_until_killed(file, kill_after)
                os._exit(0)
            assert os.WTERMSIG(os.waitpid(victim, 0)[1]) == signal.SIGKILL
            left = max(1, left - kill_after)
        assert same(train_on(FIT, CHECK, SETTINGS, checkpoints=Checkpoints(file, every_steps=5)), whole), kill_after
    print("20 trainings ended alike")


def test_a_training_killed_twenty_times_at_random_steps_ends_in_the_same_weights(tmp_path):
    code = "import sys, test_training_checkpoints as here; here.kill_and_resume(sys.argv[1])"
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
    alone = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, env=alone, capture_output=True, text=True, timeout=600)
    assert done.stdout == "20 trainings ended alike\n", done.stderr


def test_checkpoints_change_no_weight_and_a_finished_training_ends_alike_again(tmp_path):
    whole = train_on(FIT, CHECK, SETTINGS)
    for _ in range(2):
        assert same(train_on(FIT, CHECK, SETTINGS, checkpoints=Checkpoints(tmp_path / "a.pt", every_steps=4)), whole)
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


@pytest.mark.parametrize(
    ("fit", "settings", "message"),
    [
        (FIT, replace(SETTINGS, learning_rate=0.01), r"learning_rate 0\.003, not 0\.01"),
        (FIT, replace(SETTINGS, width=4), "width 3, not 4"),
        (rows(2), SETTINGS, r"\(rows \w{12}, not \w{12}\)"),
    ],
)
def test_a_checkpoint_of_other_settings_or_rows_is_refused_by_name(tmp_path, fit, settings, message):
    train_on(FIT, CHECK, SETTINGS, checkpoints=Checkpoints(tmp_path / "a.pt", every_steps=5))
    with pytest.raises(InputError, match=rf"a\.pt': is of another training .*{message}"):
        train_on(fit, CHECK, settings, checkpoints=Checkpoints(tmp_path / "a.pt"))


class Evil:
    def __reduce__(self):
        return os.system, ("touch pwned",)


@pytest.mark.parametrize("content", ["cut", "pickle", "other"])
def test_what_is_no_checkpoint_is_refused_and_never_unpickled(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "a.pt"
    train_on(FIT, CHECK, SETTINGS, checkpoints=Checkpoints(file, every_steps=5))
    if content == "cut":
        file.write_bytes(file.read_bytes()[:400])
    else:
        torch.save(Evil() if content == "pickle" else {"weights": 1}, file)
    with pytest.raises(InputError, match=r"a\.pt': not readable .*; remove it"):
        train_on(FIT, CHECK, SETTINGS, checkpoints=Checkpoints(file))
    assert not (tmp_path / "pwned").exists()


def test_a_scheduler_and_all_generators_go_on_where_they_were(tmp_path):
    def made():
        network = torch.nn.Linear(2, 1)
        optimizer = torch.optim.AdamW(network.parameters(), lr=0.1)
        return {
            "network": network,
            "optimizer": optimizer,
            "scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5),
        }

    checkpoints, parts = Checkpoints(tmp_path / "a.pt"), made()
    for _ in range(3):
        parts["network"](torch.ones(1, 2)).sum().backward()
        parts["optimizer"].step()
        parts["scheduler"].step()
    np.random.normal()  # leaves half a pair in the generator
    checkpoints.save({"of": "a"}, parts, {"step": 3})
    first = torch.rand(3), np.random.normal(size=3), random.random()
    others = made()
    assert checkpoints.restore({"of": "a"}, others) == {"step": 3}
    again = torch.rand(3), np.random.normal(size=3), random.random()
    assert torch.equal(first[0], again[0]) and np.array_equal(first[1], again[1]) and first[2] == again[2]
    assert others["scheduler"].get_last_lr() == parts["scheduler"].get_last_lr() == [0.05]
    for name in ("network", "optimizer"):
        assert str(others[name].state_dict()) == str(parts[name].state_dict())


@pytest.mark.parametrize(("name", "value"), [("every_steps", 0), ("every_s", -1.0), ("every_s", float("nan"))])
def test_a_bad_interval_is_refused_by_name(tmp_path, name, value):
    with pytest.raises(InputError, match=f"{name} = {value}"):
        Checkpoints(tmp_path / "a.pt", **{name: value})


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none/a\.pt' cannot be written"):
        train_on(FIT, CHECK, SETTINGS, checkpoints=Checkpoints(tmp_path / "none" / "a.pt", every_steps=1))
