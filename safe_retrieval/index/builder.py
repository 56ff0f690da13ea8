"""Build an index folder from a stream of documents.

Documents are read a shard at a time: stored, encoded, and their vectors kept in a file, so neither the corpus nor its
vectors need to fit in memory until FAISS gathers the vectors at the end. Everything is written to ``OUT/.building``;
the finished files then move into ``OUT`` under names that hold their hash, and the manifest that names them replaces
the old one in one step. Whoever opens the folder at any moment finds the old index or the new one.

Rule for starting again after a stop, kill -9 included: run the same build again. Shards whose texts and encoder are
unchanged are taken over, all others are encoded anew, and the files come out the same, byte for byte, as without the
stop.
"""

from __future__ import annotations

import platform
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import islice
from operator import length_hint
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from safe_retrieval.encoder.progress import progress_bar
from safe_retrieval.errors import DataError, IndexFolderError, InputError
from safe_retrieval.index.advisor import advise
from safe_retrieval.index.documents import DocumentWriter
from safe_retrieval.index.encoding import ShardEncoder
from safe_retrieval.index.factories import AUTO, FLAT, Factory, parse_factory
from safe_retrieval.index.manifest import BUILD_FOLDER, BuildRecord, EncoderRecord, IndexManifest, SegmentRecord
from safe_retrieval.index.plan import PLAN_NAME
from safe_retrieval.index.publish import locked, place, publish, writing
from safe_retrieval.index.shards import ShardStore, shard_key
from safe_retrieval.index.vector_files import VectorFiles, check_memory, readings, write_vectors
from safe_retrieval.types import Document, Encoder, FloatMatrix

SHARD_SIZE = 2_048
"""Documents in a shard: what a stop costs at most, half a minute of MiniLM on two slow cores.

Texts are sorted by length within a shard, and the fewer they are, the more of a batch is padding: some four per cent at
a quarter of this size, by reckoning, for documents of 20 to 120 words."""

DOCUMENTS_NAME = "documents.sqlite"
"""Of the documents of an unfinished build."""

_MEND = "run the same build again, it goes on where it stopped"


@runtime_checkable
class _Prompted(Protocol):
    """An encoder that puts text before what it encodes."""

    query_prompt: str
    document_prompt: str


def build_index(
    documents: Iterable[Document],
    encoder: Encoder,
    out: str | Path,
    *,
    factory: str = FLAT,
    memory: int | None = None,
    batch_size: int = 32,
    shard_size: int = SHARD_SIZE,
    deletes: bool = False,
    resume: bool = True,
    total: int | None = None,
    progress: bool | None = None,
) -> IndexManifest:
    """Build an index, or replace the one that is at ``out``.

    Args:
        documents: the corpus; read once, in order. Ids are unique.
        encoder: makes the vectors, by ``encode_documents``.
        out: the index folder: missing, empty, an index, or an unfinished build. Any other folder is refused.
        factory: the kind of index, by FAISS's name (:mod:`~safe_retrieval.index.factories`), or ``auto`` for the
            advisor's choice.
        memory: bytes that vectors may take while FAISS's file is made and, for ``auto``, while they are searched; the
            encoder, Python and libraries come on top. ``None`` is no bound.
        batch_size: texts in one forward pass; halved for good where memory runs out.
        shard_size: documents in a shard.
        deletes: whether documents will be deleted or replaced often, which ``auto`` goes by.
        resume: take over the shards of an unfinished build where encoder and texts are the same; otherwise they are
            dropped first.
        total: number of documents, for the progress bar, where it is known.
        progress: whether to show a bar on stderr; ``None`` shows it unless ``total`` is below 500.

    Returns:
        The manifest of the new index.

    Raises:
        DataError: the corpus is empty or broken, or has an id twice. Shards stay for the next run.
        InputError: the encoder's vectors are not what an index takes, a size is below 1, or the factory is unknown or
            not for vectors of that length; or, known at the end, it needs more documents to be trained on, or more
            memory. Shards stay for the next run.
        IndexFolderError: ``out`` holds something else.
        IndexLockedError: another process is building there.
    """
    if shard_size < 1 or batch_size < 1:
        raise InputError(f"shard_size and batch_size must be at least 1, got {shard_size} and {batch_size}")
    out = Path(out)
    started = time.monotonic()
    if total is None:
        total = length_hint(documents) or None  # of lists, and of what read_corpus gives
    with locked(out):
        build = _Build(
            encoder,
            out,
            factory=factory,
            memory=memory,
            batch_size=batch_size,
            shard_size=shard_size,
            deletes=deletes,
            resume=resume,
        )
        with build.documents, progress_bar(total, f"Indexing with {encoder.name}", show=progress) as advance:
            remaining = iter(documents)
            while chunk := list(islice(remaining, shard_size)):
                build.add(chunk)
                advance(len(chunk))
        return build.finish(started, progress=progress)


