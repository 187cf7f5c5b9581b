"""The one place that turns HTML and Markdown of a notebook into HTML that is safe to show.

Everything goes the same way: parsed (`Draft`), links, pictures, styles and tables put right, and at last cleaned by
bleach, which lets by only the tags and attributes below. Pictures and formulas that the kit itself has made are held
back meanwhile, each behind a mark of characters that no notebook can bring along.
"""

from __future__ import annotations

import re
import secrets
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote, unquote, unquote_to_bytes, urlsplit

from lepton_kit.reports import pictures, styles
from lepton_kit.reports.markup import visible
from lepton_kit.reports.pictures import address_of, decoded, raster_address

TAGS = [
    "a", "abbr", "b", "blockquote", "br", "caption", "cite", "code", "col", "colgroup", "dd", "del", "details", "dfn",
    "div", "dl", "dt", "em", "figcaption", "figure", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "i", "img", "ins", "kbd",
    "li", "mark", "ol", "p", "pre", "q", "s", "samp", "small", "span", "strong", "sub", "summary", "sup", "table",
    "tbody", "td", "tfoot", "th", "thead", "tr", "u", "ul", "var", "wbr",
]  # fmt: skip
ATTRIBUTES = {
    "align",
    "alt",
    "colspan",
    "height",
    "open",
    "rowspan",
    "scope",
    "span",
    "start",
    "style",
    "title",
    "width",
}
"""What of a notebook's own attributes may stay, besides addresses, which are judged one by one."""
OURS = {"class", "id", "role", "aria-label", "tabindex"}
SCHEMES = ("http", "https", "mailto")
LEFT_OUT = {
    ".plotly-graph-div": "a Plotly chart", "[id^=altair-viz], .vega-embed": "a Vega chart",
    ".bk-root, [data-root-id]": "a Bokeh chart", "iframe, frame": "a frame with another page", "audio": "sound",
    "video": "a video", "canvas": "a drawing made by a script", "object, embed, applet": "an embedded object",
    "script": "what a script draws",
}  # fmt: skip
"""What a page cannot show, by its selector."""
ACTING = (
    "script, template, noscript, iframe, frame, audio, video, canvas, object, embed, applet, title, textarea, select"
)
"""Elements of which no word is for a reader either."""
NUMBER = re.compile(r"([-+−±]?[\d.,]+(e[-+]?\d+)?\s?%?|[-+]?(nan|NaN|inf)|NaT|None|–|<NA>|\d{4}-\d\d-\d\d.{,15}|)")
DATA = re.compile(r"data:image/[\w.+-]+;base64,[A-Za-z0-9+/=%]{50,}(?:\s*\n[A-Za-z0-9+/=%]{20,})*")
RESERVED = re.compile(r"quarto.*|title-block.*|toc.*|results|provenance|stopped-here")
LONGEST_ID = 80
DEEPEST = 100
"""Elements within each other: who reads a page calls itself for each of them."""
HEADINGS = ("h1", "h2", "h3", "h4", "h5", "h6")


@dataclass
class Links:
    """Where the addresses in one notebook lead on the site.

    `pages` gives the id of the newest published run of each notebook by its name, `beside` reads a file that lies
    beside the notebook; `anchors` are the ids of the page that is made, by their words.
    """

    pages: Mapping[str, str] = field(default_factory=dict)
    beside: Callable[[str], bytes] = lambda path: b""
    anchors: dict[str, str] = field(default_factory=dict)
    _times: Counter[str] = field(default_factory=Counter)

    def anchor(self, words: str) -> str:
        """Return a new id for what these words name."""
        wanted = anchor_of(words)
        new = f"the-{wanted}" if RESERVED.fullmatch(wanted) else wanted
        while self._times[new]:
            self._times[new] += 1
            new = f"{new}-{self._times[new]}"
        self._times[new] += 1
        self.anchors.setdefault(_key(words), new)
        self.anchors.setdefault(_key(new), new)
        return new

    def link(self, address: str) -> str | None:
        """Return where a link leads on the site; None where it leads nowhere."""
        try:
            parts = urlsplit(address.strip())
        except ValueError:
            return None
        if parts.scheme.lower() in SCHEMES:
            return address.strip()
        if parts.scheme or parts.netloc:
            return None
        path, anchor = unquote(parts.path), _key(unquote(parts.fragment))
        if not path and not parts.query:
            return f"#{self.anchors[anchor]}" if anchor in self.anchors else None
        for file in (path, unquote(address.strip())):  # a name may hold a # that was not written as %23
            page = self.pages.get(PurePosixPath(file).stem) if file.endswith(".ipynb") else None
            if page:
                words = f"#{anchor_of(unquote(parts.fragment))}" if file == path and anchor else ""
                return f"../../runs/{quote(page)}/index.html{quote(words, safe='#')}"
        return None

    def picture(self, address: str, attachments: Mapping[str, Any]) -> str | None:
        """Return a picture as a data URL; None where there is none, or it is on another server."""
        address = address.strip()
        if address.startswith("attachment:"):
            name = address.removeprefix("attachment:")
            return address_of(attachments.get(name) or attachments.get(unquote(name)) or {})
        if address.startswith("data:"):
            head, _, content = address.removeprefix("data:").partition(",")
            is_encoded = head.endswith(";base64")
            raw = decoded(unquote(content)) if is_encoded else unquote_to_bytes(content)
            if head.startswith("image/svg+xml"):
                return address_of({"image/svg+xml": raw.decode("utf-8", "replace")})
            return raster_address(raw)
        try:
            parts = urlsplit(address)
        except ValueError:
            return None
        if parts.scheme or parts.netloc or not parts.path:
            return None
        found = self.beside(unquote(parts.path)) or self.beside(unquote(address))
        return raster_address(found) or address_of({"image/svg+xml": found.decode("utf-8", "replace")})


