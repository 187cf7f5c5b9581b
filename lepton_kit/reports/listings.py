"""What each listing of the site shows, the newest first."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml

from lepton_kit.errors import InputError
from lepton_kit.files import write_atomically
from lepton_kit.reports.cards import FIGURE, Card
from lepton_kit.reports.health_history import history_html
from lepton_kit.reports.markup import as_text, as_words

RECENT = 12
HEALTH, MODELS = ("service-health", "drift-watch"), ("02-training", "03-evaluation", "05-optimisation")
Chosen = Callable[[Sequence[Card]], list[Card]]


def _of_kind(kind: str) -> Chosen:
    return lambda cards: [card for card in cards if card.kind == kind]


def _of_groups(groups: Sequence[str]) -> Chosen:
    return lambda cards: [card for card in cards if card.kind == "runs" and card.group in groups]


def _newest_of_groups(groups: Sequence[str]) -> Chosen:
    def chosen(cards: Sequence[Card]) -> list[Card]:
        found = _of_groups(groups)(cards)
        newest = {(card.group, card.facts.get("service", "")): card for card in reversed(found)}
        return [card for card in found if card in newest.values()]

    return chosen


LISTINGS: dict[str, Chosen] = {
    "open": lambda cards: [
        card for card in cards if card.kind == "incidents" and card.facts.get("status") != "resolved"
    ],
    "recent": lambda cards: list(cards[:RECENT]),
    "incidents": _of_kind("incidents"),
    "diagnoses": _of_groups(["incident-diagnosis"]),
    "health-now": _newest_of_groups(HEALTH),
    "health": _of_groups(HEALTH),
    "versions": _of_kind("models"),
    "models": _of_groups(MODELS),
    "drills": _of_kind("drills"),
    "runs": _of_kind("runs"),
}
"""The files in `reports/listings/`, and which pages each of them lists."""

PARTS: dict[str, Callable[[Sequence[Card]], str]] = {"health-history": history_html}
"""What is drawn over many pages, as HTML files in `reports/listings/`; a page has a place for it as for a listing."""


def items_of(cards: Sequence[Card]) -> list[dict[str, Any]]:
    """Return the items of a listing as Quarto takes them; their text has no meaning as markup."""
    return [_item(card) for card in cards]


def write_listings(reports: Path, cards: list[Card]) -> None:
    """Write the files that the listings of the Quarto project show, into `listings/`.

    Quarto reads an item's text as HTML, so it is escaped here.
    """
    folder = reports / "listings"
    folder.mkdir(exist_ok=True)
    for name, chosen in LISTINGS.items():
        write_atomically(
            folder / f"{name}.yml", json.dumps(items_of(chosen(cards)), ensure_ascii=False, indent=1) + "\n"
        )


PLACE = re.compile(r"(?m)^::: \{#([\w-]+)\}\n:::$")
"""Where a page shows the listing of an id, as Quarto has it, or the part of a name."""

NOTHING = "None."


def split_page(source: Path) -> tuple[dict[str, Any], str]:
    """Split a `.qmd` page into its front matter and its words.

    Raises InputError when it does not begin with front matter.
    """
    parts = source.read_text(encoding="utf-8").split("---\n", 2)
    if len(parts) != 3 or parts[0].strip():
        raise InputError(f"{source}: must start with YAML front matter between two lines `---`")
    return yaml.safe_load(parts[1]), parts[2]


def parts_of(cards: Sequence[Card]) -> dict[str, str]:
    """Return what is drawn over many pages, as HTML by name."""
    return {name: made(cards) for name, made in PARTS.items()}


def _item(card: Card) -> dict[str, Any]:
    item: dict[str, Any] = {
        "path": card.address,
        "title": as_text(as_words(card.title)),
        "date": card.date[:19],
        "description": as_text(as_words(card.description)),
        "categories": [as_text(as_words(name)) for name in card.categories],
        **{name: as_text(as_words(value)) for name, value in card.facts.items()},
    }
    if card.image_alt is not None:
        item |= {"image": f"{quote(card.folder)}/{FIGURE}", "image-alt": as_words(card.image_alt)}
    return item
