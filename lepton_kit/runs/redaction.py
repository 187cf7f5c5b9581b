"""Keeps the values of secrets out of everything that a run saves, in whatever encoding they come.

A value is looked for as it is and as Python's `repr` and `ascii`, JSON, YAML, HTML, CSV, shells, URLs, hexadecimal,
base64 and base32 (in all alignments) write it, also where colour codes or line breaks stand between its characters; in
files also in UTF-16 and UTF-32, and in what zip, gzip, bzip2 and xz pack. What a program does to a value beyond that
(encrypt it, reverse it, print every other letter, draw it) is out of reach, and so are Parquet, PDF and zstd.
"""

from __future__ import annotations

import base64
import bz2
import codecs
import gzip
import html
import json
import logging
import lzma
import os
import re
import tempfile
import threading
import zipfile
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from math import gcd
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote, quote_plus

import yaml

logger = logging.getLogger(__name__)

BLOCK = 1 << 20  # bytes of a file that are searched at a time
LONGEST_JOIN_S = 2.0  # for the last of a file: a kernel that stays still holds the other end
SHORTEST_LINE = 8  # characters: lines of a secret of several lines that are secret by themselves
SEPARATOR = r"(?:\x1b\[[0-9;]*[A-Za-z]|\\u001b\[[0-9;]*[A-Za-z]|\\x1b\[[0-9;]*[A-Za-z]|\r?\n|\\r|\\n)"
SEPARATORS = re.compile(SEPARATOR)
WIDE = ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be")
ENCODERS: tuple[tuple[Callable[[bytes], bytes], int], ...] = (  # with the bits of each character
    (base64.b64encode, 6), (base64.urlsafe_b64encode, 6), (base64.b32encode, 5), (base64.b32hexencode, 5)
)  # fmt: skip
WIDEST = 16  # characters of a text for each one of a value that stands in it with separators between its characters

MOST_BYTES = 256 * 1024 * 1024  # of all that is packed in one file
DEEPEST = 3  # an archive in an archive in an archive
IN_MEMORY = 16 * 1024 * 1024
STREAMS: dict[bytes, Callable[[IO[bytes]], Any]] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file, mode="rb"), b"BZh": bz2.BZ2File, b"\xfd7zXZ\0": lzma.LZMAFile
}  # fmt: skip
BROKEN = (OSError, EOFError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error, lzma.LZMAError)
"""What packed data that is damaged, encrypted or of an unknown method ends in: what came before it was searched."""


