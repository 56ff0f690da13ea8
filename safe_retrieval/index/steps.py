"""A build as steps that any number of processes can do, on one machine or on many that share a file system.

::

    plan_build(documents, encoder, out, shards=64)   # once: documents to the disk, the shard manifest beside them
    embed_shard(out, 3, encoder)                     # each shard, in any order, anywhere
    train_index(out)                                 # once all shards are there: on a sample of all of them
    add_shard(out, 3)                                # each shard again, as a part of FAISS's file
    merge_index(out)                                 # joins the parts on the disk and makes them the index

Every step can be done again: what is there and sound is left as it is, so a step that a dying machine left half done is
simply started once more, and two machines that do the same one get in nobody's way. What is damaged is not sound: every
file has its hash beside it, and is made again where it does not match. The index has the same hashes as one that
:func:`~safe_retrieval.index.builder.build_index` makes of the same shards.

Planning and merging hold the folder's lock, each for itself; a build of all steps in one process holds it throughout.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

from safe_retrieval.encoder.progress import progress_bar
from safe_retrieval.errors import DataError, IndexFolderError, ModelError
from safe_retrieval.index.builder import (
    DOCUMENTS_NAME,
    SHARD_SIZE,
    chosen_factory,
    encoder_record,
    library_versions,
    publish_build,
    vectors_shown,
)
from safe_retrieval.index.documents import DocumentStore, DocumentWriter
from safe_retrieval.index.encoding import ShardEncoder
from safe_retrieval.index.factories import AUTO, FLAT, parse_factory
from safe_retrieval.index.faiss_files import Blocks, merge_parts
from safe_retrieval.index.manifest import BUILD_FOLDER, BuildRecord, IndexManifest, sync_file
from safe_retrieval.index.plan import PLAN_NAME, BuildPlan, Shard, even_bounds, read_plan
from safe_retrieval.index.publish import locked, writing
from safe_retrieval.index.shards import BuildFiles, aside_of, keep, kept_sha256, shard_key
from safe_retrieval.index.vector_files import (
    VectorFiles,
    readings,
    write_lists,
    write_originals,
    write_trained,
    write_vectors,
)
from safe_retrieval.types import Document, Encoder, FloatMatrix

ShardCount = int | Callable[[int], int]
"""How many shards there are to be, or what says how many for so many documents."""

_MEND = "do the same step again"
_BATCH = 512


def plan_build(
    documents: Iterable[Document],
    encoder: Encoder,
    out: str | Path,
    *,
    shards: ShardCount,
    factory: str = FLAT,
    memory: int | None = None,
    batch_size: int = 32,
    deletes: bool = False,
) -> BuildPlan:
    """Put the documents of a build on the disk and write its shard manifest; nothing is encoded.

    Planned again with the same corpus, it writes the same plan, and what was encoded meanwhile still counts.

    Args:
        documents: the corpus; read once, in order. Ids are unique.
        encoder: who will encode them; only its name, space and dimension are needed here.
        out: the index folder: missing, empty, an index, or an unfinished build.
        shards: how many there are to be; a function is asked when the number of documents is known.
        factory: the kind of index, or ``auto``.
        memory: as for :func:`~safe_retrieval.index.builder.build_index`, of each process.
        batch_size: texts in one forward pass.
        deletes: as for :func:`~safe_retrieval.index.builder.build_index`.

    Raises:
        DataError: the corpus is empty or broken, or has an id twice.
        InputError: more shards than documents, or a kind of index that cannot be made of such or so many vectors.
        IndexFolderError: ``out`` holds something else, or cannot be written.
        IndexLockedError: another process is building there.
    """
    out = Path(out)
    with locked(out):
        return planned(
            documents,
            encoder,
            out,
            shards=shards,
            factory=factory,
            memory=memory,
            batch_size=batch_size,
            deletes=deletes,
        )


def planned(
    documents: Iterable[Document],
    encoder: Encoder,
    out: Path,
    *,
    shards: ShardCount,
    factory: str,
    memory: int | None,
    batch_size: int,
    deletes: bool,
    resume: bool = True,
) -> BuildPlan:
    """As :func:`plan_build`. The folder's lock must be held.

    Args:
        documents, encoder, out, shards, factory, memory, batch_size, deletes: as for :func:`plan_build`.
        resume: leave what an unfinished build did; otherwise it is dropped first.
    """
    if factory != AUTO:
        parse_factory(factory).check_dimension(encoder.dimension)  # before a long corpus is read
    path = out / BUILD_FOLDER / DOCUMENTS_NAME
    count = _stored(documents, out, path, resume=resume)
    kind = chosen_factory(factory, count, encoder.dimension, memory=memory, deletes=deletes)
    with DocumentStore(path) as store:
        cut = tuple(
            Shard(start, stop, shard_key(encoder, _contents(store, start, stop)))
            for start, stop in even_bounds(count, shards if isinstance(shards, int) else shards(count))
        )
    plan = BuildPlan(encoder_record(encoder), encoder.dimension, count, kind.name, memory, batch_size, cut)
    with writing(out, mend=_MEND):
        sync_file(path)  # the plan must not outlive its documents in a power cut
        plan.write(out)
    return plan


def _stored(documents: Iterable[Document], out: Path, path: Path, *, resume: bool) -> int:
    """Put documents into a new file at ``path``, and say how many they are; reading them is no part of the writing."""
    with writing(out, mend=_MEND):
        folder = path.parent
        if not resume and folder.exists():
            shutil.rmtree(folder)
        (folder / "shards").mkdir(parents=True, exist_ok=True)
        (folder / PLAN_NAME).unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        writer = DocumentWriter(path)
    with writer:
        for chunk in _chunks(documents):
            with writing(out, mend=_MEND):
                writer.append(chunk)
        count = len(writer)
    if not count:
        raise DataError("expected a corpus with at least one document, got an empty one")
    return count


def embed_shard(out: str | Path, number: int, encoder: Encoder) -> bool:
    """Encode one shard of a planned build, unless that was done.

    Args:
        out: the index folder.
        number: of the shard, counted from 0.
        encoder: the plan's.

    Returns:
        Whether it had to be encoded.

    Raises:
        InputError: there is no such shard, or the encoder's vectors are not what an index takes.
        ModelError: the encoder fails.
        EncoderMismatchError: the plan names another encoder.
        IndexFolderError: nothing was planned at ``out``, its documents are not those of the plan, or the folder cannot
            be written.
    """
    out = Path(out)
    plan = read_plan(out)
    plan.check_encoder(encoder)
    shard = plan.shard(number)
    files = BuildFiles(out, plan)
    store = files.shards
    with DocumentStore(out / BUILD_FOLDER / DOCUMENTS_NAME) as documents:
        if store.is_done(number, shard.key, encoder, _first_text(documents, shard)):
            return False
        replaced = store.has(number, shard.key)
        if shard_key(encoder, _contents(documents, shard.start, shard.stop)) != shard.key:
            raise IndexFolderError(f"{out}: the documents of shard {number + 1} are not those of the plan; plan again")
        blocks = _encoded(documents, shard, ShardEncoder(encoder, plan.batch_size))
        with writing(out, mend=_MEND):
            if replaced:
                files.forget_made_of(number)
            store.save_blocks(number, shard.key, shard.stop - shard.start, blocks)
    return True


def _encoded(documents: DocumentStore, shard: Shard, encoder: ShardEncoder) -> Iterator[FloatMatrix]:
    """The vectors of a shard, so many documents at a time that neither texts nor vectors grow with the shard."""
    contents = _contents(documents, shard.start, shard.stop)
    start = shard.start
    while block := list(islice(contents, SHARD_SIZE)):
        try:
            vectors = encoder.encode(block, start=start)
        except OSError as error:  # such as a remote encoder's; where this is read, it would pass for the disk's
            raise ModelError(f"{encoder.encoder.name} failed at the documents from {start} on: {error}") from error
        yield vectors
        start += len(block)


def build_in_shards(
    documents: Iterable[Document],
    encoder: Encoder,
    out: str | Path,
    *,
    shards: int,
    factory: str = FLAT,
    memory: int | None = None,
    batch_size: int = 32,
    deletes: bool = False,
    resume: bool = True,
    progress: bool | None = None,
) -> IndexManifest:
    """All steps of a build in this process, shard after shard; the same call goes on after a stop.

    Args:
        documents, encoder, out, shards, factory, memory, batch_size, deletes: as for :func:`plan_build`.
        resume: take over what an unfinished build left, where it fits; otherwise drop it first.
        progress: whether to show bars on stderr; ``None`` shows them from 500 documents up.

    Raises:
        DataError, InputError, IndexFolderError, IndexLockedError: as in :func:`plan_build`.
    """
    out = Path(out)
    with locked(out):  # throughout: another build would plan anew over this one's documents
        plan = planned(
            documents,
            encoder,
            out,
            shards=shards,
            factory=factory,
            memory=memory,
            batch_size=batch_size,
            deletes=deletes,
            resume=resume,
        )
        with progress_bar(plan.count, f"Indexing with {encoder.name}", show=progress) as advance:
            for number, shard in enumerate(plan.shards):
                embed_shard(out, number, encoder)
                advance(shard.stop - shard.start)
        train_index(out)
        for number in range(len(plan.shards)):
            add_shard(out, number)
        return merged(out, progress=progress)


def missing_shards(out: str | Path, encoder: Encoder | None = None) -> list[int]:
    """Numbers of the shards of a planned build that are still to be encoded, counted from 0.

    Args:
        out: the index folder.
        encoder: those that it makes other vectors of are missing too, for which one text of each is encoded again;
            ``None`` looks at files alone.
    """
    out = Path(out)
    plan = read_plan(out)
    store = BuildFiles(out, plan).shards
    shards = enumerate(plan.shards)
    if encoder is None:
        return [number for number, shard in shards if not store.has(number, shard.key)]
    with DocumentStore(out / BUILD_FOLDER / DOCUMENTS_NAME) as documents:
        return [
            number
            for number, shard in shards
            if not store.is_done(number, shard.key, encoder, _first_text(documents, shard))
        ]


def train_index(out: str | Path) -> bool:
    """Train the kind of index on an even sample of all shards, unless that was done and what it left is sound.

    Returns:
        Whether there was something to train: flat indexes need none, and those that are made as a whole are trained
        when they are.

    Raises:
        IndexFolderError: a shard is missing or damaged, or the folder cannot be written.
    """
    out = Path(out)
    plan = read_plan(out)
    factory = parse_factory(plan.factory)
    files = BuildFiles(out, plan)
    path, key = files.trained
    if not factory.lists or kept_sha256(path, key) is not None:
        return False
    with writing(out, mend=_MEND):
        aside = aside_of(path)
        write_trained(aside, factory, plan.dimension, plan.count, files.vectors, memory=plan.memory)
        keep(aside, path, key)
    return True


def add_shard(out: str | Path, number: int) -> bool:
    """Put one shard into the lists of the trained index, as a file of its own, unless there is a sound one.

    Returns:
        Whether there was something to do: only inverted files are made in parts.

    Raises:
        InputError: there is no such shard.
        IndexFolderError: the index is not trained, the shard is missing, or the folder cannot be written.
    """
    out = Path(out)
    plan = read_plan(out)
    shard = plan.shard(number)
    factory = parse_factory(plan.factory)
    if not factory.lists:
        return False
    files = BuildFiles(out, plan)
    path, key = files.part(number, files.trained_sha256())
    if kept_sha256(path, key) is not None:
        return False
    with writing(out, mend=_MEND):
        path.parent.mkdir(exist_ok=True)
        aside = aside_of(path)
        blocks = Blocks(shard.start, files.shard_vectors(number))
        write_lists(aside, files.trained.path, factory, plan.dimension, blocks, memory=plan.memory)
        keep(aside, path, key)
    return True


def merge_index(out: str | Path, *, progress: bool | None = None) -> IndexManifest:
    """Join everything into FAISS's file on the disk, and make it the index; the unfinished build is gone afterwards.

    Args:
        out: the index folder.
        progress: whether to show a bar on stderr; ``None`` shows it from 500 documents up.

    Raises:
        IndexFolderError: something is missing or damaged, or the folder cannot be written.
        IndexLockedError: another process is building there.
    """
    out = Path(out)
    with locked(out):
        return merged(out, progress=progress)


def merged(out: Path, *, progress: bool | None) -> IndexManifest:
    """As :func:`merge_index`. The folder's lock must be held."""
    started = time.monotonic()
    plan = read_plan(out)
    factory = parse_factory(plan.factory)
    done, folder = BuildFiles(out, plan), out / BUILD_FOLDER
    if not (folder / DOCUMENTS_NAME).is_file():
        raise IndexFolderError(
            f"{out}: the planned documents are gone, as a merge leaves them that was stopped at its end on a disk "
            "without hard links; plan again, what is encoded still counts"
        )
    # Lists are merged from files, not from vectors.
    passes = int(factory.lossy) if factory.lists else readings(factory)
    shows = progress if passes else False
    with writing(out, mend=_MEND), vectors_shown(factory, passes * plan.count, done.vectors, show=shows) as shown:
        if factory.lists:
            path = folder / "vectors.faiss"
            merge_parts(path, done.trained.path, done.sound_parts())
            files = VectorFiles(path, write_originals(folder, factory, plan.dimension, plan.count, shown))
        else:
            files = write_vectors(folder, factory, plan.dimension, plan.count, shown, memory=plan.memory)
    record = BuildRecord(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=round(time.monotonic() - started, 3),
        shards=len(plan.shards),
        reused_shards=0,
        shard_size=-(-plan.count // len(plan.shards)),
        versions=library_versions(),
    )
    return publish_build(
        out,
        encoder=plan.encoder,
        dimension=plan.dimension,
        count=plan.count,
        factory=factory,
        files=files,
        record=record,
    )


def _chunks(documents: Iterable[Document]) -> Iterator[list[Document]]:
    remaining = iter(documents)
    while chunk := list(islice(remaining, _BATCH)):
        yield chunk


def _first_text(store: DocumentStore, shard: Shard) -> str:
    return store.at([shard.start])[0].content


def _contents(store: DocumentStore, start: int, stop: int) -> Iterator[str]:
    for first in range(start, stop, _BATCH):
        yield from (document.content for document in store.at(range(first, min(first + _BATCH, stop))))
