"""The counterpart of ``dataset.add_faiss_index`` and ``dataset.load_faiss_index``.

The rows of a column become the documents of an index folder, each under its row number; the data set then answers
``get_nearest_examples``, ``search`` and their batch forms through the response encoder and the gate. A query is a text.
A vector is taken too, where there is no gate to ask about it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from datasets.search import BaseIndex, BatchedSearchResults, SearchResults

from safe_retrieval.errors import InputError
from safe_retrieval.index.factories import FLAT
from safe_retrieval.models.catalog import DEFAULT_DOCUMENT_ENCODER
from safe_retrieval.retrieval.arms import Arm
from safe_retrieval.retrieval.guard import DEFAULT_THRESHOLD
from safe_retrieval.retrieval.retriever import SafeRetriever
from safe_retrieval.types import Document, GateAction, QueryEncoding, Retrieval


class SafeDatasetIndex(BaseIndex):
    """A retriever over an index folder whose ids are row numbers, as an index of a data set.

    Args:
        retriever: what searches.
    """

    def __init__(self, retriever: SafeRetriever) -> None:
        self.retriever = retriever

    def retrieve(self, queries: Sequence[str], k: int = 10) -> list[Retrieval]:
        """What the retriever says in its own words: hits by row number, refusal probability, and whether it fired."""
        return self.retriever.retrieve(queries, k=k)

    def search(self, query: Any, k: int = 10, **arguments: Any) -> SearchResults:
        """Rows for one query.

        Args:
            query: a text, or a (d,) float32 unit vector in the index's space.
            k: most rows.
            arguments: none is known.

        Returns:
            Scores, best first, and row numbers; both empty where the gate is shut.

        Raises:
            InputError: neither text nor vector, ``k`` below 1, an unknown argument, or a vector where a gate needs the
                text to judge it.
        """
        if not isinstance(query, str):
            query = np.asarray(query)
            if query.dtype.kind not in "fiu":
                raise InputError("expected a text or a vector of numbers as query")
        scores, indices = self.search_batch([query] if isinstance(query, str) else query[None], k, **arguments)
        return SearchResults(scores[0], indices[0])

    def search_batch(self, queries: Any, k: int = 10, **arguments: Any) -> BatchedSearchResults:
        """Rows for several queries; see :meth:`search`. Vectors are (q, d)."""
        if arguments:
            raise InputError(f"expected query and k alone, got {', '.join(sorted(arguments))} as well")
        if isinstance(queries, np.ndarray):
            found = self.retriever.retrieve_encoded(QueryEncoding(queries.astype(np.float32, copy=False), None), k=k)
        else:
            found = self.retriever.retrieve(list(queries), k=k)
        return BatchedSearchResults(
            [[hit.score for hit in retrieval.hits] for retrieval in found],
            [[int(hit.id) for hit in retrieval.hits] for retrieval in found],
        )


def add_safe_index(
    dataset: Dataset,
    column: str,
    index_path: str | Path,
    *,
    index_name: str | None = None,
    document_encoder: str = DEFAULT_DOCUMENT_ENCODER,
    factory: str = FLAT,
    batch_size: int = 32,
    arm: Arm | str = Arm.OUTPUT,
    gate: GateAction | str = GateAction.ALLOW,
    threshold: float = DEFAULT_THRESHOLD,
    adapter: str | Path | None = None,
    backbone: str | None = None,
    policy: str | None = None,
    dtype: str = "auto",
    offline: bool = False,
) -> Dataset:
    """Build an index of a text column and hang it on the data set.

    A build that was stopped goes on where it stopped. An index that is there is replaced.

    Args:
        dataset: rows; it is not copied.
        column: of texts.
        index_path: the index folder.
        index_name: what the data set calls it; ``None`` takes the column's name.
        document_encoder: name, hub id or folder.
        factory: kind of index (docs/index.md), or ``auto``.
        batch_size: texts in one forward pass.
        arm: how queries are turned into hits.
        gate: what is done with queries that the backbone would refuse.
        threshold: refusal probability from which the gate fires.
        adapter: folder of a response adapter; ``None`` takes the one shipped for backbone and document encoder.
        backbone: name, hub id or folder of the language model; ``None`` takes the adapter's, or the default.
        policy: name of a response policy, or a system prompt; ``None`` takes the adapter's.
        dtype: what the language model computes in, as ``LanguageModel.load`` takes it.
        offline: open no connection.

    Returns:
        The same data set.

    Raises:
        InputError: no such column, arm, gate or kind of index, or a row that holds no text.
        DataError: the data set is empty.
        IndexFolderError: the folder holds something else.
        AdapterError, ModelError: the adapter or a model cannot be had.
    """
    from safe_retrieval.encoder.document_encoders import load_document_encoder
    from safe_retrieval.index.builder import build_index

    _check_column(dataset, column)
    encoder = load_document_encoder(document_encoder, offline=offline)
    documents = (Document(str(row), text) for row, text in enumerate(_texts(dataset, column)))
    build_index(documents, encoder, index_path, factory=factory, batch_size=batch_size, total=len(dataset))
    retriever = SafeRetriever.open(
        index_path,
        arm=arm,
        gate=gate,
        threshold=threshold,
        adapter=adapter,
        backbone=backbone,
        policy=policy,
        dtype=dtype,
        offline=offline,
    )
    return _attach(dataset, index_name or column, retriever)


def load_safe_index(
    dataset: Dataset, column: str, index_path: str | Path, *, index_name: str | None = None, **settings: Any
) -> Dataset:
    """Hang an index that :func:`add_safe_index` built on the data set again; nothing is encoded.

    Args:
        dataset: the rows that it was built of.
        column: the texts that it was built of.
        index_path: the index folder.
        index_name: what the data set calls it; ``None`` takes the column's name.
        settings: ``arm``, ``gate`` and the others of ``SafeRetriever.open``.

    Returns:
        The same data set.

    Raises:
        InputError: the index was built of other rows, or in another order.
        IndexFolderError, AdapterError, ModelError: as ``SafeRetriever.open`` raises them.
    """
    _check_column(dataset, column)
    retriever = SafeRetriever.open(index_path, **settings)
    pairs = zip_longest(enumerate(_texts(dataset, column)), retriever.index.documents())
    for position, (row, document) in enumerate(pairs):
        if row is None or document is None or (str(row[0]), row[1]) != (document.id, document.text):
            raise InputError(
                f"row {position} of the data set is not document {position} of {index_path}; load the index beside the "
                "rows that it was built of, or build it anew with add_safe_index"
            )
    return _attach(dataset, index_name or column, retriever)


def _attach(dataset: Dataset, name: str, retriever: SafeRetriever) -> Dataset:
    # The library keeps the indexes that it made itself in this table, and has no public way to add another kind.
    dataset._indexes[name] = SafeDatasetIndex(retriever)
    return dataset


def _check_column(dataset: Dataset, column: str) -> None:
    if column not in dataset.column_names:
        raise InputError(f"expected a column out of {', '.join(dataset.column_names)}, got {column!r}")


def _texts(dataset: Dataset, column: str, *, batch_size: int = 1_000) -> Iterator[str]:
    """The column's texts as they are stored, whatever format the data set is set to give its rows in."""
    from safe_retrieval.encoder.texts import readable

    for start in range(0, len(dataset), batch_size):
        with dataset.formatted_as(None, columns=[column]):  # a copy without format would copy the indexes as well
            texts = dataset[start : start + batch_size][column]
        for row, text in enumerate(texts, start=start):
            if not isinstance(text, str):
                raise InputError(f"row {row} of column {column!r} holds {type(text).__name__}, expected a text")
            yield readable(text)
