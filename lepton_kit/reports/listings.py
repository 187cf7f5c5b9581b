"""What each listing of the site shows, the newest first, and the feed of incidents."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from lepton_kit.errors import InputError
from lepton_kit.files import write_atomically
from lepton_kit.reports.cards import Card
from lepton_kit.reports.frame import split_page
from lepton_kit.reports.health_history import history_html
from lepton_kit.reports.markup import PLAIN, render

RECENT = 12
HEALTH, MODELS = ("service-health", "drift-watch"), ("02-training", "03-evaluation", "05-optimisation")
FEED = "incidents.xml"
MOST_IN_FEED = 50


def _of(kind: str, cards: Sequence[Card], groups: Sequence[str] = ()) -> list[Card]:
    return [card for card in cards if card.kind == kind and (not groups or card.group in groups)]


def _newest(cards: Sequence[Card]) -> list[Card]:
    """Return the newest page of each group and service."""
    newest = {(card.group, card.facts.get("service", "")): card for card in reversed(cards)}
    return [card for card in cards if card in newest.values()]


LISTINGS: dict[str, Callable[[Sequence[Card]], list[Card]]] = {
    "open": lambda cards: [card for card in _of("incidents", cards) if card.facts.get("status") != "resolved"],
    "recent": lambda cards: list(cards[:RECENT]),
    "incidents": lambda cards: _of("incidents", cards),
    "diagnoses": lambda cards: _of("runs", cards, ["incident-diagnosis"]),
    "health-now": lambda cards: _newest(_of("runs", cards, HEALTH)),
    "health": lambda cards: _of("runs", cards, HEALTH),
    "versions": lambda cards: _of("models", cards),
    "models": lambda cards: _of("runs", cards, MODELS),
    "drills": lambda cards: _of("drills", cards),
    "runs": lambda cards: _of("runs", cards),
}
"""The listings by the name of their contents, `listings/<name>.yml` in a page's front matter, and what each lists."""

PARTS: dict[str, Callable[[Sequence[Card]], str]] = {"health-history": history_html}
"""What is drawn over many pages; a page has a place for it as for a listing."""


def contents_of(source: Path, cards: Sequence[Card]) -> dict[str, str]:
    """Return the content of each place that a `.qmd` page may have, as HTML: its listings, and what is drawn.

    Raises InputError when its front matter lists what there is not.
    """
    found, script = {name: made(cards) for name, made in PARTS.items()}, (PLAIN / "listing.js").read_text("utf-8")
    for listing in split_page(source)[0].get("listing", []):
        if (name := Path(listing["contents"]).stem) not in LISTINGS:
            raise InputError(f"{source}: has no contents {name!r} to list: allowed are {', '.join(LISTINGS)}")
        found[listing["id"]] = listing_html(listing, LISTINGS[name](cards)) + f"<script>\n{script}</script>"
        script = ""
    return found


def listing_html(listing: Mapping[str, Any], cards: Sequence[Card]) -> str:
    """Return a listing, as Quarto declares it: a table of its fields, or a list of what stands for each page."""
    return render("listing.html.j2", listing=listing, cards=cards)


def write_feed(reports: Path, site: Path, cards: Sequence[Card]) -> None:
    """Write the newest incidents as an RSS feed.

    Readers need whole addresses: `site-url` of `_quarto.yml` begins them. Without it links are relative to the feed.
    """
    website = yaml.safe_load((reports / "_quarto.yml").read_text(encoding="utf-8"))["website"]
    base = str(website.get("site-url", "")).rstrip("/")
    start, incidents = f"{base}/" if base else "", LISTINGS["incidents"](cards)[:MOST_IN_FEED]
    feed = render("incidents.xml.j2", site=website["title"], start=start, cards=incidents)
    write_atomically(site / FEED, feed + "\n")
