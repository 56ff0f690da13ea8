"""API keys: only their hashes are kept, and comparing takes the same time whatever is presented.

A key file has one key a line, ``sha256:`` and 64 hexadecimal digits, then a label for the logs; ``#`` begins a comment.
Keys are 256 random bits, so a plain SHA-256 cannot be searched backwards, and no slow hash is needed to protect it.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from safe_retrieval.errors import ConfigError, InputError

SHORTEST = 20
"""Characters of a key that somebody chose; shorter ones could be found by trying."""

DEFAULT_LABEL = "key"
"""What the log calls a key that nobody named."""

_LINE = re.compile(r"sha256:(?P<digest>[0-9a-f]{64})(?:\s+(?P<label>[\w.@-]{1,64}))?")
_LABEL = re.compile(r"[\w.@-]{1,64}")
_VISIBLE = re.compile(r"[!-~]*")


class StoredKey(NamedTuple):
    """What is kept of a key: its SHA-256 digest, and the label that logs name it by."""

    digest: bytes
    label: str = DEFAULT_LABEL


class KeyRing:
    """The keys that a server accepts. An empty ring asks for none."""

    def __init__(self, keys: Iterable[StoredKey] = ()) -> None:
        self._keys = tuple(keys)

    def __len__(self) -> int:
        return len(self._keys)

    def __add__(self, other: KeyRing) -> KeyRing:
        return KeyRing((*self._keys, *other._keys))

    @classmethod
    def read(cls, path: Path) -> KeyRing:
        """Read a key file.

        Raises:
            ConfigError: it cannot be read, holds no key, or a line is not one; the message names the line's number
                and not what stands there, since that may be a key itself.
        """
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"the key file {path} cannot be read: {error}") from error
        keys = []
        for number, line in enumerate(lines, start=1):
            content = line.partition("#")[0].strip()
            if not content:
                continue
            match = _LINE.fullmatch(content)
            if match is None:
                raise ConfigError(
                    f"{path}, line {number}: expected sha256: and 64 hexadecimal digits, then a label; "
                    f"`safe-retrieval api-key {path}` adds such a line"
                )
            keys.append(StoredKey(bytes.fromhex(match["digest"]), match["label"] or DEFAULT_LABEL))
        if not keys:
            raise ConfigError(f"{path} holds no key; `safe-retrieval api-key {path}` adds one")
        return cls(keys)

    @classmethod
    def of(cls, key: str, label: str = DEFAULT_LABEL) -> KeyRing:
        """The ring of one key in plain text, as an environment variable holds it.

        Raises:
            InputError: the key is shorter than 20 characters, or has others than visible ASCII, which no header could
                bring back as they are: a line's end that came along would shut everybody out.
        """
        if not _VISIBLE.fullmatch(key):
            raise InputError("expected an API key of visible ASCII characters, without white space around it")
        if len(key) < SHORTEST:
            raise InputError(f"expected an API key of at least {SHORTEST} characters, got {len(key)}")
        return cls([StoredKey(_digest(key), label)])

    def identify(self, presented: str) -> str | None:
        """The label of a key, or ``None``; every key is compared, each in constant time."""
        digest = _digest(presented)
        found = None
        for key in self._keys:
            if hmac.compare_digest(digest, key.digest):
                found = key.label
        return found


def add_key(path: Path, label: str = DEFAULT_LABEL) -> str:
    """Make a key, add its hash to a key file (readable by its owner alone if it is new), and return the key.

    Raises:
        InputError: the label has other characters than letters, digits and ``_.@-``, or the file cannot be written.
    """
    if not _LABEL.fullmatch(label):
        raise InputError(f"expected a label of 1 to 64 letters, digits or _.@-, got {label!r}")
    key = f"sr-{secrets.token_urlsafe(32)}"
    try:
        with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), "r+b") as file:
            existing = file.read()
            gap = b"\n" if existing and not existing.endswith(b"\n") else b""
            file.write(gap + f"sha256:{_digest(key).hex()} {label}\n".encode())
    except OSError as error:
        raise InputError(f"the key file {path} cannot be written: {error}") from error
    return key


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
