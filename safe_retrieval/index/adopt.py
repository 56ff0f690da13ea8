"""Existing FAISS indexes become index folders, without encoding anything again but a sample.

What is needed is the FAISS file, the texts in the same order (or under the numbers that the file knows its vectors by),
and the name of the encoder that made the vectors; that it did is checked. From then on a response encoder whose teacher
that is may ask the index.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from safe_retrieval.errors import DataError, EncoderMismatchError
from safe_retrieval.index.assemble import ReadyFile, assemble_index
from safe_retrieval.index.builder import encoder_record
from safe_retrieval.index.docstore import not_taken, read_docstore
from safe_retrieval.index.factories import FLAT
from safe_retrieval.index.foreign import ForeignIndex
from safe_retrieval.index.parquet import Imported, unit_vectors
from safe_retrieval.index.recheck import SAMPLE, Recheck
from safe_retrieval.index.segments import Block
from safe_retrieval.types import Document, Encoder

_BLOCK = 2_048


def adopt_index(
    faiss_file: str | Path,
    documents: Iterable[Document],
    encoder: Encoder,
    out: str | Path,
    *,
    factory: str | None = None,
    sample: int = SAMPLE,
) -> Imported:
    """Make an index folder of a FAISS file and its texts.

    Args:
        faiss_file: an index by inner product or L2, of any kind that gives its vectors back.
        documents: its texts. Where the file numbers its vectors itself (``IndexIDMap``, ``add_with_ids``), the
            documents' ids are those numbers; otherwise the i-th document belongs to the i-th vector.
        encoder: who made the vectors.
        out: the index folder: missing or empty.
        factory: the kind of index to make of the vectors. ``None`` takes the file as it is, where it holds unit vectors
            as they are, by inner product, as ``Flat``, ``HNSW`` or ``IVF``; and makes a ``Flat`` one of any other.
        sample: how many documents are encoded again to see that the vectors are the encoder's; 0 trusts the caller.

    Raises:
        DataError: texts and vectors do not fit together, or this kind does not give its vectors back.
        EncoderMismatchError: the vectors are not the encoder's; nothing is written then.
        IndexFormatError: the FAISS file is missing or damaged.
        IndexFolderError: there is an index at ``out`` already, or it holds something else.
    """
    return _adopted(ForeignIndex(Path(faiss_file)), documents, encoder, Path(out), factory=factory, sample=sample)


def import_langchain(
    folder: str | Path,
    out: str | Path,
    encoder: Encoder,
    *,
    name: str = "index",
    skip_foreign: bool = False,
    factory: str | None = None,
    sample: int = SAMPLE,
) -> Imported:
    """Make an index folder of one that LangChain's FAISS store has saved; its pickle is read and never run.

    Args:
        folder: with ``index.faiss`` and ``index.pkl``.
        out: the index folder: missing or empty.
        encoder: who made the vectors.
        name: of the two files, without their suffixes.
        skip_foreign: leave out metadata that is no JSON (dates, arrays, objects) and say so in ``left_out``; otherwise
            the first such field is an error.
        factory: as in :func:`adopt_index`.
        sample: as in :func:`adopt_index`.

    Raises:
        DataError, EncoderMismatchError, IndexFormatError, IndexFolderError: as in :func:`adopt_index`; or the pickle
            holds something else than LangChain's documents.
    """
    folder = Path(folder)
    path = folder / f"{name}.pkl"
    stored, order = read_docstore(path)
    foreign = ForeignIndex(folder / f"{name}.faiss")
    if sorted(order) != list(range(len(foreign))):
        raise DataError(f"{path}: expected the ids of {len(foreign)} vectors, numbered from 0, got {len(order)}")
    left_out: list[str] = []

    def documents() -> Iterator[Document]:
        for position in range(len(foreign)):
            identifier = order[position]
            if identifier not in stored:
                raise DataError(f"{path}: there is no document {identifier!r}, which vector {position} is of")
            text, metadata = stored[identifier]
            reasons = {field: why for field, value in metadata.items() if (why := not_taken({field: value}))}
            for field, why in reasons.items():
                sentence = f"document {identifier!r}: metadata field {field!r} {why}"
                if not skip_foreign:
                    raise DataError(f"{path}: {sentence}, and cannot be taken; leave such fields out: --skip-foreign")
                left_out.append(sentence)
            yield Document(identifier, text, "", {f: value for f, value in metadata.items() if f not in reasons})

    imported = _adopted(foreign, documents(), encoder, Path(out), factory=factory, sample=sample)
    return imported._replace(left_out=tuple(left_out))


def _adopted(
    foreign: ForeignIndex,
    documents: Iterable[Document],
    encoder: Encoder,
    out: Path,
    *,
    factory: str | None,
    sample: int,
) -> Imported:
    if foreign.dimension != encoder.dimension:
        raise EncoderMismatchError(
            f"{foreign.path} holds vectors of length {foreign.dimension}, {encoder.name} makes them of length "
            f"{encoder.dimension}; name the encoder that made them"
        )
    source = _Source(foreign, documents)
    recheck = Recheck(encoder, len(foreign), what=str(foreign.path), sample=sample)

    def ready() -> ReadyFile | None:
        if factory is not None or foreign.factory is None or source.scaled:
            return None
        return ReadyFile(foreign.path, foreign.factory)

    blocks = recheck.watched(source.blocks())
    manifest = assemble_index(
        blocks, encoder_record(encoder), encoder.dimension, out, factory=factory or FLAT, ready=ready
    )
    return Imported(manifest, source.scaled, recheck.agreement)


class _Source:
    """The documents with their vectors.

    Attributes:
        scaled: vectors so far that were not of length one.
    """

    def __init__(self, foreign: ForeignIndex, documents: Iterable[Document]) -> None:
        self._foreign = foreign
        self._documents = iter(documents)
        self.scaled = 0

    def blocks(self) -> Iterator[Block]:
        """All of them, some thousand at a time, in the order of the documents."""
        foreign, start = self._foreign, 0
        while chunk := list(islice(self._documents, _BLOCK)):
            if start + len(chunk) > len(foreign):
                raise DataError(self._miscounted("more"))
            places = np.arange(start, start + len(chunk)) if foreign.ids is None else self._places(chunk)
            vectors, scaled = unit_vectors(foreign.vectors_at(places), first=start)
            self.scaled += scaled
            start += len(chunk)
            yield Block(chunk, vectors)
        if start != len(foreign):
            raise DataError(self._miscounted(f"{start:,}"))

    def _places(self, documents: list[Document]) -> NDArray[np.int64]:
        numbers = np.asarray([_number(document.id) for document in documents], dtype=np.int64)
        places = self._foreign.places(numbers)
        missing = np.flatnonzero(places < 0)
        if missing.size:
            raise DataError(
                f"{self._foreign.path} knows its vectors by numbers of its own, and none by "
                f"{documents[missing[0]].id!r}; expected documents whose ids are those numbers"
            )
        return places

    def _miscounted(self, found: str) -> str:
        return f"{self._foreign.path}: expected {len(self._foreign):,} documents, one for each vector, got {found}"


def _number(identifier: str) -> int:
    """The number that an id spells; -1, which FAISS uses for none, if it spells no number of 64 bits."""
    digits = identifier.isascii() and identifier.removeprefix("-").isdigit() and len(identifier) < 20
    return int(identifier) if digits and -(2**63) <= int(identifier) < 2**63 else -1