class _Build:
    """One run of a build: shards first, then the files of the index, then the step that makes them the index."""

    def __init__(
        self,
        encoder: Encoder,
        out: Path,
        *,
        factory: str,
        memory: int | None,
        batch_size: int,
        shard_size: int,
        deletes: bool,
        resume: bool,
    ) -> None:
        if factory != AUTO:
            parse_factory(factory).check_dimension(encoder.dimension)  # reported before anything is encoded
        self._factory = factory
        self._memory = memory
        self._deletes = deletes
        self._encoder = encoder
        self._shard_encoder = ShardEncoder(encoder, batch_size)
        self._out = out
        self._folder = out / BUILD_FOLDER
        self._shard_size = shard_size
        self._keys: list[str] = []
        self._reused = 0
        with writing(out, mend=_MEND):
            if not resume and self._folder.exists():
                shutil.rmtree(self._folder)
            self._shards = ShardStore(self._folder / "shards")
            documents_path = self._folder / DOCUMENTS_NAME
            documents_path.unlink(missing_ok=True)  # written anew by each run: reading the corpus is the cheap part
            (self._folder / PLAN_NAME).unlink(missing_ok=True)  # a build in shards began here, of other documents
            self.documents = DocumentWriter(documents_path)

    def add(self, chunk: list[Document]) -> None:
        """Store one shard's documents and make sure that its vectors are on the disk."""
        start = len(self.documents)
        with writing(self._out, mend=_MEND):
            self.documents.append(chunk)
        contents = [document.content for document in chunk]
        number, key = len(self._keys), shard_key(self._encoder, contents)
        self._keys.append(key)
        if self._shards.is_done(number, key, self._encoder, contents[0]):
            self._reused += 1
            return
        vectors = self._shard_encoder.encode(contents, start=start)
        with writing(self._out, mend=_MEND):
            self._shards.save(number, key, vectors)

    def finish(self, started: float, *, progress: bool | None) -> IndexManifest:
        """Write the index's files and make them the index."""
        count = len(self.documents)
        if count == 0:
            raise DataError("expected a corpus with at least one document, got an empty one")
        dimension = self._encoder.dimension
        factory = chosen_factory(self._factory, count, dimension, memory=self._memory, deletes=self._deletes)
        shown = vectors_shown(factory, readings(factory) * count, self._blocks, show=progress)
        with writing(self._out, mend=_MEND), shown as blocks:
            files = write_vectors(self._folder, factory, dimension, count, blocks, memory=self._memory)
        record = BuildRecord(
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            seconds=round(time.monotonic() - started, 3),
            shards=len(self._keys),
            reused_shards=self._reused,
            shard_size=self._shard_size,
            versions=library_versions(),
        )
        return publish_build(
            self._out,
            encoder=encoder_record(self._encoder),
            dimension=dimension,
            count=count,
            factory=factory,
            files=files,
            record=record,
        )

    def _blocks(self) -> Iterator[FloatMatrix]:
        for number, key in enumerate(self._keys):
            vectors = self._shards.load(number, key)
            if vectors is None:
                raise IndexFolderError(
                    f"shard {number} in {self._shards.folder} was changed while the build ran; run the build again"
                )
            yield vectors


def chosen_factory(name: str, count: int, dimension: int, *, memory: int | None, deletes: bool) -> Factory:
    """The kind of index that a name stands for, now that the number of vectors is known.

    Args:
        name: the kind, or ``auto`` for the advisor's choice.
        count: number of vectors.
        dimension: their length.
        memory: bytes that they may take, or ``None``.
        deletes: whether documents will be deleted or replaced often.

    Raises:
        InputError: there is no such kind, or it cannot be made of so many vectors, of that length, or within the
            memory.
    """
    if name == AUTO:
        return advise(count, dimension, memory=memory, deletes=deletes).factory
    factory = parse_factory(name)
    factory.check_count(count)
    factory.check_dimension(dimension)
    check_memory(factory, dimension, count, memory)
    return factory


def publish_build(
    out: Path,
    *,
    encoder: EncoderRecord,
    dimension: int,
    count: int,
    factory: Factory,
    files: VectorFiles,
    record: BuildRecord,
) -> IndexManifest:
    """Move the files of a finished build into place and make them the index. The folder's lock must be held.

    Raises:
        IndexFolderError: the folder cannot be written; the old index is there as before.
    """
    folder = out / BUILD_FOLDER
    with writing(out, mend=_MEND):
        segment = SegmentRecord(
            count=count,
            vectors=place(files.vectors, out),
            # Of all files the one that a merge could not make again, if it were stopped from here on.
            documents=place(folder / DOCUMENTS_NAME, out, keep=True),
            factory=factory.name,
            originals=None if files.originals is None else place(files.originals, out),
        )
        manifest = IndexManifest(encoder, dimension, count, (segment,), record, factory=factory.name)
        publish(manifest, out)
    # The index is there: what of the build cannot be removed now is no fault of it, and the next build takes it away.
    shutil.rmtree(folder, ignore_errors=True)
    return manifest


@contextmanager
def vectors_shown(
    factory: Factory, total: int, blocks: Callable[[], Iterable[FloatMatrix]], *, show: bool | None
) -> Iterator[Callable[[], Iterator[FloatMatrix]]]:
    """The same blocks with a progress bar over all the times that they are read, ``total`` vectors altogether."""
    with progress_bar(total, f"Writing {factory.name}", show=show) as advance:

        def watched() -> Iterator[FloatMatrix]:
            for block in blocks():
                yield block
                advance(len(block))

        yield watched


def encoder_record(encoder: Encoder) -> EncoderRecord:
    """What a manifest says about the encoder of its documents."""
    prompts = {}
    if isinstance(encoder, _Prompted):
        prompts = {"query": encoder.query_prompt, "document": encoder.document_prompt}
    return EncoderRecord(encoder.name, encoder.space, prompts)


def library_versions() -> dict[str, str]:
    """Versions of Python and of the libraries that write an index's files."""
    import faiss

    from safe_retrieval import __version__

    return {
        "python": platform.python_version(),
        "safe-retrieval": __version__,
        "numpy": np.__version__,
        "faiss": faiss.__version__,
        "sqlite": sqlite3.sqlite_version,
    }
