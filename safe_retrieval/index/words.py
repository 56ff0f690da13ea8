"""Full text: which words stand in which document, by SQLite's FTS5.

Words are runs of letters and digits, compared without regard to case and accents. Languages that set no white space
between words (Chinese, Japanese, Thai) are found by whole runs only.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from safe_retrieval.encoder.texts import readable

WORDS_SCHEMA = """
CREATE VIRTUAL TABLE words USING fts5(
    title, text, content = 'documents', content_rowid = 'position', tokenize = 'unicode61 remove_diacritics 2'
);
"""
"""The table beside ``documents``; it holds no second copy of the texts."""

_WORD = re.compile(r"[^\W_]+")
_ACCENT = re.compile("[\u0300-\u036f]")


def words_of(text: str) -> list[str]:
    """Words as SQLite's tokenizer finds them in European scripts; the reference that tests hold it to."""
    return _WORD.findall(_ACCENT.sub("", unicodedata.normalize("NFD", text)).lower())


def match_query(text: str, *, phrase: bool) -> str:
    """What is asked for, in FTS5's query language: strings, which no operator or bracket of a user gets out of."""
    parts = (part.replace('"', '""') for part in _parts(text, phrase))
    return " AND ".join(f'"{part}"' for part in parts)


def has_words(text: str, *, phrase: bool, texts: Sequence[str]) -> bool:
    """Whether every part of a search text stands in one of a document's texts: the meaning of the above."""
    found = [words_of(given) for given in texts]
    return all(any(_stands_in(words_of(part), words) for words in found) for part in _parts(text, phrase))


def _parts(text: str, phrase: bool) -> list[str]:
    """What has to be there, each a run of words; what holds no word is no part."""
    return [part for part in ([readable(text)] if phrase else readable(text).split()) if words_of(part)]


def _stands_in(part: list[str], words: list[str]) -> bool:
    return any(words[start : start + len(part)] == part for start in range(len(words) - len(part) + 1))
