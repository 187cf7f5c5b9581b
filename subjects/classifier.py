"""A classifier of short texts that also says how sure it is that a text is about anything it has learnt.

Words, pairs of words and pieces of words, weighted by tf-idf, are the inputs of a network with one hidden layer: an
embedding of each piece, their sum, ReLU, and a logit per class. Several networks that differ by their seed are
averaged. Pieces are dropped at random while it learns, and the targets are smoothed (Szegedy et al., CVPR 2016,
section 7); the largest logit is the score by which texts within scope are separated from others (Vaze et al., "Open-set
recognition: a good closed-set classifier is all you need", ICLR 2022).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from scipy.sparse import csr_matrix, hstack
from sklearn.feature_extraction.text import TfidfVectorizer
from torch.nn import functional

PIECES: dict[str, dict[str, Any]] = {
    "words": {"ngram_range": (1, 2), "token_pattern": r"\S+"},
    "letters": {"analyzer": "char_wb", "ngram_range": (2, 5), "min_df": 2},
}
Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Recipe:
    """How a classifier learns; of CLINC150 `benchmarks/intents.py` chooses 12 epochs, by its validation rows.

    Parameters
    ----------
    units
        Of the hidden layer.
    dropout, piece_dropout
        The share of the hidden units, and of a text's pieces, that each step leaves out.
    smoothing
        The share of a target that is spread over all classes.
    epochs, batch, rate
        Passes over the texts, texts of a step, and the first learning rate, which falls to 0 as a cosine does.
    members
        Networks that are averaged.
    kept
        The share of held-out texts within scope that `predict` calls so.
    """

    units: int = 256
    dropout: float = 0.5
    piece_dropout: float = 0.3
    smoothing: float = 0.1
    epochs: int = 6
    batch: int = 64
    rate: float = 3e-3
    members: int = 3
    kept: float = 0.97


class Member(torch.nn.Module):
    """One network: of a batch of sparse rows, the logits (n, classes)."""

    def __init__(self, pieces: int, classes: int, recipe: Recipe) -> None:
        super().__init__()
        self.pieces = torch.nn.EmbeddingBag(pieces, recipe.units, mode="sum", sparse=True)
        torch.nn.init.normal_(self.pieces.weight, std=0.05)
        self.bias = torch.nn.Parameter(torch.zeros(recipe.units))
        self.out = torch.nn.Linear(recipe.units, classes)
        self.dropout = recipe.dropout

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return the logits."""
        places, starts, weights = batch
        hidden = torch.relu(self.pieces(places, starts, per_sample_weights=weights) + self.bias)
        logits: torch.Tensor = self.out(functional.dropout(hidden, self.dropout, self.training))
        return logits


def _batch(rows: csr_matrix) -> Batch:
    return (
        torch.tensor(rows.indices, dtype=torch.long),
        torch.tensor(rows.indptr[:-1], dtype=torch.long),
        torch.tensor(rows.data, dtype=torch.float32),
    )


