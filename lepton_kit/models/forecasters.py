"""Forecasters of the next day's log return: a Gaussian with a 90 % interval, and the direction by softmax regression.

Every model works in units of a volatility: inputs are divided by it and outputs multiplied by it. So it starts as the
exponentially weighted volatility baseline and learns to improve on it, and a price that moves twice as much gives an
interval twice as wide with no new training.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, get_args

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lepton_kit.errors import InputError
from lepton_kit.files import read_object, write_json
from lepton_kit.models.tasks import TASKS, Task

ModelName = Literal["linear", "mlp", "gru"]
Volatility = Literal["ewma", "constant"]

NORMAL_QUANTILE = 1.6448536269514722
"""Quantile of the standard normal distribution at 95 %, which bounds the central 90 %."""

FURTHEST_INPUT = 5.0
"""Inputs further than this many standard deviations from the training mean count as this far (winsorised)."""

PRECISION = torch.float64
"""So small a model costs nothing in double precision, and two processors then agree to many digits."""

FORECAST = ("mean", "std", "lower", "upper", "prob_up")
"""What a forecaster says of a day; all but the probability in log return per day."""

FILES = ("model.safetensors", "architecture.json", "scaler.json")


class Predictor(Protocol):
    """What every model and baseline can do."""

    def predict(self, features: pd.DataFrame) -> pd.DataFrame:
        """Return the prediction columns of its task, indexed like the features."""


@dataclass(frozen=True)
class Architecture:
    """The shape of a model.

    `volatility` says what its spread knows: `ewma` scales it by the recent volatility; `constant` is a model without
    any volatility information, which sees past returns only and has learnt one spread for all days.
    """

    model: ModelName
    columns: tuple[str, ...]
    width: int = 16
    volatility: Volatility = "ewma"

    def __post_init__(self) -> None:
        check_choices(self.model, self.volatility)
        if not isinstance(self.width, int) or not 1 <= self.width <= 1024:
            raise InputError(f"width = {self.width!r}: must be a whole number from 1 to 1024")
        if not self.columns:
            raise InputError("a model needs at least one feature column")

    @cached_property
    def needed(self) -> tuple[str, ...]:
        """Return the features that a row must hold: the columns, and the recent volatility where it is the scale."""
        extra = ("volatility_ewma",) if self.volatility == "ewma" else ()
        return tuple(dict.fromkeys(self.columns + extra))

    @property
    def lookback(self) -> int:
        """Return the number of past days that a row of features must hold."""
        return sum(family(column) == "return" for column in self.columns)


def check_choices(model: str, volatility: str) -> None:
    """Raise InputError unless there is such a model and such a volatility."""
    for name, value, allowed in (("model", model, ModelName), ("volatility", volatility, Volatility)):
        if value not in get_args(allowed):
            raise InputError(f"{name} = {value!r}: must be one of {', '.join(get_args(allowed))}")


@dataclass(frozen=True)
class Scaler:
    """What turns a row of features into inputs about 0 with spread about 1, fitted on training rows only.

    `level` is the training rows' standard deviation of the next day's log return.
    """

    center: tuple[float, ...]
    spread: tuple[float, ...]
    level: float


def model_columns(features: pd.DataFrame, volatility: Volatility = "ewma") -> tuple[str, ...]:
    """Return the columns that a model sees: all, or the past returns only where its spread is constant."""
    if volatility == "ewma":
        return tuple(features.columns)
    return tuple(column for column in features.columns if family(column) == "return")


def family(column: str) -> str:
    """Return the family of a feature column: `return`, `range`, `volume` or `volatility`.

    Examples
    --------
    >>> family("return_3"), family("volatility_ewma")
    ('return', 'volatility')
    """
    return column.partition("_")[0]


class Network(nn.Module):
    """A body that reads the scaled inputs, a Gaussian head on top of it, and a softmax regression beside it."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        inputs = len(architecture.columns)
        self.body = BODIES[architecture.model](architecture)
        self.mean = nn.Linear(self.body.size, 1)
        self.log_std = nn.Linear(self.body.size, 1) if architecture.volatility == "ewma" else OneNumber()
        self.direction = nn.Linear(inputs, 2)
        for head in (self.mean, self.log_std, self.direction):
            for weights in head.parameters():
                nn.init.zeros_(weights)
        self.to(PRECISION)

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return mean (n,) and log standard deviation (n,) in units of the scale, and the direction's logits (n, 2)."""
        read = self.body(inputs)
        return self.mean(read).squeeze(-1), self.log_std(read).squeeze(-1), self.direction(inputs)


