"""The hash by which reports name a text, in place of showing it."""

from __future__ import annotations

import hashlib


def text_sha256(text: str) -> str:
    """SHA-256 (hex) of a text in UTF-8."""
    # surrogatepass: a lone surrogate in a published file must not stop an audit
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
