"""Encrypts the files of a recording at rest, with a key of one's own: AES-256-GCM, and the key by scrypt (RFC 7914).

A sealed file begins with a line of JSON: its format, where its key is looked for, and the salt and the nonce (hex).
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import os
from pathlib import Path
from typing import BinaryIO

from lepton_kit.errors import InputError
from lepton_kit.secrets import resolve_secret

MARK = b'{"format": "lepton-sealed/1"'
SALT_BYTES, NONCE_BYTES = 16, 12
LONGEST_HEAD = 4096
SETTINGS = "lepton.toml"
"""A relative `file:` begins at the folder of the project that the recording lies in, or else at the present one."""


def check_key(reference: str, project: Path) -> None:
    """Raise an InputError where a key cannot be read, or the library that encrypts is not installed."""
    _cipher(resolve_secret(reference, project), bytes(SALT_BYTES))


def seal(folder: Path, reference: str) -> None:
    """Encrypt the files of a folder in place, but not those of folders in it.

    Raises InputError when the key cannot be read.
    """
    secret, salt = resolve_secret(reference, _project(folder)), os.urandom(SALT_BYTES)
    for path in [path for path in sorted(folder.iterdir()) if path.is_file()]:
        nonce = os.urandom(NONCE_BYTES)
        told = {"format": "lepton-sealed/1", "key": reference, "salt": salt.hex(), "nonce": nonce.hex()}
        head = json.dumps(told).encode() + b"\n"
        path.write_bytes(head + _cipher(secret, salt).encrypt(nonce, path.read_bytes(), head))


def opened(path: Path) -> BinaryIO:
    """Open a file of a recording for reading, decrypted where it is sealed.

    Raises InputError when the key cannot be read, or does not open the file; the message names where the key was looked
    for.
    """
    file = path.open("rb")
    if not file.peek(len(MARK)).startswith(MARK):
        return file
    with file:
        head, sealed = file.readline(LONGEST_HEAD), file.read()
    try:
        told = json.loads(head)
        reference, salt, nonce = str(told["key"]), bytes.fromhex(told["salt"]), bytes.fromhex(told["nonce"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: is encrypted, and its first line is damaged") from error
    try:
        secret = resolve_secret(reference, _project(path))
    except InputError as error:
        raise InputError(f"{path}: is encrypted, and its key cannot be read: {error}") from error
    cipher = _cipher(secret, salt)
    try:
        return io.BytesIO(cipher.decrypt(nonce, sealed, head))
    except Exception as error:  # cryptography's InvalidTag, or a nonce of another length
        raise InputError(
            f"{path}: is encrypted, and {reference!r} does not open it: another key, or damaged"
        ) from error


def _project(path: Path) -> Path:
    return next((folder for folder in path.resolve().parents if (folder / SETTINGS).is_file()), Path())


@functools.lru_cache(maxsize=8)
def _cipher(secret: str, salt: bytes):  # type: ignore[no-untyped-def] # cryptography is imported where it is used
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError as error:
        raise InputError("capture.key: needs the package cryptography: pip install 'lepton-kit[encrypt]'") from error
    return AESGCM(hashlib.scrypt(secret.encode(), salt=salt, n=2**14, r=8, p=1, dklen=32))