class OneNumber(nn.Module):
    """A head that has learnt one number for all rows."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, read: Tensor) -> Tensor:
        """Return that number for each row (n, 1)."""
        return self.bias + torch.zeros_like(read[:, :1])  # a view would keep its gradient, even under no_grad


class LinearBody(nn.Module):
    """The inputs themselves: the textbook case."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.size = len(architecture.columns)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the inputs (n, columns)."""
        return inputs


class MLPBody(nn.Module):
    """Two hidden layers."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.size = architecture.width
        inputs = len(architecture.columns)
        self.layers = nn.Sequential(nn.Linear(inputs, self.size), nn.Tanh(), nn.Linear(self.size, self.size), nn.Tanh())

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the last hidden layer (n, width)."""
        hidden: Tensor = self.layers(inputs)
        return hidden


class GRUBody(nn.Module):
    """A gated recurrent unit that reads the lagged columns day by day, oldest first; the others join its last state."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        lagged, self.slow = _lagged_and_slow(architecture.columns)
        self.channels = list(lagged.values())
        self.gru = nn.GRU(len(self.channels), architecture.width, batch_first=True)
        self.size = architecture.width + len(self.slow)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the last state and the slow columns (n, width + slow columns)."""
        sequence = torch.stack([inputs[:, positions] for positions in self.channels], dim=-1)
        states, _ = self.gru(sequence)
        return torch.cat([states[:, -1], inputs[:, self.slow]], dim=-1)


def _lagged_and_slow(columns: tuple[str, ...]) -> tuple[dict[str, list[int]], list[int]]:
    """Return the positions of each family's lags, oldest first, and those of the columns without a lag."""
    lagged: dict[str, list[int]] = {}
    slow: list[int] = []
    for position, column in reversed(list(enumerate(columns))):
        if column.rpartition("_")[2].isdigit():
            lagged.setdefault(family(column), []).append(position)
        else:
            slow.insert(0, position)
    if not lagged or len({len(positions) for positions in lagged.values()}) > 1:
        raise InputError(f"a gru needs lagged columns of equal length; got {', '.join(columns)}")
    return lagged, slow


BODIES: dict[str, Callable[[Architecture], Any]] = {"linear": LinearBody, "mlp": MLPBody, "gru": GRUBody}


