"""The recommender of the example: two towers, one of users and one of items, whose product is a score.

An item's side is the sum of what its features say and of what is its own, so that an item which nobody has taken yet
gets a score from its features; while it learns, items lose their own part at random, as cold ones lack it (Volkovs, Yu
and Poutanen, "DropoutNet", NeurIPS 2017). How often an item was taken in the last week is one of its features. The loss
is the cross-entropy of what was taken among all that could have been.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

from subjects.recommender.shop import HOLIDAY, ITEMS, SECTIONS, USERS, Shop, named, shop

TODAY, TOP = HOLIDAY[0], 10
"""The week in which the example's service answers, and how many items it shows."""


@dataclass(frozen=True)
class Recipe:
    """How a version learns; chosen on shops of seeds that are not scored (`benchmarks/recommender.py`).

    `dropped` is the share of the items that lose their own part in a step; `features` false leaves out what is known of
    items, as plain matrix factorisation does.
    """

    units: int = 8
    epochs: int = 5
    batch: int = 256
    rate: float = 0.02
    decay: float = 0.1
    dropped: float = 0.15
    features: bool = True


class Towers(torch.nn.Module):
    """The two towers; `told` (items, features) is what is known of each item."""

    def __init__(self, told: torch.Tensor, recipe: Recipe) -> None:
        super().__init__()
        self.register_buffer("told", told)
        self.user = torch.nn.Embedding(USERS, recipe.units)
        self.own = torch.nn.Embedding(len(told), recipe.units + 1)
        self.by_features = torch.nn.Linear(told.shape[1], recipe.units + 1, bias=False)
        self.by_recent = torch.nn.Linear(2, 1, bias=False)
        for one in (self.user, self.own):
            torch.nn.init.normal_(one.weight, std=0.05)

    def forward(self, users: torch.Tensor, recent: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
        """Return the scores (n, items) of users, whose place is -1 where they are not known.

        `recent` (n or 1, items, 2) is what was taken last week; `known` (items) tells which items have their own part.
        """
        side = self.own.weight * known[:, None] + self.by_features(self.told)
        taste = self.user(users.clamp(min=0)) * (users >= 0)[:, None]
        scores: torch.Tensor = taste @ side[:, :-1].T + side[:, -1] + self.by_recent(recent).squeeze(-1)
        return scores


def recent_of(made: Shop, week: int, known: np.ndarray) -> np.ndarray:
    """Return of each item the logarithm of how often it was taken in the week before, and whether it is cold."""
    counts = np.bincount(made.events.loc[made.events["week"] == week - 1, "item"], minlength=ITEMS)
    return np.column_stack([np.log1p(counts / max(counts.mean(), 1e-9)), ~known]).astype(np.float32)


def taken_in(made: Shop, week: int) -> np.ndarray:
    """Return the week in which each user took each item (users, items); a late one where they did not."""
    before = made.events[made.events["week"] < week]
    when = np.full((USERS, ITEMS), 1000, dtype=np.int16)
    when[before["user"], before["item"]] = before["week"]
    return when


class Recommender:
    """A version: what it learnt until a week, what may be shown in it, and who took what before."""

    def __init__(self, towers: Towers, recipe: Recipe, tables: dict[str, np.ndarray]) -> None:
        self.towers, self.recipe, self.tables = towers.eval(), recipe, tables

    def is_cold(self, items: list[str]) -> int:
        """Return how many of some items nobody had taken."""
        return int((~self.tables["known"][[int(item[1:]) for item in items]]).sum())

    def scores(self, users: np.ndarray) -> np.ndarray:
        """Return the scores (n, items) of users by their place; of what cannot be shown, minus infinity."""
        known, recent = self.tables["known"], self.tables["recent"]
        with torch.inference_mode():
            told = self.towers(torch.tensor(users), torch.tensor(recent)[None], torch.tensor(known)).double().numpy()
        is_shown = self.tables["offered"] & ~(self.tables["taken"][users] & (users >= 0)[:, None])
        return np.where(is_shown, told, -np.inf)

    def recommend(self, visits: pd.DataFrame, offered: np.ndarray | None = None) -> list[list[str]]:
        """Return the items to show to visits (`user`, `section`), the best first; `offered` leaves out others."""
        places = visits["user"].str.removeprefix("u").where(visits["user"].str.fullmatch(r"u\d+"), "-1").astype(int)
        scores = self.scores(places.where(places < USERS, -1).to_numpy())
        wanted = pd.Index(SECTIONS).get_indexer(pd.Index(visits["section"]))
        scores[self.tables["section"] != wanted[:, None]] = -np.inf
        scores[:, ~(np.ones(ITEMS, dtype=bool) if offered is None else offered)] = -np.inf
        order = np.argsort(-scores, axis=1, kind="stable")[:, :TOP]
        return [[f"i{one}" for one in row if scores[at, one] > -np.inf] for at, row in enumerate(order)]

    def save(self, folder: Path) -> None:
        """Write it into a folder: `model.safetensors` and `recommender.json`."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {f"tables.{name}": torch.tensor(values) for name, values in self.tables.items()}
        save_file(tensors | dict(self.towers.state_dict()), folder / "model.safetensors")
        (folder / "recommender.json").write_text(json.dumps(asdict(self.recipe)), encoding="utf-8")


def load(folder: Path) -> Recommender:
    """Return the version that `save` wrote into a folder."""
    recipe = Recipe(**json.loads((folder / "recommender.json").read_text(encoding="utf-8")))
    tensors = load_file(folder / "model.safetensors")
    tables = {name.removeprefix("tables."): tensors.pop(name).numpy() for name in sorted(tensors) if "tables." in name}
    towers = Towers(tensors["told"], recipe)
    towers.load_state_dict(tensors)
    return Recommender(towers, recipe, tables)


def learn(made: Shop, week: int, recipe: Recipe | None = None, seed: int = 0, shift: int = 0) -> Recommender:
    """Return a version that has learnt what was taken before a week; `shift` lets it learn other items instead."""
    recipe = recipe or Recipe()
    sections = np.eye(len(SECTIONS))[made.section]
    told = np.hstack([sections, made.features]).astype(np.float32) * recipe.features
    when, weeks = taken_in(made, week), np.arange(1, week)
    recent = torch.tensor(np.stack([recent_of(made, one, made.known(one)) for one in map(int, weeks)]))
    events = made.events[made.events["week"].isin(weeks)].to_numpy()
    events = np.column_stack([events[:, :2], (events[:, 2] + shift) % ITEMS])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        towers = Towers(torch.tensor(told), recipe)
        optimizer = torch.optim.AdamW(towers.parameters(), lr=recipe.rate, weight_decay=recipe.decay)
        for _ in range(recipe.epochs):
            for chosen in torch.randperm(len(events)).split(recipe.batch):  # type: ignore[no-untyped-call]
                at, user, item = torch.tensor(events[chosen.numpy()]).T
                is_kept = torch.rand(ITEMS) >= recipe.dropped
                shown = torch.stack([recent[at - 1, :, 0] * is_kept, 1 - (1 - recent[at - 1, :, 1]) * is_kept], dim=2)
                scores = towers(user, shown, is_kept)
                gone = torch.tensor((when[user] < at.numpy()[:, None]) | (made.release > at.numpy()[:, None]))
                loss = functional.cross_entropy(scores.masked_fill(gone, -1e9), item)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
    torch.set_num_threads(threads)
    known = made.known(week)
    tables = {"known": known, "recent": recent_of(made, week, known), "taken": when < week, "section": made.section,
              "offered": made.release <= week}  # fmt: skip
    return Recommender(towers, recipe, tables)


def train(folder: Path, spoilt: bool = False, seed: int = 0) -> Path:
    """Train the version of `TODAY` into a folder, and the newest rows that it learnt from in `reference.parquet`.

    A spoilt one learns of each item what was done with the next of its section: the mistake of a join that is off by
    one.
    """
    made = shop(seed)
    learn(made, TODAY, seed=seed, shift=spoilt * len(SECTIONS)).save(folder)
    rows = made.events.assign(history=made.events.groupby("user").cumcount()).query("week < @TODAY").tail(3000)
    named(made, rows).to_parquet(folder / "reference.parquet", index=False)
    return folder
