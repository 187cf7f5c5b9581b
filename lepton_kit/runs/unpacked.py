"""Opens what is packed in a file (zip, gzip, bzip2, xz), to search it: never more than so much of it."""

from __future__ import annotations

import bz2
import gzip
import lzma
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Any

MOST_BYTES = 256 * 1024 * 1024  # of all that is packed in one file
DEEPEST = 3  # an archive in an archive in an archive
IN_MEMORY = 16 * 1024 * 1024
BLOCK = 1 << 20
STREAMS: dict[bytes, Callable[[IO[bytes]], Any]] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file, mode="rb"), b"BZh": bz2.BZ2File, b"\xfd7zXZ\0": lzma.LZMAFile
}  # fmt: skip
BROKEN = (OSError, EOFError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error, lzma.LZMAError)
"""What packed data that is damaged, encrypted or of an unknown method ends in: what came before it was searched."""


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
