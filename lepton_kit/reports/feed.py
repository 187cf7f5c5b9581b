"""The RSS feed of incidents, the same with and without Quarto."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from xml.etree import ElementTree

import yaml

from lepton_kit.files import write_atomically
from lepton_kit.reports.cards import Card

FEED = "incidents.xml"
MOST = 50


def write_feed(reports: Path, site: Path, cards: Sequence[Card]) -> None:
    """Write the newest incidents as an RSS 2.0 feed (https://www.rssboard.org/rss-specification).

    Readers need whole addresses: `site-url` of `_quarto.yml` begins them. Without it links are relative to the feed.
    """
    website = yaml.safe_load((reports / "_quarto.yml").read_text(encoding="utf-8"))["website"]
    base = str(website.get("site-url", "")).rstrip("/")
    start = f"{base}/" if base else ""
    feed = ElementTree.Element("rss", version="2.0")
    channel = ElementTree.SubElement(feed, "channel")
    title = f"{website['title']}: incidents"
    _add(channel, title=title, link=f"{start}incidents.html", description="Incidents, the newest first")
    for card in [card for card in cards if card.kind == "incidents"][:MOST]:
        item = ElementTree.SubElement(channel, "item")
        told = [f"{name} {value}" for name, value in card.facts.items() if value]
        _add(
            item, title=card.title, link=f"{start}{card.address}", guid=card.folder,
            pubDate=format_datetime(datetime.fromisoformat(card.date).replace(tzinfo=UTC), usegmt=True),
            description="; ".join([card.description, *told]),
        )  # fmt: skip
        item.find("guid").set("isPermaLink", "false")  # type: ignore[union-attr]  # it was added just now
    text = ElementTree.tostring(feed, encoding="unicode", xml_declaration=False)
    write_atomically(site / FEED, f'<?xml version="1.0" encoding="UTF-8"?>\n{_without_control_characters(text)}\n')


def _add(parent: ElementTree.Element, **texts: str) -> None:
    for name, text in texts.items():
        ElementTree.SubElement(parent, name).text = text


def _without_control_characters(text: str) -> str:
    """Return text without what XML 1.0 allows nowhere, not even as a reference."""
    return "".join(one for one in text if one >= " " or one in "\t\n\r")