class Redactor:
    """Replaces the values of secrets, given by their names, by these names.

    Examples
    --------
    >>> Redactor({"key": "hunter2!"}).text("a = 'hunter2!', b = aHVudGVyMiE=")
    "a = '[secret key]', b = [secret key]"
    """

    def __init__(self, values: Mapping[str, str]) -> None:
        found = {pattern: name for name, value in values.items() for pattern in _patterns(value)}
        # The longest first: where several overlap, it names the place.
        self._names = dict(sorted(found.items(), key=lambda item: -len(item[0])))
        self._marks = {name: self._mark(name) for name in values}
        stripped = {pattern: SEPARATORS.sub("", pattern) for pattern in self._names}
        # A value that is mostly line breaks would leave a rest that any text holds.
        self._plain = {
            plain: pattern for pattern, plain in stripped.items() if plain == pattern or len(plain) >= SHORTEST_LINE
        }
        longest = max(map(len, self._names), default=0)
        self._widest = max(longest, WIDEST * max((len(one) for one in self._names if "\0" not in one), default=0))

    def text(self, text: str) -> str:
        """Return a text without the values of secrets; nothing else in it is changed."""
        return self._marked(text, self._places(text))

    def json(self, value: Any) -> Any:
        """Return a copy of what JSON holds (also of its keys) without the values of secrets."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {self.json(key): self.json(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.json(item) for item in value]
        if isinstance(value, int | float) and not isinstance(value, bool):
            written = self.text(str(value))  # such as a PIN that became a number
            return value if written == str(value) else written
        return value

    def stream(self) -> StreamRedactor:
        """Return a redactor for a text that comes in pieces."""
        return StreamRedactor(self)

    def found_in(self, path: Path) -> str | None:
        """Return the name of a secret that a file holds in any of the encodings, packed or not, or None."""
        allowed = Allowance()
        with path.open("rb") as file:
            for content in chain([file], unpacked(file, allowed)):
                if name := self._first_in(content):
                    return name
        if allowed.ran_out:
            logger.warning("%s: only the first %d bytes packed in it were searched for secrets", path, MOST_BYTES)
        return None

    def found_in_name(self, name: str) -> str | None:
        """Return the name of a secret that the name of a file or folder holds, or None."""
        places = self._places(name)
        return places[0][2] if places else None

    def _first_in(self, file: IO[bytes]) -> str | None:
        tail = ""
        while block := file.read(BLOCK):
            text = tail + block.decode("utf-8", "surrogateescape")
            if places := self._places(text):
                return places[0][2]
            tail = text[max(0, len(text) - self._widest) :]
        return None

    def split(self, text: str) -> tuple[str, str]:
        """Split a text that goes on: into what can be shown by now, redacted, and so much as may begin a value."""
        places = self._places(text)
        end = max(0, len(text) - self._widest)
        end = min([end, *(start for start, stop, _ in places if stop > end)])
        return self._marked(text[:end], [place for place in places if place[1] <= end]), text[end:]

    def _mark(self, name: str) -> str:
        mark = f"[secret {name}]"
        return "[***]" if any(pattern in mark for pattern in self._names) else mark

    def _marked(self, text: str, places: list[tuple[int, int, str]]) -> str:
        pieces, at = [], 0
        for start, stop, name in places:
            pieces += [text[at:start], self._marks[name]]
            at = stop
        return "".join([*pieces, text[at:]])

    def _places(self, text: str) -> list[tuple[int, int, str]]:
        """Return where values stand (start, stop, name), in order; places that overlap are one."""
        found = [(*place, name) for pattern, name in self._names.items() for place in _occurrences(pattern, text)]
        if SEPARATORS.search(text):
            found += self._separated(text)
        places: list[tuple[int, int, str]] = []
        for start, stop, name in sorted(found, key=lambda place: (place[0], -place[1])):
            if places and start < places[-1][1]:
                places[-1] = (places[-1][0], max(stop, places[-1][1]), places[-1][2])
            else:
                places.append((start, stop, name))
        return places

    def _separated(self, text: str) -> list[tuple[int, int, str]]:
        """Return the places of values between whose characters separators stand."""
        stripped = SEPARATORS.sub("", text)
        found = [
            (*place, self._names[pattern])
            for plain, pattern in self._plain.items()
            for place in _occurrences(plain, stripped)
        ]
        if not found:
            return []
        kept, gone, before = [0], [0], 0  # where each piece between separators begins: when stripped, and what is gone
        for separator in SEPARATORS.finditer(text):
            before += separator.end() - separator.start()
            kept.append(separator.end() - before)
            gone.append(before)

        def at(position: int) -> int:
            return position + gone[bisect_right(kept, position) - 1]

        return [(at(start), at(stop - 1) + 1, name) for start, stop, name in found]


class StreamRedactor:
    """Redacts a text that comes in pieces: what may be the beginning of a value is held back until more is known."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._held = ""

    def feed(self, piece: str) -> str:
        """Take a piece and return what can be shown by now."""
        shown, self._held = self._redactor.split(self._held + piece)
        return shown

    def close(self) -> str:
        """Return what was held back: nothing more comes."""
        text, self._held = self._held, ""
        return self._redactor.text(text)


@contextmanager
def redacted_file(path: Path | None, redactor: Redactor | None) -> Iterator[Any]:
    """Open a file to write to its end; with a redactor, a pipe to it, so that no value of a secret is ever on disk."""
    if path is None:
        yield None
        return
    if redactor is None:
        with path.open("ab") as file:
            yield file
        return
    readable, writable = os.pipe()
    pump = threading.Thread(target=_pump, args=(readable, path, redactor.stream()), daemon=True)
    pump.start()
    try:
        with os.fdopen(writable, "wb") as pipe:
            yield pipe
    finally:
        pump.join(LONGEST_JOIN_S)


def _pump(readable: int, path: Path, stream: StreamRedactor) -> None:
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")  # a character may come in two pieces
    with os.fdopen(readable, "rb", buffering=0) as pipe, path.open("ab", buffering=0) as log:
        while content := pipe.read(BLOCK):
            log.write(stream.feed(decoder.decode(content)).encode(errors="surrogateescape"))
        rest = stream.feed(decoder.decode(b"", final=True)) + stream.close()
        log.write(rest.encode(errors="surrogateescape"))


def _occurrences(pattern: str, text: str) -> Iterator[tuple[int, int]]:
    start = text.find(pattern)
    while start >= 0:
        yield start, start + len(pattern)
        start = text.find(pattern, start + len(pattern))