class TextClassifier:
    """A trained classifier: `classes` in the order of its logits, and `least`, the score from which a text is in scope.

    Examples
    --------
    >>> texts = ["where is my parcel", "track my parcel", "cancel my order", "please cancel the order"] * 8
    >>> trained = train(texts, ["delivery", "delivery", "cancel", "cancel"] * 8, Recipe(units=16, members=1))
    >>> trained.predict(["my parcel please"])["label"].tolist()
    ['delivery']
    """

    def __init__(
        self, vectorizers: Sequence[TfidfVectorizer], members: Sequence[Member], classes: Sequence[str], recipe: Recipe
    ) -> None:
        self._vectorizers, self._members = list(vectorizers), list(members)
        self.classes, self.recipe, self.least = list(classes), recipe, -np.inf

    def logits(self, texts: Sequence[str]) -> np.ndarray:
        """Return the mean logits of the members (n, classes)."""
        rows = _weighted(self._vectorizers, texts)
        made = np.zeros((len(texts), len(self.classes)))
        with torch.inference_mode():
            for start in range(0, len(texts), 512):
                batch = _batch(rows[start : start + 512])
                made[start : start + 512] = sum(member(batch).numpy() for member in self._members)
        return made / len(self._members)

    def predict(self, texts: Sequence[str]) -> pd.DataFrame:
        """Return `label`, `score` (the largest logit: how far within scope) and `in_scope` of each text."""
        logits = self.logits(texts)
        score = logits.max(axis=1)
        label = np.array(self.classes, dtype=object)[logits.argmax(axis=1)]
        return pd.DataFrame({"label": label, "score": score, "in_scope": score >= self.least})

    def set_scope(self, texts: Sequence[str]) -> None:
        """Set `least` so that the share `recipe.kept` of these texts, which it has not learnt from, is in scope."""
        self.least = float(np.quantile(self.logits(texts).max(axis=1), 1 - self.recipe.kept))

    def save(self, folder: Path) -> None:
        """Write it into a folder: `model.safetensors`, and `classifier.json` with pieces, classes and recipe."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {
            f"{place}.{name}": values
            for place, member in enumerate(self._members)
            for name, values in member.state_dict().items()
        }
        for name, one in zip(PIECES, self._vectorizers, strict=True):
            tensors[f"idf.{name}"] = torch.tensor(one.idf_)
        save_file(tensors, folder / "model.safetensors")
        pieces = {
            name: one.get_feature_names_out().tolist() for name, one in zip(PIECES, self._vectorizers, strict=True)
        }
        told = {"classes": self.classes, "least": self.least, "recipe": asdict(self.recipe), "pieces": pieces}
        (folder / "classifier.json").write_text(json.dumps(told), encoding="utf-8")


def load(folder: Path) -> TextClassifier:
    """Return the classifier that `save` wrote into a folder."""
    told = json.loads((folder / "classifier.json").read_text(encoding="utf-8"))
    tensors = load_file(folder / "model.safetensors")
    recipe, vectorizers = Recipe(**told["recipe"]), []
    for name, pieces in told["pieces"].items():
        one = _vectorizer(name, vocabulary=pieces)
        one.idf_ = tensors[f"idf.{name}"].numpy()
        vectorizers.append(one)
    members = []
    for place in range(recipe.members):
        member = Member(sum(map(len, told["pieces"].values())), len(told["classes"]), recipe).eval()
        before = f"{place}."
        own = {name.removeprefix(before): held for name, held in tensors.items() if name.startswith(before)}
        member.load_state_dict(own)
        members.append(member)
    made = TextClassifier(vectorizers, members, told["classes"], recipe)
    made.least = told["least"]
    return made


def train(texts: Sequence[str], labels: Sequence[str], recipe: Recipe | None = None, seed: int = 0) -> TextClassifier:
    """Train a classifier on texts and their labels."""
    recipe = recipe or Recipe()
    codes, classes = pd.factorize(pd.Series(list(labels)), sort=True)
    vectorizers = [_vectorizer(name).fit(texts) for name in PIECES]
    rows = _weighted(vectorizers, texts)
    members = [_learn(rows, torch.tensor(codes), len(classes), recipe, seed + place) for place in range(recipe.members)]
    return TextClassifier(vectorizers, members, list(classes), recipe)


def train_version(
    folder: Path, learnt: pd.DataFrame, held_out: pd.DataFrame, target: str, recipe: Recipe, spoilt: bool, seed: int
) -> Path:
    """Train a version into a folder, and the rows that it learnt from in `reference.parquet`.

    The scope is that of the texts that are held out. A spoilt one learns each row's label from the row before: the
    mistake of a join that is off by one.
    """
    labels = learnt[target].shift(1, fill_value=learnt[target].iloc[0]) if spoilt else learnt[target]
    made = train(learnt["text"].tolist(), labels.tolist(), recipe, seed)
    made.set_scope(held_out["text"].tolist())
    made.save(folder)
    learnt.to_parquet(folder / "reference.parquet", index=False)
    return folder


def _vectorizer(name: str, **given: Any) -> TfidfVectorizer:
    return TfidfVectorizer(**{**PIECES[name], **given}, sublinear_tf=True, dtype=np.float32)


def _weighted(vectorizers: Sequence[TfidfVectorizer], texts: Sequence[str]) -> csr_matrix:
    return hstack([one.transform(list(texts)) for one in vectorizers], format="csr")


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let PyTorch use one thread: the steps are so small that a second one makes them slower."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _learn(rows: csr_matrix, codes: torch.Tensor, classes: int, recipe: Recipe, seed: int) -> Member:
    with torch.random.fork_rng(), _one_thread():
        torch.manual_seed(seed)
        member = Member(rows.shape[1], classes, recipe)
        dense = [member.bias, *member.out.parameters()]
        optimizers = [
            torch.optim.SparseAdam([member.pieces.weight], lr=recipe.rate),
            torch.optim.AdamW(dense, lr=recipe.rate, weight_decay=1e-4),
        ]
        steps = recipe.epochs * -(-rows.shape[0] // recipe.batch)
        schedules = [torch.optim.lr_scheduler.CosineAnnealingLR(one, steps) for one in optimizers]
        for _ in range(recipe.epochs):
            for chosen in torch.randperm(rows.shape[0]).split(recipe.batch):  # type: ignore[no-untyped-call]
                places, starts, weights = _batch(rows[chosen.numpy()])
                batch = places, starts, functional.dropout(weights, recipe.piece_dropout)
                loss = functional.cross_entropy(member(batch), codes[chosen], label_smoothing=recipe.smoothing)
                for one in optimizers:
                    one.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                for one in optimizers:
                    one.step()
                for schedule in schedules:
                    schedule.step()
    return member.eval()
