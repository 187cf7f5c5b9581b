"""What each listing of the site shows, the newest first, and the feed of incidents."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import format_datetime
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from lepton_kit.errors import InputError
from lepton_kit.files import write_atomically
from lepton_kit.reports.cards import Card
from lepton_kit.reports.frame import PLAIN, split_page
from lepton_kit.reports.health_history import history_html
from lepton_kit.reports.markup import visible

RECENT = 12
HEALTH, MODELS = ("service-health", "drift-watch"), ("02-training", "03-evaluation", "05-optimisation")
FEED = "incidents.xml"
MOST_IN_FEED = 50
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
    return visible(_template("listing.html.j2").render(listing=listing, cards=cards))


def write_feed(reports: Path, site: Path, cards: Sequence[Card]) -> None:
    """Write the newest incidents as an RSS feed.

    Readers need whole addresses: `site-url` of `_quarto.yml` begins them. Without it links are relative to the feed.
    """
    website = yaml.safe_load((reports / "_quarto.yml").read_text(encoding="utf-8"))["website"]
    base = str(website.get("site-url", "")).rstrip("/")
    feed = _template("incidents.xml.j2").render(
        site=website["title"], start=f"{base}/" if base else "", cards=LISTINGS["incidents"](cards)[:MOST_IN_FEED]
    )
    write_atomically(site / FEED, visible(feed) + "\n")


@cache
def _template(name: str) -> Any:
    from jinja2 import Environment, FileSystemLoader  # the import costs what only rendering should pay

    templates = Environment(loader=FileSystemLoader(PLAIN), autoescape=True)
    templates.filters["rfc822"] = lambda date: format_datetime(
        datetime.fromisoformat(date).replace(tzinfo=UTC), usegmt=True
    )
    return templates.get_template(name)
