"""Models as ONNX graphs, and smaller forms of a graph."""

import numpy as np
import pytest
import torch
from models_of_others import COLUMNS, NUMBERS, Scorer, classifier, keep_exported, keep_skops, people
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.neural_network import MLPClassifier

from lepton_kit.errors import InputError
from lepton_kit.models.conversion import as_onnx, in_half, in_int8, kept_onnx, of_torch, pruned
from lepton_kit.models.flavors import ModelFile, load_model, said_of
from lepton_kit.models.forecasters import Architecture, model_columns, untrained
from lepton_kit.models.golden import deviation
from subjects.prices.features import price_features
from subjects.prices.sources import read_prices


@pytest.fixture(scope="module")
def features():
    return price_features(read_prices("sample:goog"), lookback=5).head(400)


def network(width=16, seed=0):
    """Return a network of two inputs with two hidden layers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        linear, tanh = torch.nn.Linear, torch.nn.Tanh
        return torch.nn.Sequential(linear(2, width), tanh(), linear(width, width), tanh(), linear(width, 1))


def numbers(table):
    return table[NUMBERS].sub([40, 3]).div([12, 1])


def weights(graph):
    return sum(int(np.prod(one.dims)) for one in graph.graph.initializer)


@pytest.mark.parametrize("kind", ["linear", "mlp", "gru"])
@pytest.mark.parametrize("volatility", ["ewma", "constant"])
def test_a_forecaster_answers_alike_as_a_graph(features, tmp_path, kind, volatility):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        made = untrained(Architecture(kind, model_columns(features, volatility), 3, volatility), features, level=0.02)
        for values in made.network.parameters():
            torch.nn.init.normal_(values, std=0.1)
    graph = kept_onnx(as_onnx(made), said_of(made), tmp_path / "m")
    assert deviation(graph.predict(features), made.predict(features)) < 1e-4
    assert (graph.task, graph.columns) == (made.task, made.columns)


def test_a_pipeline_of_scikit_learn_with_categories_answers_alike_as_a_graph(tmp_path):
    learnt = people()
    model = load_model(keep_skops(tmp_path / "m", classifier(learnt)))
    graph = kept_onnx(as_onnx(model), said_of(model), tmp_path / "graph")
    fresh = people(50, seed=3).assign(colour="a colour that was never seen")
    assert deviation(graph.predict(learnt[COLUMNS]), model.predict(learnt[COLUMNS])) < 1e-5
    assert deviation(graph.predict(fresh), model.predict(fresh)) < 1e-5


def test_an_exported_module_answers_alike_as_a_graph(tmp_path):
    rows = numbers(people())
    model = load_model(keep_exported(tmp_path / "m", Scorer(2), NUMBERS))
    graph = kept_onnx(as_onnx(model), said_of(model), tmp_path / "graph")
    assert deviation(graph.predict(rows), model.predict(rows)) < 1e-5


def test_what_no_converter_knows_is_an_error_of_one_line(tmp_path):
    class Odd(torch.nn.Module):
        def forward(self, rows):
            raise RuntimeError("a reason\nof two lines")

    with pytest.raises(InputError, match=r"torch cannot write it \(RuntimeError: a reason\)$"):
        of_torch(Odd(), 2)


def test_weights_of_8_and_16_bits_are_fewer_bytes_and_answer_nearly_alike(tmp_path):
    rows, said = numbers(people()), ModelFile(task="regression", columns=tuple(NUMBERS))
    single = of_torch(network(128), 2)
    answers = kept_onnx(single, said, tmp_path / "32").predict(rows)
    for bits, graph in ((16, in_half(single)), (8, in_int8(single))):
        assert len(graph.SerializeToString()) < (bits + 6) / 32 * len(single.SerializeToString())
        assert deviation(kept_onnx(graph, said, tmp_path / str(bits)).predict(rows), answers) < 0.05


def test_a_recurrent_graph_is_not_called_quantised(features):
    made = untrained(Architecture("gru", model_columns(features), 8), features, level=0.02)
    with pytest.raises(InputError, match=r"8-bit kernels for \d+ of its \d+ weights only"):
        in_int8(as_onnx(made))


def test_hidden_units_that_repeat_others_are_pruned_without_a_loss(tmp_path):
    """Half of the units are copies: QR finds those that span them all, and the next layer takes their weights over."""
    rows, said = numbers(people()), ModelFile(task="regression", columns=tuple(NUMBERS))
    small, wide = network(8), network(16)
    with torch.no_grad():
        for place in (0, 2):
            first, second = small[place], small[place + 2]
            del second
            into = first.weight if place == 0 else torch.cat([first.weight / 2, first.weight / 2], dim=1)
            wide[place].weight.copy_(torch.cat([into, into]))
            wide[place].bias.copy_(torch.cat([first.bias, first.bias]))
        wide[4].weight.copy_(torch.cat([small[4].weight / 2, small[4].weight / 2], dim=1))
        wide[4].bias.copy_(small[4].bias)
    graph = of_torch(wide, 2)
    halved = pruned(graph, rows, 0.5)
    assert weights(halved) == sum(one.numel() for one in small.parameters()) < weights(graph)
    given = [kept_onnx(one, said, tmp_path / str(n)).predict(rows) for n, one in enumerate((graph, halved))]
    assert deviation(given[1], given[0]) < 1e-3


def test_what_is_left_after_pruning_is_fitted_anew(tmp_path):
    """Beside the same units with the weights they had, the answers come much closer to those of before."""
    rows, said = numbers(people()), ModelFile(task="regression", columns=tuple(NUMBERS))
    whole = network(32)
    graph = of_torch(whole, 2)
    wanted = kept_onnx(graph, said, tmp_path / "whole").predict(rows)
    with torch.no_grad():  # as if cut off: the units stay, but give nothing
        whole[2].weight[8:] = 0
        whole[2].bias[8:] = 0
    cut = kept_onnx(of_torch(whole, 2), said, tmp_path / "cut").predict(rows)
    fitted = kept_onnx(pruned(graph, rows, 0.25), said, tmp_path / "fitted").predict(rows)
    assert deviation(fitted, wanted) < 0.4 * deviation(cut, wanted)


def test_the_networks_of_scikit_learn_are_pruned_too(tmp_path):
    learnt = people(400)
    fitted = MLPClassifier((16, 16), random_state=0, max_iter=50).fit(numbers(learnt), learnt["actual"])
    model = load_model(keep_skops(tmp_path / "m", fitted, categorical=[]))
    graph = as_onnx(model)
    halved = pruned(graph, numbers(learnt), 0.5)
    assert weights(halved) < 0.6 * weights(graph)
    small = kept_onnx(halved, said_of(model), tmp_path / "small")
    assert small.task.distance(small.predict(numbers(learnt)), model.predict(numbers(learnt))).mean() < 0.05


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_share_of_none_or_all_units_is_refused(share):
    with pytest.raises(InputError, match=f"share = {share}"):
        pruned(of_torch(network(), 2), numbers(people()), share)


def test_a_model_without_hidden_units_is_not_pruned():
    with pytest.raises(InputError, match="no hidden units to prune"):
        pruned(of_torch(torch.nn.Linear(2, 1), 2), numbers(people()), 0.5)


def test_an_estimator_that_cannot_be_written_is_said_to_be(tmp_path):
    learnt = people()
    trees = HistGradientBoostingClassifier(max_iter=3, categorical_features=[0]).fit(
        learnt[["age"]].round(-1) // 10, learnt["actual"]
    )
    model = load_model(keep_skops(tmp_path / "m", trees, categorical=[]))
    with pytest.raises(InputError, match="a split by the categories of a column has no form"):
        as_onnx(model)
