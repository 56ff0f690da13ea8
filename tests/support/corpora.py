"""Small corpora for tests."""

from __future__ import annotations

from safe_retrieval.types import Document

_WORDS = (
    "river",
    "stone",
    "apple",
    "cloud",
    "lantern",
    "harbour",
    "violin",
    "meadow",
    "copper",
    "winter",
    "ladder",
    "saddle",
    "pepper",
    "orchid",
    "marble",
)


def small_corpus(count: int = 20) -> list[Document]:
    """Distinct documents ``d0``, ``d1``, ...; each has a title, a text and one metadata field."""
    return [
        Document(
            f"d{number}",
            f"the {_WORDS[number % 15]} lies beside the {_WORDS[(number * 7 + 3) % 15]} of number {number}",
            title=f"{_WORDS[number % 15]} {number}",
            metadata={"number": number},
        )
        for number in range(count)
    ]