@dataclass(frozen=True)
class Forecaster:
    """A trained model: architecture, scaler and weights.

    Examples
    --------
    An untrained model is the exponentially weighted volatility baseline:

    >>> returns = np.random.default_rng(1).normal(0, 0.01, size=60)
    >>> features = pd.DataFrame({"return_0": returns, "volatility_ewma": 0.01 + 0.1 * abs(returns)})
    >>> forecaster = untrained(Architecture("linear", model_columns(features)), features, level=0.01)
    >>> bool(np.allclose(forecaster.predict(features)["std"], features["volatility_ewma"]))
    True
    """

    architecture: Architecture
    scaler: Scaler
    network: Network
    task: ClassVar[Task] = TASKS["interval_forecast"]
    categorical: ClassVar[tuple[str, ...]] = ()
    optional: ClassVar[tuple[str, ...]] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """The features that a row must hold, in their order."""
        return self.architecture.needed

    def answers(self, values: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
        """Return the names of the forecast's numbers, and them (n, 5), for finite numbers (n, columns)."""
        scaled, scale = self.scaled(values)
        return FORECAST, self.answer(np.clip(scaled, -FURTHEST_INPUT, FURTHEST_INPUT), scale)

    def beyond(self, values: np.ndarray) -> int:
        """Return how many of some finite values (n, columns) lie further than `FURTHEST_INPUT`."""
        return int((np.abs(self.scaled(values)[0]) > FURTHEST_INPUT).sum())

    def predict(self, features: pd.DataFrame) -> pd.DataFrame:
        """Forecast the next day for each row of features.

        Parameters
        ----------
        features
            With the columns `needed`; columns the model does not know are ignored.

        Returns
        -------
        DataFrame
            Indexed like `features`: `mean`, `std`, `lower`, `upper` (90 % interval) of the next day's log return, and
            `prob_up`, the probability that it is above zero.

        Raises
        ------
        InputError
            When a column is missing, or a value is not a finite number.
        """
        inputs, scale = self.prepare(features)
        answer = self.answer(inputs, scale)
        return pd.DataFrame(answer, index=features.index, columns=list(FORECAST))

    def answer(self, inputs: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """Return the forecasts (n, 5), in the order of `FORECAST`, of what `prepare` or `scaled` gives."""
        if self.network.training:
            self.network.eval()
        with torch.no_grad():
            mean, log_std, logits = self.network(torch.from_numpy(inputs))
        prob_up = torch.softmax(logits, dim=-1)[:, 1].numpy()
        return forecast_values(mean.numpy() * scale, np.exp(log_std.numpy()) * scale, prob_up)

    def prepare(self, features: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """Return the scaled inputs (n, columns) and the scale (n,) in log return per day."""
        _check_features(features, self.architecture)
        scaled, scale = self.scaled(features[list(self.architecture.needed)].to_numpy(float))
        return np.clip(scaled, -FURTHEST_INPUT, FURTHEST_INPUT), scale

    def scaled(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the scaled inputs (n, columns), not yet winsorised, and the scale (n,), of finite values."""
        raw, scale = raw_values(values, self.architecture, self.scaler.level)
        return (raw - self._center) / self._spread, scale

    @cached_property
    def _center(self) -> np.ndarray:
        return np.array(self.scaler.center)

    @cached_property
    def _spread(self) -> np.ndarray:
        return np.array(self.scaler.spread)

    def save(self, folder: Path) -> None:
        """Write `model.safetensors`, `architecture.json` and `scaler.json` into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.network.state_dict(), folder / "model.safetensors")
        write_json(folder / "architecture.json", asdict(self.architecture))
        write_json(folder / "scaler.json", _scaler_to_json(self.scaler, self.architecture.columns))


def untrained(architecture: Architecture, features: pd.DataFrame, level: float) -> Forecaster:
    """Return a forecaster whose scaler is fitted on these (training) rows and whose heads are still zero.

    Parameters
    ----------
    architecture
        The shape of the model; its body's weights come from torch's present random state.
    features
        The training rows (n, columns).
    level
        Standard deviation of the training rows' next-day log return.
    """
    raw, _ = raw_inputs(features, architecture, level)
    spread = raw.std(axis=0)
    spread[spread < 1e-9] = 1.0  # a column that never moves says nothing, whatever it is divided by
    scaler = Scaler(tuple(raw.mean(axis=0).tolist()), tuple(spread.tolist()), level)
    return Forecaster(architecture, scaler, Network(architecture))


def raw_inputs(features: pd.DataFrame, architecture: Architecture, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Return a model's inputs before scaling (n, columns), and the volatility (n,) in units of which it thinks.

    Returns and ranges are divided by that volatility; the volatilities become the logarithm of their ratio to it, and
    the recent volatility itself that of its ratio to the training level.
    """
    _check_features(features, architecture)
    return raw_values(features[list(architecture.needed)].to_numpy(float), architecture, level)


def raw_values(values: np.ndarray, architecture: Architecture, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Return what `raw_inputs` does, for checked values (n, needed) in the order of `architecture.needed`."""
    inputs = values[:, : len(architecture.columns)]
    if architecture.volatility == "constant":
        return inputs / level, np.full(len(values), level)
    divided, volatility, ewma = _places(architecture)
    scale = values[:, ewma]
    raw = inputs.copy()
    raw[:, divided] /= scale[:, None]
    with np.errstate(invalid="ignore"):  # a volatility below zero gives no number, and no forecast
        raw[:, volatility] = np.log(inputs[:, volatility] / scale[:, None])
        if ewma < inputs.shape[1]:
            raw[:, ewma] = np.log(scale / level)
    return raw, scale


@lru_cache(maxsize=32)
def _places(architecture: Architecture) -> tuple[list[int], list[int], int]:
    """Return where the columns stand: those divided by the recent volatility, other volatilities, and that."""
    families = list(enumerate(map(family, architecture.columns)))
    divided = [place for place, one in families if one in ("return", "range")]
    volatility = [place for place, one in families if one == "volatility"]
    return divided, volatility, architecture.needed.index("volatility_ewma")


def forecast_table(mean: np.ndarray, std: np.ndarray, prob_up: np.ndarray, index: pd.Index) -> pd.DataFrame:
    """Return the table that every forecaster gives, with the Gaussian's central 90 % interval.

    >>> forecast_table(np.array([0.0]), np.array([0.01]), np.array([0.5]), pd.Index([0])).round(4).iloc[0].tolist()
    [0.0, 0.01, -0.0164, 0.0164, 0.5]
    """
    return pd.DataFrame(forecast_values(mean, std, prob_up), index=index, columns=list(FORECAST))


def forecast_values(mean: np.ndarray, std: np.ndarray, prob_up: np.ndarray) -> np.ndarray:
    """Return the same as an array (n, 5), in the order of `FORECAST`."""
    half = NORMAL_QUANTILE * std
    return np.column_stack([mean, std, mean - half, mean + half, prob_up])


def load_forecaster(folder: Path) -> Forecaster:
    """Read what `Forecaster.save` wrote.

    Raises InputError when a file is missing, unreadable or does not fit the others, or a weight is not a finite number.
    """
    folder = Path(folder)
    for name in FILES:
        if not (folder / name).is_file():
            raise InputError(f"{folder / name}: no such file; a model folder holds {', '.join(FILES)}")
    architecture = _read_architecture(folder / "architecture.json")
    scaler = _read_scaler(folder / "scaler.json", architecture)
    network = Network(architecture)
    network.load_state_dict(_read_weights(folder / "model.safetensors", network))
    return Forecaster(architecture, scaler, network)


def _read_architecture(path: Path) -> Architecture:
    content = read_object(path)
    try:
        return Architecture(**{**content, "columns": tuple(content["columns"])})
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}: not the architecture of a forecaster ({error})") from error


def _read_scaler(path: Path, architecture: Architecture) -> Scaler:
    content = read_object(path)
    try:
        columns = content["columns"]
        center = tuple(float(columns[column]["center"]) for column in architecture.columns)
        spread = tuple(float(columns[column]["spread"]) for column in architecture.columns)
        scaler = Scaler(center, spread, float(content["level"]))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: not the scaler of this model ({type(error).__name__}: {error})") from error
    if not np.isfinite([*center, *spread, scaler.level]).all() or min(*spread, scaler.level) <= 0:
        raise InputError(f"{path}: centers must be finite, spreads and level finite and above 0")
    return scaler


def _read_weights(path: Path, network: Network) -> dict[str, Tensor]:
    try:
        weights = load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a readable safetensors file ({error})") from error
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if found != expected:
        differing = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
        detail = "; ".join(f"{name}: {found.get(name)}, expected {expected.get(name)}" for name in differing)
        raise InputError(f"{path}: weights do not fit architecture.json ({detail})")
    broken = sorted(name for name, tensor in weights.items() if not torch.isfinite(tensor).all())
    if broken:
        raise InputError(f"{path}: weights that are not finite numbers in {', '.join(broken)}")
    return weights


def _check_features(features: pd.DataFrame, architecture: Architecture) -> None:
    needed = list(architecture.needed)
    missing = [column for column in needed if column not in features.columns]
    if missing:
        raise InputError(f"features lack {', '.join(missing)}; this {architecture.model} model needs them")
    values = features[needed]
    if texts := [name for name in needed if not pd.api.types.is_numeric_dtype(values[name])]:
        numbers = values[texts].apply(pd.to_numeric, errors="coerce")
        values = values.assign(**{name: numbers[name] for name in texts})
    wrong = ~np.isfinite(values.to_numpy(dtype=float, na_value=np.nan))
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        name, value = needed[column], features[needed].iat[row, column]
        raise InputError(f"feature {name} = {value!r} in row {values.index[row]!s}: must be a finite number")


def _scaler_to_json(scaler: Scaler, columns: tuple[str, ...]) -> dict[str, Any]:
    rows = zip(columns, scaler.center, scaler.spread, strict=True)
    return {"level": scaler.level, "columns": {name: {"center": c, "spread": s} for name, c, s in rows}}
