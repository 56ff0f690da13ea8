"""An index out of documents and vectors that are there already: nothing is encoded.

Blocks of both are streamed to the disk, then FAISS's file is made of them, as a build does it, and the manifest comes
last. There is nothing to resume: what was started is dropped, and the folder holds an index or none.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import NamedTuple

from safe_retrieval.errors import DataError, EncoderMismatchError, IndexFolderError, InputError
from safe_retrieval.index.advisor import advise
from safe_retrieval.index.builder import library_versions
from safe_retrieval.index.documents import DocumentWriter
from safe_retrieval.index.factories import AUTO, FLAT, Factory, parse_factory
from safe_retrieval.index.faiss_files import FlatWriter, read_flat
from safe_retrieval.index.folder import load_index
from safe_retrieval.index.manifest import (
    BUILD_FOLDER,
    MANIFEST_NAME,
    BuildRecord,
    EncoderRecord,
    IndexManifest,
    SegmentRecord,
)
from safe_retrieval.index.publish import locked, place, publish, writing
from safe_retrieval.index.searchable import SearchableIndex
from safe_retrieval.index.segments import Block
from safe_retrieval.index.settings import SearchSettings
from safe_retrieval.index.vector_files import VectorFiles, write_vectors
from safe_retrieval.index.vectors import check_vectors

_MEND = "run the same again"


class Duplicates(StrEnum):
    """What a merge does with an id that two indexes have."""

    REFUSE = "refuse"
    """Merge nothing and name the id."""
    FIRST = "first"
    """Keep the document of the index that comes first."""
    LAST = "last"
    """Keep the document of the index that comes last."""


class ReadyFile(NamedTuple):
    """A FAISS file that holds the very vectors that go into an index, in their order, and what kind it is."""

    path: Path
    factory: Factory


def _nothing_ready() -> ReadyFile | None:
    return None


def assemble_index(
    blocks: Iterable[Block],
    encoder: EncoderRecord,
    dimension: int,
    out: str | Path,
    *,
    factory: str = FLAT,
    memory: int | None = None,
    ready: Callable[[], ReadyFile | None] = _nothing_ready,
    search: SearchSettings | None = None,
) -> IndexManifest:
    """Write documents and their vectors as an index.

    Args:
        blocks: documents with distinct ids and (n, dimension) float32 of unit norm each; read once, in order.
        encoder: who made the vectors.
        dimension: length of a vector.
        out: the index folder: missing or empty.
        factory: the kind of index (:mod:`~safe_retrieval.index.factories`), or ``auto``.
        memory: as for :func:`~safe_retrieval.index.builder.build_index`.
        ready: asked when all blocks have been read; what it gives is copied in place of making FAISS's file anew.
        search: how much a search looks at, of an index of this kind that somebody tuned.

    Raises:
        DataError: there are no documents, two have one id, or one cannot be stored.
        InputError: a block's vectors are faulty or not one a document; the factory is unknown, needs more documents or
            more memory.
        IndexFolderError: there is an index at ``out`` already, it holds something else, or cannot be written.
        IndexLockedError: another process is writing there.
    """
    out = Path(out)
    if factory != AUTO:
        parse_factory(factory).check_dimension(dimension)  # before anything is written
    started = time.monotonic()
    with locked(out), _aside(out) as aside:
        if (out / MANIFEST_NAME).exists():
            raise IndexFolderError(f"there is an index at {out} already; choose another folder")
        spool = aside / "spool.faiss"
        count = _spooled(blocks, aside, spool, dimension, out)
        given = ready()
        chosen = _chosen(factory, count, dimension, memory) if given is None else given.factory
        with writing(out, mend=_MEND):
            if given is not None:
                files = VectorFiles(Path(shutil.copyfile(given.path, aside / "vectors.faiss")), None)
            elif chosen.exact:
                files = VectorFiles(spool.rename(aside / "vectors.faiss"), None)
            else:
                vectors = partial(read_flat, spool, dimension, count)
                files = write_vectors(aside, chosen, dimension, count, vectors, memory=memory)
            segment = SegmentRecord(
                count=count,
                vectors=place(files.vectors, out),
                documents=place(aside / "documents.sqlite", out),
                factory=chosen.name,
                originals=None if files.originals is None else place(files.originals, out),
            )
            build = _record(time.monotonic() - started)
            manifest = IndexManifest(encoder, dimension, count, (segment,), build, factory=chosen.name, search=search)
            publish(manifest, out)
    return manifest


def merge_indexes(
    sources: Sequence[str | Path],
    out: str | Path,
    *,
    duplicates: Duplicates | str = Duplicates.REFUSE,
    factory: str | None = None,
    memory: int | None = None,
) -> IndexManifest:
    """Merge indexes of one vector space into a new one; nothing is encoded, and the old ones stay as they are.

    Args:
        sources: two folders or more, in the order in which their documents are to come.
        out: folder of the new index: missing or empty.
        duplicates: what is done with an id that two of them have.
        factory: the kind of index; ``None`` takes that of the first. What the first was tuned to holds for the new
            one too, where it is of that kind.
        memory: as for :func:`assemble_index`.

    Raises:
        InputError: fewer than two sources, no such choice for duplicates, or an id is in two indexes and that is
            refused.
        EncoderMismatchError: they are not of one vector space.
        IndexFolderError, IndexFormatError, IndexLockedError, DataError: as in :func:`assemble_index`, or a source is
            no sound index.
    """
    if len(sources) < 2:
        raise InputError(f"expected at least two indexes to merge, got {len(sources)}")
    try:
        duplicates = Duplicates(duplicates)
    except ValueError as error:
        raise InputError(f"expected one of {', '.join(Duplicates)} for duplicates, got {duplicates!r}") from error
    with ExitStack() as opened:
        indexes = [opened.enter_context(load_index(source, read_only=True)) for source in sources]
        first = indexes[0].manifest
        for index in indexes[1:]:
            _refuse_other_space(indexes[0], index)
        blocks = _merged(indexes, duplicates)
        kind = factory or first.factory
        search = first.search if kind == first.factory else None
        return assemble_index(blocks, first.encoder, first.dimension, out, factory=kind, memory=memory, search=search)


def _merged(indexes: Sequence[SearchableIndex], duplicates: Duplicates) -> Iterator[Block]:
    for number, index in enumerate(indexes):
        # Those whose documents count more than this one's; to refuse, it is enough to look back.
        stronger = indexes[number + 1 :] if duplicates is Duplicates.LAST else indexes[:number]
        for block in index.blocks():
            ids = [document.id for document in block.documents]
            taken = {identifier: other for other in stronger for identifier in other.get(ids)}
            if taken and duplicates is Duplicates.REFUSE:
                identifier, other = next(iter(taken.items()))
                raise InputError(
                    f"the id {identifier!r} is in {other.path} and in {index.path}; keep the first or the last of such "
                    "documents, or delete one"
                )
            kept = [row for row, document in enumerate(block.documents) if document.id not in taken]
            if kept:
                yield Block([block.documents[row] for row in kept], block.vectors[kept])


def _refuse_other_space(one: SearchableIndex, other: SearchableIndex) -> None:
    mine, theirs = one.manifest, other.manifest
    if (mine.encoder.space, mine.dimension) != (theirs.encoder.space, theirs.dimension):
        raise EncoderMismatchError(
            f"{one.path} was built by {mine.encoder.name} ({mine.dimension} dimensions) and {other.path} by "
            f"{theirs.encoder.name} ({theirs.dimension}): their vectors cannot be compared; build one of them again "
            "with the other's encoder"
        )


def _spooled(blocks: Iterable[Block], aside: Path, spool: Path, dimension: int, out: Path) -> int:
    """Put documents and vectors on the disk; returns how many there are.

    The vectors wait as a flat index: where one is wanted they need not be written a second time.
    """
    with ExitStack() as opened:
        with writing(out, mend=_MEND):
            writer = opened.enter_context(DocumentWriter(aside / "documents.sqlite"))
            flat = opened.enter_context(FlatWriter(spool, dimension))
        for block in blocks:
            start = len(writer)
            vectors = check_vectors(block.vectors, dimension, what=f"(from document {start}) vector")
            if len(vectors) != len(block.documents):
                raise InputError(f"expected one vector a document, got {len(vectors)} for {len(block.documents)}")
            with writing(out, mend=_MEND):
                writer.append(block.documents)
                flat.append(vectors)
        if not len(writer):
            raise DataError("expected at least one document, got none")
        with writing(out, mend=_MEND):  # what still waits in the buffer may find the disk full
            flat.close()
        return len(writer)


def _chosen(name: str, count: int, dimension: int, memory: int | None) -> Factory:
    if name == AUTO:
        return advise(count, dimension, memory=memory).factory
    factory = parse_factory(name)
    factory.check_count(count)
    return factory


def _record(seconds: float) -> BuildRecord:
    return BuildRecord(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=round(seconds, 3),
        shards=0,
        reused_shards=0,
        shard_size=0,
        versions=library_versions(),
    )


@contextmanager
def _aside(out: Path) -> Iterator[Path]:
    """An empty folder for what is not finished, where a build has its own too; gone afterwards."""
    aside = out / BUILD_FOLDER / "assembled"
    shutil.rmtree(aside, ignore_errors=True)  # a killed process may have left one
    with writing(out, mend=_MEND):
        aside.mkdir(parents=True)
    try:
        yield aside
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        with suppress(OSError):  # shards of an unfinished build lie there, and stay
            aside.parent.rmdir()
