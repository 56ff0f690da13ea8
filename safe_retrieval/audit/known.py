"""Recognise passages of a probe set among what a retriever returns, by id or by text, without a classifier.

Two texts are the same passage if their words are, in whatever case, spacing and punctuation. A retriever cuts and joins
passages as it likes, so a text is also recognised if it and a passage share four fifths of the shorter one's runs of
five words (resemblance by shingles: Broder, "On the resemblance and containment of documents", 1997).
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from safe_retrieval.types import Document

RUN = 5
"""Words of a run."""

SHARE = 0.8
"""Of the shorter text's runs, how many the other must have."""

FEWEST = 8
"""Runs that the shorter text must have to be recognised by them; shorter ones must be equal, word by word."""

_WORD = re.compile(r"\w+")
_FACTOR = np.uint64(0x9E3779B97F4A7C15)


class KnownPassages:
    """The passages of a probe set, to be recognised.

    Args:
        documents: with distinct ids, in the order of which ties are broken.
        by_id: ids of those that the retriever holds under their own id, with or without the prefix of their set.
    """

    def __init__(self, documents: Sequence[Document], *, by_id: Iterable[str] = ()) -> None:
        self._documents = documents
        named = frozenset(by_id)
        self._ids = _names([document for document in documents if document.id in named])
        self._equal: dict[bytes, str] = {}
        hashes, owners, counts = [], [], []
        for position, document in enumerate(documents):
            for text in (document.content, document.text):
                self._equal.setdefault(_joined(_words(text)), document.id)
            runs = _runs(_words(document.content))
            hashes.append(runs)
            owners.append(np.full(len(runs), position, dtype=np.int32))
            counts.append(len(runs))
        joined = np.concatenate([*hashes, np.empty(0, dtype=np.uint64)])
        order = np.argsort(joined, kind="stable")
        self._hashes = joined[order]
        self._owners = np.concatenate([*owners, np.empty(0, dtype=np.int32)])[order]
        self._counts = np.array(counts)
        self._equal.pop(b"", None)

    def recognise(self, identifier: str, text: str | None) -> str | None:
        """Id of the passage that this is, or ``None``.

        Args:
            identifier: as the retriever names it.
            text: ``None`` where the retriever gives none.
        """
        by_id = self._ids.get(identifier)
        if by_id is not None or text is None:
            return by_id
        words = _words(text)
        return self._equal.get(_joined(words)) or self._resembling(_runs(words))

    def _resembling(self, runs: NDArray[np.uint64]) -> str | None:
        if len(runs) < FEWEST or not len(self._hashes):
            return None
        first, last = (np.searchsorted(self._hashes, runs, side=side) for side in ("left", "right"))
        found = [self._owners[start:end] for start, end in zip(first, last, strict=True) if end > start]
        if not found:
            return None
        owners, shared = np.unique(np.concatenate(found), return_counts=True)
        shorter = np.minimum(self._counts[owners], len(runs))
        enough = (shorter >= FEWEST) & (shared >= SHARE * shorter)
        if not enough.any():
            return None
        return self._documents[int(owners[enough][np.argmax(shared[enough])])].id


def _names(documents: Sequence[Document]) -> dict[str, str]:
    """Id by each name that a retriever may use: the id, and without its set's prefix where that is unambiguous."""
    names = {document.id: document.id for document in documents}
    short = {document.id: document.id.removeprefix(f"{document.metadata.get('source')}/") for document in documents}
    uses = Counter(short.values())
    return {name: each for each, name in short.items() if uses[name] == 1} | names


def _words(text: str) -> list[str]:
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def _joined(words: Sequence[str]) -> bytes:
    return " ".join(words).encode("utf-8", "surrogatepass")


def _runs(words: Sequence[str]) -> NDArray[np.uint64]:
    """(m,) distinct hashes of the runs of :data:`RUN` words, ascending."""
    count = len(words) - RUN + 1
    if count < 1:
        return np.empty(0, dtype=np.uint64)
    each = np.array([zlib.crc32(word.encode("utf-8", "surrogatepass")) for word in words], dtype=np.uint64)
    mixed = np.zeros(count, dtype=np.uint64)
    for place in range(RUN):
        mixed = mixed * _FACTOR + each[place : place + count]  # modulo 2^64
    return np.unique(mixed)