def _patterns(value: str) -> set[str]:
    """Return every form in which a value is looked for."""
    values = {value, value.strip()}
    if len(lines := value.splitlines()) > 1:  # such as a private key, of which every line is shown by itself
        values |= {line.strip() for line in lines if len(line.strip()) >= SHORTEST_LINE}
    found: set[str] = set()
    for each in values:
        once = _written(each)
        found |= once | {form for text in once for form in _escaped(text)}
        raw = each.encode("utf-8", "surrogateescape")
        wide = {coding: each.encode(coding, "surrogatepass") for coding in WIDE}
        found |= {content.decode("utf-8", "surrogateescape") for content in wide.values()}
        for content in (raw, wide["utf-16-le"]):  # the latter is what Windows encodes
            found |= set(_aligned_forms(content)) | {content.hex(), content.hex().upper()}
    return {form for form in found if form}


def _written(value: str) -> set[str]:
    """Return a value as Python, JSON, YAML, HTML, CSV, shells and URLs write it."""
    as_bytes = repr(value.encode("utf-8", "surrogateescape"))[2:-1]
    urls = {quote(value), quote(value, safe=""), quote_plus(value)}
    lower = {re.sub("%[0-9A-F]{2}", lambda code: code[0].lower(), url) for url in urls}
    return {value, *_escaped(value), as_bytes, *urls, *lower}


def _escaped(value: str) -> set[str]:
    """Return a value as it stands inside the quotes or the markup of another text."""
    quoted = {repr(value)[1:-1], repr(value + "'\"")[1:-4], ascii(value)[1:-1], ascii(value + "'\"")[1:-4]}
    in_json = {json.dumps(value, ensure_ascii=False)[1:-1], json.dumps(value)[1:-1]}
    upper = {re.sub(r"\\u[0-9a-f]{4}", lambda code: "\\u" + code[0][2:].upper(), form) for form in in_json}
    in_pages = {  # as Go and Jinja write JSON
        re.sub(f"[{signs}\u2028\u2029]", lambda code: f"\\u{ord(code[0]):04x}", form)
        for form in in_json
        for signs in ("<>&", "<>&'")
    }
    slashed = {form.replace("/", "\\/") for form in in_json | upper | in_pages}  # as pandas and PHP do
    marked = {html.escape(value), html.escape(value, quote=False), html.escape(value).replace("&#x27;", "&#39;")}
    marked |= {form.replace("&quot;", "&#34;") for form in marked}
    doubled = {value.replace("'", "''"), value.replace('"', '""'), value.replace("'", "'\"'\"'")}
    return quoted | in_json | upper | in_pages | slashed | marked | doubled | set(_in_yaml(value))


def _in_yaml(value: str) -> Iterator[str]:
    """Yield a value as written inside YAML's double quotes, on a line of its own."""
    for allow_unicode in (True, False):
        with suppress(yaml.YAMLError, UnicodeError):  # a value that YAML cannot hold
            written = yaml.safe_dump(value, default_style='"', width=float("inf"), allow_unicode=allow_unicode)
            yield written.strip()[1:-1]


def _aligned_forms(raw: bytes) -> Iterator[str]:
    """Yield what base64 and base32 make of bytes wherever they stand among others: what hangs on them alone."""
    for encode, bits in ENCODERS:
        for before in range(bits // gcd(bits, 8)):
            first = -(-before * 8 // bits)
            last = (before + len(raw)) * 8 // bits
            yield encode(b"\0" * before + raw).decode()[first:last]
        yield encode(raw).decode()  # with what fills it up


@dataclass
class Allowance:
    """How many bytes may still be unpacked; `ran_out` says that there were more."""

    left: int = MOST_BYTES
    ran_out: bool = False


def unpacked(file: IO[bytes], allowed: Allowance, depth: int = DEEPEST) -> Iterator[IO[bytes]]:
    """Yield each thing that is packed in a file, from its start, and what is packed in that in turn."""
    if depth == 0:
        return
    for packed in _members(file):
        with tempfile.SpooledTemporaryFile(max_size=IN_MEMORY) as held:
            with packed, suppress(*BROKEN):
                _copy(packed, held, allowed)
            held.seek(0)
            yield held
            yield from unpacked(held, allowed, depth - 1)
        if allowed.ran_out:
            return


def _members(file: IO[bytes]) -> Iterator[IO[bytes]]:
    """Yield each thing that is packed in a file, still to be read."""
    file.seek(0)
    head = file.read(8)
    file.seek(0)
    for magic, unpack in STREAMS.items():
        if head.startswith(magic):
            yield unpack(file)
            return
    with suppress(*BROKEN), zipfile.ZipFile(file) as archive:
        for member in archive.infolist():
            with suppress(*BROKEN):
                yield archive.open(member)


def _copy(packed: IO[bytes], held: IO[bytes], allowed: Allowance) -> None:
    while block := packed.read(min(BLOCK, allowed.left + 1)):
        if len(block) > allowed.left:
            held.write(block[: allowed.left])
            allowed.left, allowed.ran_out = 0, True
            return
        allowed.left -= len(block)
        held.write(block)
