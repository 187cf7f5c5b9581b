import json

import numpy as np
import pandas as pd
import pytest
import torch
from models_sample import google_prices
from safetensors.torch import load_file, save_file

from lepton_kit.errors import InputError
from lepton_kit.models.forecasters import (
    Architecture,
    load_forecaster,
    model_columns,
    untrained,
)
from subjects.prices.evaluation import price_change
from subjects.prices.features import price_features

MODELS = ["linear", "mlp", "gru"]


@pytest.fixture(scope="module")
def features():
    return price_features(google_prices())


def forecaster_of(features, model="gru", volatility="ewma", weights=0.1):
    torch.manual_seed(3)
    made = untrained(Architecture(model, model_columns(features, volatility), 4, volatility), features, level=0.02)
    for tensor in made.network.state_dict().values():
        tensor.add_(weights * torch.randn(tensor.shape, dtype=tensor.dtype))
    return made


@pytest.fixture
def saved(features, tmp_path):
    forecaster_of(features).save(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("model", MODELS)
def test_an_untrained_model_is_the_ewma_baseline(features, model):
    forecast = forecaster_of(features, model, weights=0.0).predict(features)
    np.testing.assert_allclose(forecast["std"], features["volatility_ewma"])
    assert (forecast["mean"] == 0).all() and (forecast["prob_up"] == 0.5).all()


@pytest.mark.parametrize("volatility", ["ewma", "constant"])
@pytest.mark.parametrize("model", MODELS)
def test_a_model_loaded_again_gives_the_same_forecasts(features, tmp_path, model, volatility):
    forecaster = forecaster_of(features, model, volatility)
    forecaster.save(tmp_path / "model")
    pd.testing.assert_frame_equal(
        load_forecaster(tmp_path / "model").predict(features), forecaster.predict(features), check_exact=True
    )


@pytest.mark.parametrize("model", MODELS)
def test_a_row_alone_gives_the_forecast_it_gives_among_others(features, model):
    forecaster = forecaster_of(features, model)
    alone, among = forecaster.predict(features.tail(1)), forecaster.predict(features).tail(1)
    pd.testing.assert_frame_equal(alone, among, rtol=1e-12)


def test_the_interval_lies_around_the_mean_and_the_table_is_indexed_like_the_features(features):
    forecast = forecaster_of(features).predict(features)
    assert list(forecast.columns) == ["mean", "std", "lower", "upper", "prob_up"]
    assert forecast.index.equals(features.index)
    assert (forecast["lower"] < forecast["mean"]).all() and (forecast["mean"] < forecast["upper"]).all()
    assert forecast["prob_up"].between(0, 1).all()


@pytest.mark.parametrize("model", MODELS)
def test_twice_the_movement_gives_an_interval_twice_as_wide(features, model):
    forecaster = forecaster_of(features, model)
    ignore_the_level(forecaster)
    louder = features.assign(**{c: 2 * features[c] for c in features.columns if not c.startswith("volume")})
    np.testing.assert_allclose(forecaster.predict(louder)["std"], 2 * forecaster.predict(features)["std"], rtol=1e-9)


def ignore_the_level(forecaster):
    """Set the weights of the one input that is not in units of volatility, its level, to zero."""
    level = forecaster.architecture.columns.index("volatility_ewma")
    weights = forecaster.network.state_dict()
    if forecaster.architecture.model == "gru":  # there it joins the state, first of the slow columns
        for head in ("mean", "log_std"):
            weights[f"{head}.weight"][:, forecaster.architecture.width] = 0
    else:
        first = "body.layers.0.weight" if forecaster.architecture.model == "mlp" else "log_std.weight"
        weights[first][:, level] = 0


def test_a_model_without_volatility_information_gives_every_day_the_same_spread(features):
    forecast = forecaster_of(features, "mlp", "constant").predict(features)
    assert forecast["std"].nunique() == 1
    assert forecast["mean"].nunique() > 1


def test_absurd_inputs_give_finite_forecasts(features):
    absurd = features.tail(1).assign(return_0=1e9, volume_3=-1e9)
    assert np.isfinite(forecaster_of(features).predict(absurd)).all().all()


def test_price_change_grows_with_the_close():
    forecast = pd.DataFrame({"mean": [0.01, 0.01], "lower": [0.0, 0.0], "upper": [0.02, 0.02]})
    change = price_change(forecast, pd.Series([100.0, 200.0]))
    assert change["mean"].tolist() == pytest.approx([100 * np.expm1(0.01), 200 * np.expm1(0.01)])


def test_a_missing_feature_is_named(features):
    with pytest.raises(InputError, match="features lack range_4"):
        forecaster_of(features).predict(features.drop(columns="range_4"))


def test_a_feature_that_is_not_a_number_is_named_with_its_row(features):
    broken = features.copy()
    broken.iloc[5, broken.columns.get_loc("volume_2")] = np.nan
    with pytest.raises(InputError, match=f"volume_2 = .*nan.* in row {broken.index[5]}"):
        forecaster_of(features).predict(broken)


@pytest.mark.parametrize("file", ["model.safetensors", "architecture.json", "scaler.json"])
def test_a_missing_model_file_is_named(saved, file):
    (saved / file).unlink()
    with pytest.raises(InputError, match=f"{file}: no such file"):
        load_forecaster(saved)


@pytest.mark.parametrize("file", ["model.safetensors", "architecture.json", "scaler.json"])
@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"\xff\xfe nonsense"])
def test_a_model_file_of_nonsense_is_named(saved, file, content):
    (saved / file).write_bytes(content)
    with pytest.raises(InputError, match=file):
        load_forecaster(saved)


def test_weights_cut_short_are_refused(saved):
    path = saved / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="not a readable safetensors file"):
        load_forecaster(saved)


def test_weights_of_another_width_are_refused(saved):
    content = json.loads((saved / "architecture.json").read_text())
    (saved / "architecture.json").write_text(json.dumps({**content, "width": 5}))
    with pytest.raises(InputError, match=r"weights do not fit architecture.json .*body.gru.weight_ih_l0"):
        load_forecaster(saved)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(saved, value):
    weights = load_file(saved / "model.safetensors")
    weights["mean.weight"][0, 0] = value
    save_file(weights, saved / "model.safetensors")
    with pytest.raises(InputError, match=r"not finite numbers in mean.weight"):
        load_forecaster(saved)


@pytest.mark.parametrize(("key", "value"), [("spread", 0.0), ("spread", -1.0), ("center", float("nan"))])
def test_a_scaler_that_cannot_scale_is_refused(saved, key, value):
    content = json.loads((saved / "scaler.json").read_text())
    content["columns"]["return_0"][key] = value
    (saved / "scaler.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"scaler.json: centers must be finite"):
        load_forecaster(saved)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"model": "lstm"}, "model = 'lstm'"),
        ({"volatility": "none"}, "volatility = 'none'"),
        ({"width": 0}, "width = 0"),
    ],
)
def test_an_architecture_that_does_not_exist_is_refused(given, message):
    with pytest.raises(InputError, match=message):
        Architecture(**{"model": "mlp", "columns": ("return_0", "volatility_ewma"), **given})
