"""Text hygiene that every encoder shares: what is a text, how much of it is read, and in which batches.

An encoder calls :func:`clean_texts` first and :func:`length_sorted_batches` next, so all of them treat a bare string,
a lone surrogate, a NUL or a text of a hundred thousand characters alike.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from safe_retrieval.errors import InputError

MAX_CHARACTERS = 32_768
"""Characters of a text that are read; the rest is cut before tokenisation.

Some 8,000 tokens of English, more than any encoder in the catalog looks at, and few enough that a text of any length
costs milliseconds to tokenise. An encoder that reads more passes its own bound.
"""

BLANK = " "
"""What an empty or whitespace-only text is read as.

A single space rather than nothing: tokenizers that add no special tokens of their own turn an empty string into zero
tokens, over which no model has a mean.
"""

# NUL ends a string in C libraries below us; a lone surrogate cannot be written as UTF-8, so tokenizers refuse it.
_UNREADABLE = re.compile("[\x00\ud800-\udfff]")
_REPLACEMENT = "\ufffd"


def clean_texts(texts: Sequence[str], *, max_characters: int = MAX_CHARACTERS) -> list[str]:
    """Make ``texts`` safe for any tokenizer.

    Lone surrogates and NULs become U+FFFD, whitespace-only texts become :data:`BLANK`, and what is longer than
    ``max_characters`` is cut there.

    Args:
        texts: the texts; a bare string is refused, since its characters would be taken for texts.
        max_characters: how much of a text is kept.

    Returns:
        One non-empty text for each given one, in the same order.

    Raises:
        InputError: ``texts`` is a string, or one of them is not a string; the message names its position.
    """
    if isinstance(texts, str | bytes):
        raise InputError(f"expected a list of texts, got one {type(texts).__name__}; wrap it in a list: [text]")
    return [_clean(text, position, max_characters) for position, text in enumerate(texts)]


def readable(text: str) -> str:
    """``text`` with lone surrogates and NULs replaced by U+FFFD, so that it can be tokenised, stored and shown."""
    return _UNREADABLE.sub(_REPLACEMENT, text)


def _clean(text: object, position: int, max_characters: int) -> str:
    if not isinstance(text, str):
        raise InputError(
            f"text {position} is {type(text).__name__}, expected str; convert it, or leave it out of the list"
        )
    text = readable(text[:max_characters])
    return text if text and not text.isspace() else BLANK


def length_sorted_batches(
    lengths: Sequence[int], *, batch_size: int, token_budget: int | None = None
) -> list[NDArray[np.int64]]:
    """Group texts of similar length, so that little of a padded batch is padding.

    The longest come first: a batch that does not fit in memory fails at once and not after an hour.

    Args:
        lengths: length of each text, in tokens or in characters.
        batch_size: most texts in a batch, at least 1.
        token_budget: most cells (texts times the longest length) in a padded batch; a text that is longer than the
            budget gets a batch of its own. ``None`` sets no such bound.

    Returns:
        Positions into ``lengths``, one array a batch; together a permutation of all positions. Texts of equal length
        keep their order.

    Raises:
        InputError: ``batch_size`` or ``token_budget`` is below 1.
    """
    if batch_size < 1:
        raise InputError(f"batch_size must be at least 1, got {batch_size}")
    if token_budget is not None and token_budget < 1:
        raise InputError(f"token_budget must be at least 1, got {token_budget}")
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    batches: list[NDArray[np.int64]] = []
    start = 0
    while start < len(order):
        size = batch_size
        if token_budget is not None:
            longest = max(1, lengths[order[start]])
            size = min(batch_size, max(1, token_budget // longest))
        batches.append(order[start : start + size])
        start += size
    return batches
