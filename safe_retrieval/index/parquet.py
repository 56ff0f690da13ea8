"""Documents with their vectors out of a Parquet file: one that :mod:`~.export` wrote, or anybody's."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from safe_retrieval.errors import DataError, EncoderMismatchError, InputError
from safe_retrieval.index.assemble import assemble_index
from safe_retrieval.index.builder import encoder_record
from safe_retrieval.index.export import (
    PARQUET_COLUMNS,
    PARQUET_FORMAT,
    PARQUET_KEY,
    PARQUET_VERSION,
    VECTOR_FIELD,
    described_sha256,
)
from safe_retrieval.index.factories import FLAT
from safe_retrieval.index.manifest import EncoderRecord, IndexManifest
from safe_retrieval.index.readers import STREAMED, python_rows
from safe_retrieval.index.recheck import SAMPLE, Agreement, Recheck
from safe_retrieval.index.rows import PLAIN_FIELDS, Fields, Place, document_of
from safe_retrieval.index.segments import Block
from safe_retrieval.index.vectors import NORM_TOLERANCE
from safe_retrieval.types import Document, Encoder, FloatMatrix

_BATCH_ROWS = 2_048


class Imported(NamedTuple):
    """What came of an import.

    Attributes:
        manifest: of the new index.
        scaled: vectors that were not of length one and have been scaled to it; their cosines are the same.
        agreement: of a sample of the vectors with the encoder; ``None`` where no encoder was given.
        left_out: what could not be taken, one sentence each.
    """

    manifest: IndexManifest
    scaled: int
    agreement: Agreement | None
    left_out: tuple[str, ...] = ()


def import_parquet(
    path: str | Path,
    out: str | Path,
    *,
    encoder: Encoder | None = None,
    fields: Fields = PLAIN_FIELDS,
    vector_field: str = VECTOR_FIELD,
    factory: str | None = None,
    memory: int | None = None,
    sample: int = SAMPLE,
) -> Imported:
    """Make an index of the documents and vectors in a Parquet file; nothing but a sample is encoded.

    Args:
        path: the file. The column of vectors holds lists of floats of one length; float64 and float16 become float32.
        out: the index folder: missing or empty.
        encoder: who made the vectors. A sample of documents is encoded again to see that this is so. ``None`` takes the
            file's word, if :func:`~safe_retrieval.index.export.export_parquet` wrote it.
        fields: which columns are id, title and text; all others but the vectors become metadata.
        vector_field: column of the vectors.
        factory: the kind of index; ``None`` takes that of the exported index, or ``Flat``.
        memory: as for :func:`~safe_retrieval.index.assemble.assemble_index`.
        sample: how many documents are encoded again.

    Raises:
        DataError: the file is missing or broken, or a row lacks an id, a text or a vector; the message names the row.
        InputError: the file does not say whose vectors it holds and no encoder was given; a vector is zero, not finite
            or of another length.
        EncoderMismatchError: the vectors are not the encoder's.
        IndexFolderError: there is an index at ``out`` already, or it holds something else.
    """
    path = Path(path)
    source = _Source.open(path)
    record = source.encoder
    if encoder is not None:
        if record is not None and record.space != encoder.space:
            raise EncoderMismatchError(
                f"{path} holds vectors of {record.name}, and {encoder.name} speaks another space; leave the encoder out"
            )
        record = encoder_record(encoder)
    if record is None:
        raise InputError(f"{path} does not say who made its vectors; name the encoder: --encoder")
    dimension = source.dimension if encoder is None else encoder.dimension
    rows = _Rows(path, replace(fields, id=fields.id or source.id_field), vector_field, ours=source.ours)
    blocks: Iterator[Block] = rows.blocks(dimension)
    recheck = None
    if encoder is not None:
        recheck = Recheck(encoder, source.total, what=str(path), sample=sample)
        blocks = recheck.watched(blocks)
    manifest = assemble_index(blocks, record, dimension, out, factory=factory or source.factory, memory=memory)
    return Imported(manifest, rows.scaled, None if recheck is None else recheck.agreement)


class _Source(NamedTuple):
    """What a file says of itself."""

    total: int
    ours: bool
    encoder: EncoderRecord | None
    dimension: int
    factory: str
    id_field: str | None

    @classmethod
    def open(cls, path: Path) -> _Source:
        import pyarrow
        from pyarrow import parquet

        try:
            metadata = parquet.read_metadata(path)
        except (pyarrow.ArrowException, OSError) as error:
            raise DataError(f"{path} is not readable as Parquet: {error}") from error
        described = (metadata.metadata or {}).get(PARQUET_KEY)
        if described is None:
            return cls(metadata.num_rows, False, None, 0, FLAT, None)
        try:
            record = json.loads(described)
            whole = record.pop("sha256") == described_sha256(record)
            if whole and (record["format"], record["version"]) == (PARQUET_FORMAT, PARQUET_VERSION):
                return cls(
                    metadata.num_rows,
                    True,
                    EncoderRecord(**record["encoder"]),
                    int(record["dimension"]),
                    str(record["factory"]),
                    "id",
                )
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path}: what it says of its vectors is damaged: {error}; export it again") from error
        raise DataError(
            f"{path}: expected {PARQUET_FORMAT} of version {PARQUET_VERSION}, got another, or damage; export it again"
        )


class _Rows:
    """The rows of a file as documents and vectors.

    Attributes:
        scaled: vectors so far that were not of length one.
    """

    def __init__(self, path: Path, fields: Fields, vector_field: str, *, ours: bool) -> None:
        self._path = path
        self._fields = fields
        self._vector_field = vector_field
        self._ours = ours
        self.scaled = 0

    def blocks(self, dimension: int) -> Iterator[Block]:
        """Documents and (n, dimension) float32 vectors of unit norm, some thousand at a time."""
        import pyarrow
        from pyarrow import parquet

        start = 0
        try:
            with parquet.ParquetFile(self._path, page_checksum_verification=True, **STREAMED) as file:
                self._check_columns(file.schema_arrow.names)
                for batch in file.iter_batches(batch_size=_BATCH_ROWS):
                    vectors, scaled = unit_vectors(self._vectors(batch, start, dimension), first=start)
                    self.scaled += scaled
                    rows = python_rows(batch.drop_columns([self._vector_field]))
                    documents = [self._document(row, fault, start + n) for n, (row, fault) in enumerate(rows)]
                    yield Block(documents, vectors)
                    start += batch.num_rows
        except (pyarrow.ArrowException, OSError) as error:
            raise DataError(f"{Place(self._path, start, 'row')} or after: not readable as Parquet: {error}") from error

    def _check_columns(self, names: Sequence[str]) -> None:
        if self._vector_field not in names:
            raise DataError(
                f"{self._path}: expected a column {self._vector_field!r} of vectors, got {', '.join(names)}; name it: "
                "--vector-field"
            )
        if self._ours and set(names) != {*PARQUET_COLUMNS, self._vector_field}:
            raise DataError(f"{self._path}: its columns were renamed ({', '.join(names)}); export the index again")

    def _vectors(self, batch: Any, start: int, dimension: int) -> NDArray[Any]:
        import pyarrow
        from pyarrow import compute

        column = batch.column(self._vector_field)
        kind = column.type
        lists = pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind)
        if not (lists or pyarrow.types.is_fixed_size_list(kind)) or not pyarrow.types.is_floating(kind.value_type):
            raise DataError(f"{self._path}: expected lists of floats in {self._vector_field!r}, got {kind}")
        lengths = compute.list_value_length(column).to_pylist()
        wrong = next((row for row, length in enumerate(lengths) if length != dimension), None)
        if wrong is not None:
            place = Place(self._path, start + wrong + 1, "row")
            raise DataError(f"{place}: expected a vector of length {dimension}, got {lengths[wrong] or 'none'}")
        flat = column.flatten().to_numpy(zero_copy_only=False)
        rows: NDArray[Any] = flat.reshape(len(column), dimension)
        return rows

    def _document(self, row: Mapping[str, Any] | None, fault: str, position: int) -> Document:
        place = Place(self._path, position + 1, "row")
        if row is None:
            raise DataError(f"{place}: {fault}")
        if not self._ours:
            return document_of(row, place, self._fields)
        fields = dict(row)
        document = document_of({**fields, "metadata": None}, place, self._fields)
        try:
            return replace(document, metadata=json.loads(fields["metadata"]))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{place}: its metadata is no JSON: {error}; export the index again") from error


class UnitVectors(NamedTuple):
    """(n, d) float32 of unit norm, and how many of them had to be scaled."""

    vectors: FloatMatrix
    scaled: int


def unit_vectors(vectors: NDArray[Any], *, first: int = 0) -> UnitVectors:
    """Vectors as an index takes them; those that are of length one already stay as they are, bit for bit.

    Args:
        vectors: (n, d), of any floating type and length.
        first: position of the first one, for messages.

    Raises:
        InputError: one of them is zero or not finite.
    """
    wide = vectors.astype(np.float64)
    norms = np.linalg.norm(wide, axis=1)
    broken = np.flatnonzero(~(np.isfinite(norms) & (norms > 0)))
    if broken.size:
        raise InputError(f"vector {first + broken[0]} is zero or not finite and has no direction; leave it out")
    result = vectors.astype(np.float32)
    far = np.abs(norms - 1) > NORM_TOLERANCE
    result[far] = (wide[far] / norms[far, None]).astype(np.float32)
    return UnitVectors(result, int(np.count_nonzero(far)))