class Draft:
    """HTML of a notebook on its way to a page; `held` are the safe pieces that stand in it by their marks.

    Raises RecursionError when elements lie too deep in each other.
    """

    def __init__(
        self,
        markup: str,
        links: Links | None = None,
        attachments: Mapping[str, Any] | None = None,
        held: Held | None = None,
    ) -> None:
        from bs4 import BeautifulSoup  # the import costs what only publishing should pay

        self.links, self.attachments, self.held = links or Links(), attachments or {}, held or Held()
        self.soup = BeautifulSoup(markup if held else self.held.without_pictures(markup), "html.parser")
        self.anchors: dict[int, str] = {}
        _refuse_depth(self.soup)

    def give_anchors(self) -> None:
        """Give an id to each heading and to each place that has one or a name."""
        for element in self.soup.select("h1, h2, h3, h4, h5, h6, [id], a[name]"):
            if element.name in HEADINGS and (words := element.get_text().strip()):
                self.anchors[id(element)] = self.links.anchor(self.held.without_marks(words))
            elif element.name in HEADINGS and element.find(True) is None:
                element.decompose()  # a heading of nothing
            elif own := str(element.get("id") or element.get("name") or "").strip():
                self.anchors[id(element)] = self.links.anchor(own)

    def take_title(self) -> bool:
        """Take away the first heading of level 1; return whether there is one."""
        found = self.soup.find("h1")
        if found is not None:
            found.decompose()
        return found is not None

    def left_out(self) -> list[str]:
        """Return what of this a page cannot show, in words; it is taken away."""
        found = [words for selector, words in LEFT_OUT.items() if self.soup.select_one(selector) is not None]
        if len(found) > 1 and LEFT_OUT["script"] in found:
            found.remove(LEFT_OUT["script"])  # what it draws has been named
        if found:
            for text in self.soup.find_all(string=_asks_for_trust):
                text.extract()
        for element in self.soup.select(ACTING):
            element.decompose()
        return found

    def html(self) -> str:
        """Return it as safe HTML."""
        self._put_right()
        markup = "".join(map(_serialised, self.soup.contents))
        return visible(self.held.put_back(self.held.cleaner().clean(markup)))

    def _put_right(self) -> None:
        styles.inline(self.soup)
        self.left_out()
        for drawing in self.soup.find_all("svg"):
            self._embed(drawing, address_of({"image/svg+xml": self.held.put_back(_as_xml(drawing))}), "")
        for picture in self.soup.find_all("img"):
            words, address = str(picture.get("alt") or ""), self.held.given(str(picture.get("src") or ""))
            self._embed(picture, self.links.picture(address, self.attachments), words, address)
        for box in self.soup.select("input[type=checkbox]"):
            box.replace_with("☑ " if box.has_attr("checked") else "☐ ")
        for element in self.soup.find_all(True):
            self._keep_attributes(element)
        for found in self.soup.select("table"):
            _tidy_table(self.soup, found)

    def _keep_attributes(self, element: Any) -> None:
        kept = {
            name: self.held.without_marks(str(value)) for name, value in element.attrs.items() if name in ATTRIBUTES
        }
        if element.name == "img":
            kept["src"] = element["src"]
        if anchor := self.anchors.get(id(element)):
            kept |= {"id": anchor, "class": "anchored"} if element.name in HEADINGS else {"id": anchor}
        if element.name == "a" and (address := self.links.link(str(element.get("href") or ""))):
            kept["href"] = address
        element.attrs = kept
        if element.name == "a" and not {"href", "id"} & kept.keys():
            element.unwrap()

    def _embed(self, element: Any, address: str | None, words: str, elsewhere: str = "") -> None:
        """Replace an element by a picture; without one, by its description and a link."""
        made: Any = words
        if address is not None:
            sizes = {name: element[name] for name in ("width", "height", "style", "title") if element.get(name)}
            made = self.soup.new_tag("img", attrs={**sizes, "src": self.held.keep(address), "alt": words})
        elif elsewhere.startswith(("http://", "https://")) and element.find_parent("a") is None:
            made = self.soup.new_tag("a", attrs={"href": elsewhere})
            made.string = words or "a picture elsewhere"
        element.replace_with(made)


