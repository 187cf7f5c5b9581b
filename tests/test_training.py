import pytest
import torch
from models_sample import google_prices

from lepton_kit.errors import InputError, LeptonError
from lepton_kit.models.training import TrainingSettings, losses, repeatable
from subjects.prices.examples import examples, train

QUICK = TrainingSettings("mlp", epochs=3, width=4)


@pytest.fixture(scope="module")
def prices():
    return google_prices()


def weights_of(trained):
    return trained.forecaster.network.state_dict()


def same(one, other):
    return all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("model", ["linear", "mlp", "gru"])
def test_training_twice_gives_the_same_weights_bit_for_bit(prices, model):
    settings = TrainingSettings(model, epochs=2, width=4)
    first = train(prices, settings)
    torch.rand(7)  # whatever happened in between
    again = train(prices, settings)
    assert same(weights_of(first), weights_of(again))
    assert first.history.equals(again.history)


def test_another_seed_gives_other_weights(prices):
    other = TrainingSettings("mlp", epochs=3, width=4, seed=1)
    assert not same(weights_of(train(prices, QUICK)), weights_of(train(prices, other)))


def test_training_leaves_torch_as_it_was(prices):
    torch.manual_seed(5)
    state, threads = torch.random.get_rng_state(), torch.get_num_threads()
    train(prices, QUICK)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()


def test_an_error_in_between_leaves_torch_as_it_was():
    with pytest.raises(ZeroDivisionError), repeatable(0):
        raise ZeroDivisionError
    assert not torch.are_deterministic_algorithms_enabled()


def test_the_weights_of_the_best_epoch_are_kept(prices):
    trained = train(prices, TrainingSettings("mlp", epochs=40, patience=4, learning_rate=0.02))
    history = trained.history
    assert len(history) == trained.best_epoch + 4
    check = examples(prices, "validation")
    inputs, scale = trained.forecaster.prepare(check.features)
    with torch.no_grad():
        loss = losses(
            trained.forecaster.network, torch.from_numpy(inputs), torch.from_numpy(check.target.to_numpy() / scale)
        )
    assert loss.item() == pytest.approx(history["validation_loss"].min(), rel=1e-12)


def test_the_training_loss_falls(prices):
    history = train(prices, TrainingSettings("linear", epochs=8)).history
    assert history["train_loss"].iloc[-1] < history["train_loss"].iloc[0]


def test_every_epoch_is_reported(prices):
    seen = []
    train(prices, QUICK, on_epoch=seen.append)
    assert [epoch.number for epoch in seen] == [1, 2, 3]


def test_the_test_part_is_never_looked_at(prices):
    other = prices.copy()
    test = other["split"] == "test"
    other.loc[test, ["open", "high", "low", "close"]] *= 3.0
    last = other.loc[~test, "date"].max()
    assert (other.loc[test, "date"] > last).all()
    assert same(weights_of(train(prices, QUICK)), weights_of(train(other, QUICK)))


def test_a_target_is_the_return_to_the_next_day(prices):
    given = examples(prices, "test")
    day = prices.index[prices["date"] == given.target.index[0]][0]
    ahead = prices["close"][day + 1] / prices["close"][day]
    assert torch.tensor(ahead).log().item() == pytest.approx(given.target.iloc[0])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("batch_size", 0),
        ("width", -1),
        ("epochs", 0),
        ("patience", 0),
        ("weight_decay", -0.1),
        ("lookback", 0),
        ("batch_size", 2.5),
        ("model", "tree"),
        ("volatility", "some"),
    ],
)
def test_a_bad_setting_is_refused_by_name(name, value):
    with pytest.raises(InputError, match=f"{name} = "):
        TrainingSettings(**{name: value})


def test_a_loss_that_is_not_a_number_is_told_with_its_cure(prices):
    with pytest.raises(LeptonError, match=r"learning_rate = 1000\.0 is too high"):
        train(prices, TrainingSettings("linear", learning_rate=1000.0, weight_decay=0.0, epochs=50))


def test_a_table_without_parts_is_refused(prices):
    with pytest.raises(InputError, match="lacks column split"):
        train(prices.drop(columns="split"), QUICK)


def test_a_table_without_validation_days_is_refused(prices):
    with pytest.raises(InputError, match="part 'validation'"):
        train(prices.assign(split="train"), QUICK)


def test_a_model_without_volatility_information_learns_the_calm_years_level(prices):
    trained = train(prices, TrainingSettings("linear", epochs=10, volatility="constant"))
    fit = examples(prices, "train")
    spread = trained.forecaster.predict(fit.features)["std"]
    assert spread.nunique() == 1
    assert spread.iloc[0] == pytest.approx(fit.target.std(), rel=0.3)
