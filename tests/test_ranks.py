"""Training on several processes that torchrun started: real processes, gloo, one killed and one hung."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_training_checkpoints import CHECK, FIT, SETTINGS

from lepton_kit.errors import InputError
from lepton_kit.models.checkpoints import Checkpoints
from lepton_kit.models.ranks import Ranks, joined
from lepton_kit.models.training import train_on

TRAIN = """
import os, signal, sys, time
from pathlib import Path
import torch
from test_training_checkpoints import CHECK, FIT, SETTINGS
from lepton_kit.models import ranks, training
from lepton_kit.models.checkpoints import Checkpoints

folder, fate, steps = Path(sys.argv[1]), sys.argv[2], 0
mean = ranks.Ranks.mean

def fated(self, value):
    global steps
    steps += 1
    if self.rank == 1 and steps == 9 and not (folder / "met").exists():
        (folder / "met").touch()
        if fate == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if fate == "hung":
            sleeps_for_ever()
    return mean(self, value)

def sleeps_for_ever():
    time.sleep(10_000)

ranks.Ranks.mean = fated
wrapped = ranks.Ranks.wrapped

def seen(self, network):
    total, given = sum(one.numel() for one in network.parameters()), wrapped(self, network)
    if self.split:
        own = sum(one.to_local().numel() for one in network.parameters())
        (folder / f"share-{self.rank}").write_text(f"{own} {total}")
    return given

ranks.Ranks.wrapped = seen
with ranks.joined(15.0 if fate == "hung" else 300.0, split=len(sys.argv) > 3):
    made = []
    kept = Checkpoints(folder / "state.pt", every_steps=4)
    trained = training.train_on(FIT, CHECK, SETTINGS, made.append, checkpoints=kept)
    state = {"weights": trained.forecaster.network.state_dict(), "epochs": len(trained.history), "made": len(made)}
    torch.save(state, folder / f"{os.environ['RANK']}.pt")
"""


def torchrun(folder, fate, *words, split=()):
    (folder / "train.py").write_text(TRAIN)
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
    alone = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *words]
    done = [*command, str(folder / "train.py"), str(folder), fate, *split]
    return subprocess.run(done, env=alone, cwd=folder, capture_output=True, text=True, timeout=600)


@pytest.mark.parametrize("split", [(), ("split",)], ids=["whole", "split"])
def test_two_processes_of_which_one_is_killed_end_in_the_weights_of_one(split, tmp_path):
    done = torchrun(tmp_path, "killed", "--max-restarts", "1", split=split)
    assert done.returncode == 0 and (tmp_path / "met").exists(), done.stderr[-9000:]
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    whole = train_on(FIT, CHECK, SETTINGS)
    assert first["epochs"] == second["epochs"] == len(whole.history)
    assert first["made"] < first["epochs"]  # it went on from the checkpoint
    for name, wanted in whole.forecaster.network.state_dict().items():
        assert torch.equal(first["weights"][name], second["weights"][name])
        torch.testing.assert_close(first["weights"][name], wanted, rtol=1e-4, atol=1e-6)
    if split:
        shares = [[int(one) for one in (tmp_path / f"share-{rank}").read_text().split()] for rank in range(2)]
        assert sum(own for own, _ in shares) == shares[0][1] and max(own for own, _ in shares) <= 0.7 * shares[0][1]
        with pytest.raises(InputError, match=r"is of another training .*ranks split"):
            train_on(FIT, CHECK, SETTINGS, checkpoints=Checkpoints(tmp_path / "state.pt"))


def test_a_rank_that_hangs_ends_the_training_and_is_named_with_its_stack(tmp_path):
    done = torchrun(tmp_path, "hung")
    assert done.returncode != 0
    assert "LeptonError: rank 1 of 2 was lost, or did not come within 15 s" in done.stderr
    assert "in sleeps_for_ever" in done.stderr and "in meet" in done.stderr


def test_a_batch_is_shared_out_whole_and_each_row_counts_once():
    for size in (2, 3):
        for count in (1, 2, 7):
            rows, value = torch.arange(count), torch.rand(count, dtype=torch.float64)
            shares = [Ranks(rank, size).share(rows) for rank in range(size)]
            assert sorted(torch.cat([own for own, weight in shares if weight]).tolist()) == rows.tolist()
            mean = sum(value[own].mean() * weight for own, weight in shares) / size
            torch.testing.assert_close(mean, value.mean())


def test_a_process_that_torchrun_did_not_start_and_no_time_to_wait_are_refused(monkeypatch):
    with pytest.raises(InputError, match="not started by torchrun"), joined():
        pass
    with pytest.raises(InputError, match=r"hang_s = 0\.0: must be above 0"), joined(0.0):
        pass
