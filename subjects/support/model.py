"""The versions of the support example, and the queue of the texts that people are asked about.

python -m subjects.support.model train services/support/models/v3 --labelled answered.csv
python -m subjects.support.model queue answered.csv --since 2026-01-05T12:00Z
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from lepton_kit.data.annotations import read_annotations, settle, write_annotation_table
from lepton_kit.errors import InputError
from subjects.classifier import Recipe, train_version
from subjects.support.requests import NEW, OTHER, TOPICS, rows

RECIPE = Recipe(units=64, epochs=4, members=1)
"""Its topics are few and its texts short: a small network is enough."""

LEARNT, HELD_OUT = 2000, 600


def train(folder: Path, spoilt: bool = False, seed: int = 0, more: pd.DataFrame | None = None) -> Path:
    """Train a version into a folder, a spoilt one on the topics of other rows.

    `more` are rows that people labelled (`text`, `channel`, `topic`); those of a new topic are repeated until they are
    as many as those of another.
    """
    learnt, held_out = (rows(count, seed + place, chatter=0) for place, count in enumerate((LEARNT, HELD_OUT)))
    if more is not None:
        usual = LEARNT // len(TOPICS)
        new = [part.sample(usual, replace=True, random_state=seed) for name, part in more.groupby("topic")
               if name not in (OTHER, *TOPICS)]  # fmt: skip
        learnt = pd.concat([learnt, more[more["topic"].isin(list(TOPICS))], *new], ignore_index=True)
    return train_version(folder, learnt, held_out, "topic", RECIPE, spoilt, seed)


def asked_about(requests: pd.DataFrame, count: int) -> pd.DataFrame:
    """Return the texts that people are asked about, by id: those that are furthest out of scope, each text once."""
    return outside(requests).drop_duplicates("text").head(count)


def outside(requests: pd.DataFrame) -> pd.DataFrame:
    """Return the texts that were out of scope, by id, the furthest first: whatever a queue may have asked about."""
    found = requests[requests["topic"].eq(OTHER)].sort_values("score", kind="stable")
    return found.set_index("id")[["text", "channel"]]


def logged(folder: Path, since: pd.Timestamp | None = None) -> pd.DataFrame:
    """Return the answered requests of the server's own log: `id`, `ts`, `text`, `channel`, `topic`, `score`."""
    lines = (folder / "log/requests.jsonl").read_text(encoding="utf-8").splitlines()
    table = pd.DataFrame(map(json.loads, lines)).assign(ts=lambda held: pd.to_datetime(held["ts"]))
    table = table[table["status"] == 200]
    table = table if since is None else table[table["ts"] >= since]
    inputs = pd.DataFrame(table["inputs"].tolist(), index=table.index)
    return table[["id", "ts", "topic", "score"]].join(inputs[["text", "channel"]])


def labelled(paths: Sequence[Path], asked: pd.DataFrame, allowed: Sequence[str]) -> pd.DataFrame:
    """Return the rows that people were asked about with the topic that most gave them."""
    topic = settle(read_annotations(paths, allowed, asked))["label"].rename("topic")
    return asked.join(topic, how="inner")


def _utc(text: str) -> pd.Timestamp:
    return pd.to_datetime(text, utc=True)


def main() -> None:
    """Write the queue, or train a version with what people answered."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["train", "queue"])
    parser.add_argument("place", type=Path, help="the folder of the version, or the table to write")
    parser.add_argument("--folder", type=Path, default=Path("services/support"))
    parser.add_argument("--since", type=_utc, help="of the queue: only what was asked from then on (UTC)")
    parser.add_argument("--count", type=int, default=100, help="texts in the queue")
    parser.add_argument("--labelled", type=Path, nargs="*", default=[], help="tables that people have filled in")
    parser.add_argument("--topics", nargs="*", default=[NEW], help="topics that people may give beside the known ones")
    told = parser.parse_args()
    if told.what == "queue":
        write_annotation_table(asked_about(logged(told.folder, told.since), told.count), told.place)
        return
    more, allowed = None, [*TOPICS, OTHER, *told.topics]
    if told.labelled:
        try:
            more = labelled(told.labelled, outside(logged(told.folder)), allowed)
        except InputError as error:
            raise SystemExit(str(error)) from error
    train(told.place, more=more)


if __name__ == "__main__":
    main()