class Held:
    """Safe pieces of HTML that are not parsed and cleaned with the rest; a mark stands for each of them."""

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.name = secrets.token_hex(8)  # which a notebook cannot know
        self.marks = re.compile(f"\ue000{self.name}-(\\d+)\ue001")

    def keep(self, piece: str) -> str:
        """Hold a piece back, and return its mark."""
        self.pieces.append(piece)
        return f"\ue000{self.name}-{len(self.pieces) - 1}\ue001"

    def given(self, text: str) -> str:
        """Return a text that may be a mark as what the mark stands for."""
        found = self.marks.fullmatch(unquote(text))
        return self.pieces[int(found[1])] if found else text

    def without_pictures(self, markup: str) -> str:
        """Return markup with marks for the pictures that it holds: they are long, and nothing to parse."""
        return DATA.sub(lambda found: self.keep(found[0]), markup)

    def put_back(self, markup: str) -> str:
        """Return markup with each piece in the place of its mark."""
        return self.marks.sub(lambda found: self.pieces[int(found[1])], markup)

    def without_marks(self, text: str) -> str:
        """Return text without marks."""
        return self.marks.sub("", text)

    def cleaner(self) -> Any:
        """Return what lets by only what is allowed, and as pictures only those that are held back here."""
        from bleach.sanitizer import Cleaner  # type: ignore[import-untyped] # it ships no types

        def is_allowed(tag: str, name: str, value: str) -> bool:
            if name in ("href", "src"):
                return tag == "a" if name == "href" else tag == "img" and self.marks.fullmatch(value) is not None
            return name in ATTRIBUTES or name in OURS

        style = SimpleNamespace(sanitize_css=styles.safe_style)
        return Cleaner(tags=TAGS, attributes=is_allowed, protocols=SCHEMES, strip=True, css_sanitizer=style)


def anchor_of(words: str) -> str:
    """Return the id of a heading, as pandoc makes it.

    Examples
    --------
    >>> anchor_of("2. What we found: 100 %")
    'what-we-found-100'
    """
    kept = "".join(one for one in words.lower() if one.isalnum() or one in " -_")
    return "-".join(re.sub(r"^[\d\W_]+", "", kept).split())[:LONGEST_ID] or "section"


def _key(words: str) -> str:
    """Return what is the same in all ways to write the anchor of a heading: Jupyter's, GitHub's, pandoc's."""
    return "".join(one for one in words.lower() if one.isalnum())


def _asks_for_trust(text: str | None) -> bool:
    """Whether a text tells how to trust a notebook, which changes nothing on a page."""
    words = (text or "").lower()
    return len(words) < 1000 and "notebook" in words and "trust" in words


def _as_xml(drawing: Any) -> str:
    """Return a drawing in HTML as XML, in which upper and lower case count."""
    cases = {name.lower(): name for name in (*pictures.ELEMENTS, *pictures.ATTRIBUTES)}
    for element in [drawing, *drawing.find_all(True)]:
        element.name = cases.get(element.name, element.name)
        names = {name: name.removeprefix("xlink:") for name in element.attrs}
        element.attrs = {cases.get(own, own): element[name] for name, own in names.items() if ":" not in own}
    drawing.attrs["xmlns"] = pictures.SVG
    return str(drawing)


def _refuse_depth(soup: Any) -> None:
    depths = {id(soup): 0}
    for element in soup.find_all(True):
        depths[id(element)] = depths[id(element.parent)] + 1
    if max(depths.values()) > DEEPEST:
        raise RecursionError(f"more than {DEEPEST} elements within each other")


def _tidy_table(soup: Any, found: Any) -> None:
    """Mark a data table, and in it columns of words: these belong to the left, where pandas has them to the right."""
    found.attrs = {"class": "data"}
    rows = [row.find_all(["th", "td"], recursive=False) for row in found.select("tr")]
    body = [row for row in rows if any(cell.name == "td" for cell in row)]
    for column in range(max(map(len, body), default=0)):
        if any(len(row) > column and not NUMBER.fullmatch(row[column].text.strip()) for row in body):
            for cell in (row[column] for row in rows if len(row) > column):
                cell["class"] = "words"
    found.wrap(soup.new_tag("div", attrs={"class": "scroll", "role": "region", "aria-label": "Table", "tabindex": "0"}))


def _serialised(node: Any) -> str:
    return str(node.decode() if hasattr(node, "decode") else node.output_ready("minimal"))
