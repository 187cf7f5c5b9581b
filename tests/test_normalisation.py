"""Normalisation is learnt from training rows only, and serving does the same, bit for bit."""

import numpy as np
import pandas as pd
import pytest
from services import serving
from sklearn.preprocessing import StandardScaler

from lepton_kit.data.contracts import Contract
from lepton_kit.errors import InputError
from lepton_kit.models.fitting import fit, pipeline
from lepton_kit.models.golden import golden_examples
from lepton_kit.models.normalisation import GroupScaler, Normalisation
from lepton_kit.models.registry import Registry
from lepton_kit.models.tasks import task_of
from lepton_kit.models.training import Examples

CONTRACT = Contract(numbers=("age", "income"), categories=("town",), target="actual", is_class=True)
BINARY = task_of("classification_binary")
WAYS = [Normalisation(), Normalisation("robust"), Normalisation("quantile"), Normalisation("per-group", "town")]


def rows(seed: int, count: int = 300) -> Examples:
    chance = np.random.default_rng(seed)
    town = chance.choice(["a", "b", "c"], count, p=[0.5, 0.45, 0.05])
    age = chance.normal(40, 9, count) + 20 * (town == "b")
    table = pd.DataFrame({"age": age, "income": chance.lognormal(1, 1, count), "town": town})
    return Examples(table, pd.Series((age + 5 * table["income"] > chance.normal(60, 9, count)).astype(float)))


COLUMNS = ["town", "age", "income"]
LEARNT, ASKED = rows(0), rows(1, 50).features


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.method)
def test_what_is_kept_transforms_and_answers_as_in_training_bit_for_bit(way, tmp_path):
    trained = pipeline("linear", CONTRACT, is_class=True, normalisation=way).fit(LEARNT.features, LEARNT.target)
    kept = fit("linear", LEARNT, CONTRACT, BINARY, tmp_path, normalisation=way)
    expected = trained.predict_proba(ASKED[list(CONTRACT.features)])[:, 1]
    assert np.array_equal(kept.predict(ASKED)["proba"].to_numpy(), expected)
    one_by_one = [kept.predict(ASKED.iloc[[row]])["proba"].item() for row in range(5)]
    assert np.allclose(one_by_one, expected[:5], rtol=1e-12)


def test_a_server_answers_as_training_did_bit_for_bit(tmp_path):
    (tmp_path / "lepton.toml").write_text("")
    way = WAYS[-1]
    model = fit("linear", LEARNT, CONTRACT, BINARY, tmp_path / "made", normalisation=way)
    registry = Registry(tmp_path / "models")
    registry.save("credit", model, {}, golden_examples(model, ASKED), reference=LEARNT.features)
    registry.promote("credit", "v1", "test", "the first")
    trained = pipeline("linear", CONTRACT, is_class=True, normalisation=way).fit(LEARNT.features, LEARNT.target)
    strange = ASKED.assign(town=["unseen", *ASKED["town"].iloc[1:]])
    with serving(tmp_path, model="credit") as service:
        answers = [service.predict(row=row).json() for row in strange.head(20).to_dict("records")]
    alone = [trained.predict_proba(strange.iloc[[row]])[0, 1] for row in range(20)]
    assert [answer["predictions"][0]["proba"] for answer in answers] == alone


def test_only_the_rows_that_are_fitted_on_decide_the_scale():
    for way in WAYS:
        transformer, columns = way.part(CONTRACT.numbers, CONTRACT.categories)
        before = transformer.fit(LEARNT.features[columns]).transform(ASKED[columns])
        wild = pd.concat([ASKED, ASKED.assign(age=1e6)])
        assert np.array_equal(transformer.transform(wild[columns])[: len(ASKED)], before)


def test_each_group_is_scaled_by_its_own_rows_and_an_unseen_or_rare_one_by_all():
    table = LEARNT.features
    scaler = GroupScaler().fit(table[COLUMNS])
    of_b = table.loc[table["town"] == "b", ["age", "income"]].to_numpy()
    for name, own in (("b", of_b), ("unseen", table[["age", "income"]].to_numpy())):
        expected = StandardScaler().fit(own).transform(of_b)
        assert np.allclose(
            scaler.transform(table[table["town"] == "b"].assign(town=name)[COLUMNS]), expected, rtol=1e-12
        )
    rare = pd.concat([table.assign(town="a"), table.head(9).assign(town="rare")])
    assert GroupScaler().fit(rare[COLUMNS]).groups_ == ["a"]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.method)
def test_a_constant_column_gives_zero(way):
    table = LEARNT.features.assign(income=7.0)
    transformer, columns = way.part(CONTRACT.numbers, CONTRACT.categories)
    scaled = transformer.fit(table[columns]).transform(table[columns])
    assert (scaled[:, 1] == 0).all() and np.isfinite(scaled).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Normalisation("minmax"), "normalisation = 'minmax': must be one of standard, robust, quantile"),
        (lambda: Normalisation("per-group"), "group = None: per-group needs one"),
        (lambda: Normalisation("robust", "town"), "group = 'town': per-group needs one, and no other"),
        (
            lambda: pipeline("linear", CONTRACT, True, normalisation=Normalisation("per-group", "age")),
            "group = 'age': must be a category; there are town",
        ),
    ],
)
def test_a_bad_normalisation_is_refused_by_name(make, message):
    with pytest.raises(InputError, match=message):
        make()
