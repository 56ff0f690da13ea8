"""An index as files that other programs read: Parquet with its vectors, and a plain BEIR folder.

A Parquet file has the columns ``id``, ``title``, ``text``, ``metadata`` (JSON) and ``vector`` (a list of ``dimension``
float32), and says in its own key-value metadata who made the vectors, so :func:`~.parquet.import_parquet` makes the
same index of it again. A BEIR folder has ``corpus.jsonl``, which :func:`~.corpus.read_corpus` reads.

Both are written aside and renamed in: a file is there as a whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from safe_retrieval.errors import DataError
from safe_retrieval.index.readers import COMPRESSED
from safe_retrieval.index.searchable import SearchableIndex
from safe_retrieval.index.segments import Block
from safe_retrieval.types import Document

PARQUET_KEY = b"safe_retrieval"
"""Under which a Parquet file names its format, encoder, dimension and kind of index."""

PARQUET_FORMAT = "safe-retrieval documents"
PARQUET_VERSION = 1
"""What stands under that key of a file of ours: the format and its version."""

PARQUET_COLUMNS = ("id", "title", "text", "metadata")
"""Columns of a document, each a string; the metadata is JSON."""

VECTOR_FIELD = "vector"
"""Column of the vectors."""

BEIR_FIELDS = ("_id", "title", "text")
"""Fields of a line in BEIR form; metadata stands beside them, so it cannot have these names."""

_GROUP_BLOCKS = 8
"""Blocks in a row group: some four thousand documents."""


def export_parquet(index: SearchableIndex, path: str | Path, *, vectors: bool = True) -> int:
    """Write all documents of an index, and their vectors, as one Parquet file; a file that is there is replaced.

    Args:
        index: the index; its state of now.
        path: the file.
        vectors: whether to write the column ``vector`` too.

    Returns:
        How many documents were written.

    Raises:
        DataError: the file cannot be written.
    """
    import pyarrow
    from pyarrow import parquet

    frozen = index.frozen()
    columns = [(name, pyarrow.string()) for name in PARQUET_COLUMNS]
    if vectors:
        columns.append((VECTOR_FIELD, pyarrow.list_(pyarrow.float32(), frozen.dimension)))
    schema = pyarrow.schema(columns, metadata={PARQUET_KEY: _described(frozen).encode()})
    count = 0
    with _aside(Path(path)) as partial, parquet.ParquetWriter(partial, schema, write_page_checksum=True) as writer:
        blocks = frozen.blocks()
        for first in blocks:
            group = [first, *islice(blocks, _GROUP_BLOCKS - 1)]
            batches = [_batch(block, schema, vectors=vectors) for block in group]
            writer.write_table(pyarrow.Table.from_batches(batches, schema))
            count += sum(len(block.documents) for block in group)
    return count


def _described(index: SearchableIndex) -> str:
    own = index.manifest
    record = {
        "format": PARQUET_FORMAT,
        "version": PARQUET_VERSION,
        "encoder": asdict(own.encoder),
        "dimension": own.dimension,
        "factory": own.factory,
    }
    return json.dumps({**record, "sha256": described_sha256(record)}, sort_keys=True)


def described_sha256(record: Mapping[str, Any]) -> str:
    """Hash over what a file says of itself; pages of data have checksums of Parquet's own."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _batch(block: Block, schema: Any, *, vectors: bool) -> Any:
    import pyarrow

    columns: list[Any] = [
        pyarrow.array([document.id for document in block.documents], pyarrow.string()),
        pyarrow.array([document.title for document in block.documents], pyarrow.string()),
        pyarrow.array([document.text for document in block.documents], pyarrow.string()),
        pyarrow.array([json.dumps(dict(document.metadata)) for document in block.documents], pyarrow.string()),
    ]
    if vectors:
        flat = pyarrow.array(block.vectors.ravel())
        columns.append(pyarrow.FixedSizeListArray.from_arrays(flat, block.vectors.shape[1]))
    return pyarrow.RecordBatch.from_arrays(columns, schema=schema)


def export_beir(index: SearchableIndex, folder: str | Path) -> int:
    """Write all documents of an index as ``corpus.jsonl``, as BEIR sets have it; metadata stands beside the text.

    Args:
        index: the index; its state of now.
        folder: made if it is missing; a ``corpus.jsonl`` in it is replaced, its other files stay.

    Returns:
        How many documents were written.

    Raises:
        DataError: a document has metadata by the name of a field of BEIR's; the folder has a compressed corpus already,
            so nobody could tell which one counts; or it cannot be written.
    """
    folder = Path(folder)
    packed = [name for suffix in COMPRESSED if (folder / (name := f"corpus.jsonl{suffix}")).exists()]
    if packed:
        raise DataError(f"{folder} has {packed[0]} already; choose another folder")
    count = 0
    with _aside(folder / "corpus.jsonl") as partial, partial.open("w", encoding="ascii", newline="\n") as file:
        for document in index.frozen().documents():
            file.write(_beir_line(document))
            count += 1
    return count


def _beir_line(document: Document) -> str:
    taken = set(BEIR_FIELDS) & set(document.metadata)
    if taken:
        raise DataError(
            f"document {document.id!r} has a metadata field {min(taken)!r}, which BEIR's form has another use for; "
            "export to Parquet"
        )
    fields = dict(zip(BEIR_FIELDS, (document.id, document.title, document.text), strict=True))
    return json.dumps({**fields, **document.metadata}) + "\n"


@contextmanager
def _aside(path: Path) -> Iterator[Path]:
    """A file that takes the place of ``path`` when it is complete, and is gone if it is not."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield partial
            with partial.open("rb+") as file:
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error}; make room, or choose another place") from error
