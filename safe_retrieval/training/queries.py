"""Training queries: read, deduplicated, and kept apart from everything that is evaluated on.

A file is JSON lines (``.jsonl``, ``.jsonl.gz``) with a ``text`` field, or plain text with one query a line.
"""

from __future__ import annotations

import gzip
import json
import random
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TextIO

from safe_retrieval.encoder.texts import readable
from safe_retrieval.errors import DataError

if TYPE_CHECKING:
    from safe_retrieval.training.config import QuerySettings


_QUERY_FIELDS = ("text", "prompt", "sentence1", "sentence2")
"""Where the files of an evaluation folder keep what is asked: queries, safe and unsafe prompts, pairs."""


class TrainingQuery(NamedTuple):
    """A query and the file it came from (its stem, for example ``clinc150``)."""

    text: str
    source: str


def normalise(text: str) -> str:
    """What counts as the same query: case, accents' encoding, punctuation and spacing do not."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(re.findall(r"\w+", folded))


def read_queries(files: Sequence[Path]) -> list[TrainingQuery]:
    """All queries of the files, in order, the first of equal ones kept; lone surrogates and NULs become U+FFFD.

    Raises:
        DataError: a file is missing or a line is broken; the message names file and line.
    """
    seen: set[str] = set()
    found: list[TrainingQuery] = []
    for file in files:
        source = file.name.split(".")[0]
        for text in _texts(file):
            key = normalise(text)
            if key and key not in seen:
                seen.add(key)
                found.append(TrainingQuery(readable(text), source))
    return found


def without(queries: Sequence[TrainingQuery], evaluated: Iterable[str]) -> list[TrainingQuery]:
    """The queries that repeat none of the evaluated texts, by normalised text."""
    forbidden = {normalise(text) for text in evaluated}
    return [query for query in queries if normalise(query.text) not in forbidden]


def evaluation_texts(data: Path) -> list[str]:
    """Every query text of an evaluation folder (the layout of docs/data.md), for :func:`without`.

    Raises:
        DataError: a file is broken, or there is no such text: a wrong path must not let everything through.
    """
    found: list[str] = []
    for file in sorted((*data.rglob("*.jsonl.gz"), *data.rglob("*.jsonl"))):
        if file.parent.name == "train-queries" or file.name.startswith("corpus."):
            continue
        for row in _rows(file):
            found.extend(str(row[key]) for key in _QUERY_FIELDS if key in row)
    if not found:
        raise DataError(f"expected evaluation queries (*.jsonl, *.jsonl.gz) under {data}, found none; check the path")
    return found


def sample(queries: Sequence[TrainingQuery], count: int, *, seed: int, shares: dict[str, float]) -> list[TrainingQuery]:
    """A seeded sample of ``count`` queries, shuffled.

    Args:
        queries: what to draw from.
        count: how many; all of them where there are no more.
        seed: of the draw.
        shares: by source, the share of ``count`` to draw from it, as far as it goes; the sources that are not named
            share the rest in proportion to their size.
    """
    generator = random.Random(seed)  # noqa: S311  # a reproducible sample, not a secret
    pool = list(queries)
    generator.shuffle(pool)
    chosen: list[TrainingQuery] = []
    for source, share in sorted(shares.items()):
        chosen.extend([query for query in pool if query.source == source][: round(share * count)])
    rest = [query for query in pool if query.source not in shares]
    chosen.extend(rest[: max(0, count - len(chosen))])
    generator.shuffle(chosen)
    return chosen[:count]


def choose_queries(settings: QuerySettings, *, seed: int) -> list[TrainingQuery]:
    """A run's queries: read, deduplicated, kept apart from what is evaluated, sampled with the seed.

    Raises:
        DataError: as :func:`read_queries` and :func:`evaluation_texts`.
    """
    found = [query for query in read_queries(settings.files) if len(query.text) <= settings.longest]
    if settings.keep_apart_from is not None:
        found = without(found, evaluation_texts(settings.keep_apart_from))
    return sample(found, settings.count or len(found), seed=seed, shares=settings.shares)


def _texts(file: Path) -> Iterator[str]:
    if file.suffix == ".txt":
        with _open(file) as lines:
            yield from (line.strip() for line in lines if line.strip())
        return
    for number, row in enumerate(_rows(file), start=1):
        text = row.get("text")
        if not isinstance(text, str):
            raise DataError(f"{file}, line {number}: expected an object with a string field 'text'")
        yield text


def _rows(file: Path) -> Iterator[dict[str, object]]:
    with _open(file) as lines:
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(f"{file}, line {number}: expected one JSON object a line: {error}") from error
            if not isinstance(row, dict):
                raise DataError(f"{file}, line {number}: expected a JSON object, got {type(row).__name__}")
            yield row


@contextmanager
def _open(file: Path) -> Iterator[TextIO]:
    try:
        with gzip.open(file, "rt", encoding="utf-8") if file.suffix == ".gz" else file.open(encoding="utf-8") as lines:
            yield lines
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError(
            f"{file} cannot be read as UTF-8 text ({error}); check the path and pull the file again"
        ) from error
