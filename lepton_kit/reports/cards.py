"""What is published: a folder for each page, with the page itself and a card that says what listings show of it.

```
reports/runs/<run id>/        page.html  card.json  figure.png  notebook.ipynb  manifest.json …
reports/incidents/<id>/       the same, of a whole incident
reports/drills/<id>/          of drills that were made together
reports/models/<model@version>/
```

A listing never opens the pages it lists: of a thousand, their cards are read in a moment.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import quote

from lepton_kit.errors import InputError
from lepton_kit.files import locked, single_name

CARD, PAGE, FIGURE = "card.json", "page.html", "figure.png"
FORMAT = 3
"""Of pages that are safe HTML, to be put into the frame of the site; earlier ones were notebooks."""
Kind = Literal["runs", "incidents", "drills", "models"]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""The folders of pages, in the Quarto project and on the site alike."""


@dataclass(frozen=True)
class Card:
    """A page in a line.

    `date` is when it began, in UTC: `2026-11-25 03:00:00.123456`. `group` is the name of the notebook of a run, of the
    alert of an incident, of the model of a version. `facts` are further columns of its listing, and `measured` is what
    a page over many runs draws. `content` changes whenever the page does, `printed` when its PDF does. All text is
    plain: pages escape it.
    """

    kind: Kind
    id: str
    title: str
    date: str
    description: str
    group: str
    categories: tuple[str, ...] = ()
    image_alt: str | None = None
    facts: Mapping[str, str] = field(default_factory=dict)
    measured: Sequence[Mapping[str, Any]] = ()
    content: str = ""
    printed: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"kind of page {self.kind!r}: must be one of {', '.join(KINDS)}")
        single_name(self.id, f"page of {self.kind}")

    @property
    def folder(self) -> str:
        """Return where its page lies in the site, relative to the site's root."""
        return f"{self.kind}/{self.id}"

    @property
    def address(self) -> str:
        """Return its page's address from the site's root; an id may hold what means something in an address."""
        return f"{quote(self.folder)}/index.html"

    @property
    def figure(self) -> str:
        """Return the address of the picture that stands for its page, if `image_alt` says that there is one."""
        return f"{quote(self.folder)}/{FIGURE}"


@dataclass(frozen=True)
class LeftOut:
    """A page that the site does without, and why: its folder from the site's root, or its run's id."""

    page: str
    reason: str

    def __str__(self) -> str:
        return f"{self.page} is left out: {self.reason}"


def place(reports: Path, card: Card, page: str, files: Mapping[str, bytes | Path]) -> Card:
    """Put a page where the site is made from, whole or not at all, in place of an earlier one; return its card.

    The card's `content` is filled in here. `files` lie beside the page, by name: bytes, or a file to copy.
    """
    folder = reports / card.kind
    folder.mkdir(exist_ok=True)
    seen = hashlib.sha256(page.encode())
    aside = Path(tempfile.mkdtemp(prefix=".placing-", dir=folder))
    try:
        new = aside / "new"
        new.mkdir()
        for name, content in sorted(files.items()):
            if isinstance(content, Path):
                shutil.copyfile(content, new / name)
            else:
                (new / name).write_bytes(content)
            seen.update(name.encode() + (new / name).read_bytes())
        (new / PAGE).write_text(page, encoding="utf-8")
        made = Card(**{**asdict(card), "content": seen.hexdigest()})
        held = {**asdict(made), "format": FORMAT}
        (new / CARD).write_text(json.dumps(held, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        with locked(reports / ".publishing"):
            if (folder / card.id).exists():
                (folder / card.id).rename(aside / "old")
            new.rename(folder / card.id)
    finally:
        shutil.rmtree(aside)
    return made


def published(reports: Path) -> list[Card]:
    """Return the cards of all published pages that can be read, the newest first."""
    found = [card for card in _all(reports) if isinstance(card, Card)]
    return sorted(found, key=lambda card: (card.date, card.id), reverse=True)


def unreadable(reports: Path) -> list[LeftOut]:
    """Return the published pages whose cards cannot be read: no listing knows what to show of them."""
    return [one for one in _all(reports) if isinstance(one, LeftOut)]


def take_away(reports: Path, cards: Iterable[Card]) -> None:
    """Remove published pages; the site has them until it is built again."""
    with locked(reports / ".publishing"):
        for card in cards:
            shutil.rmtree(reports / card.folder)


def _all(reports: Path) -> Iterator[Card | LeftOut]:
    for path in (path for kind in KINDS for path in sorted((reports / kind).glob(f"[!.]*/{CARD}"))):
        try:
            yield _read(path)
        except InputError as error:
            yield LeftOut(path.parent.relative_to(reports).as_posix(), str(error))


def _read(path: Path) -> Card:
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        if held.pop("format", 1) != FORMAT:  # a page whose content nobody has made safe
            raise ValueError("it is of another version of the kit")
        card = Card(**{**held, "categories": tuple(held["categories"])})
        if card.folder != f"{path.parents[1].name}/{path.parent.name}":
            raise ValueError(f"it is the card of {card.folder}")
        return card
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError, InputError) as error:
        raise InputError(f"{path}: not the card of a published page ({error}); publish it again") from error
