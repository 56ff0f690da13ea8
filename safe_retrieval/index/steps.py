"""A build as steps that any number of processes can do, on one machine or on many that share a file system.

::

    plan_build(documents, encoder, out, shards=64)   # once: documents to the disk, the shard manifest beside them
    embed_shard(out, 3, encoder)                     # each shard, in any order, anywhere
    train_index(out)                                 # once all shards are there: on a sample of all of them
    add_shard(out, 3)                                # each shard again, as a part of FAISS's file
    merge_index(out)                                 # joins the parts on the disk and makes them the index

Every step can be done again: what is there and sound is left as it is, so a step that a dying machine left half done is
simply started once more, and two machines that do the same one get in nobody's way. The index has the same hashes as
one that :func:`~safe_retrieval.index.builder.build_index` makes of the same shards.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from pathlib import Path
from uuid import uuid4

from safe_retrieval.encoder.progress import progress_bar
from safe_retrieval.errors import DataError, IndexFolderError, InputError
from safe_retrieval.index.advisor import advise
from safe_retrieval.index.builder import (
    DOCUMENTS_NAME,
    encoder_record,
    library_versions,
    publish_build,
    vectors_shown,
)
from safe_retrieval.index.documents import DocumentStore, DocumentWriter
from safe_retrieval.index.encoding import ShardEncoder
from safe_retrieval.index.factories import AUTO, FLAT, parse_factory
from safe_retrieval.index.faiss_files import Blocks, merge_parts, write_part
from safe_retrieval.index.manifest import BUILD_FOLDER, BuildRecord, IndexManifest, file_sha256, sync_file
from safe_retrieval.index.plan import PLAN_NAME, BuildPlan, Shard, even_bounds, read_plan
from safe_retrieval.index.publish import locked, writing
from safe_retrieval.index.shards import ShardStore, shard_key
from safe_retrieval.index.vector_files import (
    TRAINED_NAME,
    VectorFiles,
    check_memory,
    readings,
    write_originals,
    write_trained,
    write_vectors,
)
from safe_retrieval.types import Document, Encoder, FloatMatrix

_MEND = "do the same step again"
_BATCH = 512


def plan_build(
    documents: Iterable[Document],
    encoder: Encoder,
    out: str | Path,
    *,
    shards: int,
    factory: str = FLAT,
    memory: int | None = None,
    batch_size: int = 32,
) -> BuildPlan:
    """Put the documents of a build on the disk and write its shard manifest; nothing is encoded.

    Planned again with the same corpus, it writes the same plan, and what was encoded meanwhile still counts.

    Args:
        documents: the corpus; read once, in order. Ids are unique.
        encoder: who will encode them; only its name, space and dimension are needed here.
        out: the index folder: missing, empty, an index, or an unfinished build.
        shards: how many there are to be.
        factory: the kind of index, or ``auto``.
        memory: as for :func:`~safe_retrieval.index.builder.build_index`; each process that adds a shard holds that
            shard's part of the index besides.
        batch_size: texts in one forward pass.

    Raises:
        DataError: the corpus is empty or broken, or has an id twice.
        InputError: more shards than documents, or a kind of index that cannot be made of so many documents.
        IndexFolderError: ``out`` holds something else, or cannot be written.
        IndexLockedError: another process is building there.
    """
    out = Path(out)
    with locked(out), writing(out, mend=_MEND):
        folder = out / BUILD_FOLDER
        (folder / "shards").mkdir(parents=True, exist_ok=True)
        (folder / PLAN_NAME).unlink(missing_ok=True)
        path = folder / DOCUMENTS_NAME
        path.unlink(missing_ok=True)
        with DocumentWriter(path) as writer:
            for chunk in _chunks(documents):
                writer.append(chunk)
            count = len(writer)
        if not count:
            raise DataError("expected a corpus with at least one document, got an empty one")
        name = advise(count, encoder.dimension, memory=memory).factory.name if factory == AUTO else factory
        kind = parse_factory(name)
        kind.check_count(count)
        kind.check_dimension(encoder.dimension)
        check_memory(kind, encoder.dimension, count, memory)
        with DocumentStore(path) as store:
            cut = tuple(
                Shard(start, stop, shard_key(encoder, _contents(store, start, stop)))
                for start, stop in even_bounds(count, shards)
            )
        plan = BuildPlan(encoder_record(encoder), encoder.dimension, count, name, memory, batch_size, cut)
        sync_file(path)  # the plan must not outlive its documents in a power cut
        plan.write(out)
    return plan


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
        EncoderMismatchError: the plan names another encoder.
        IndexFolderError: nothing was planned at ``out``, its documents are not those of the plan, or the folder cannot
            be written.
    """
    out = Path(out)
    plan = read_plan(out)
    plan.check_encoder(encoder)
    shard = plan.shard(number)
    store = ShardStore(out / BUILD_FOLDER / "shards")
    if store.load(number, shard.key) is not None:
        return False
    with DocumentStore(out / BUILD_FOLDER / DOCUMENTS_NAME) as documents:
        contents = _contents(documents, shard.start, shard.stop)
    if shard_key(encoder, contents) != shard.key:
        raise IndexFolderError(f"{out}: the documents of shard {number + 1} are not those of the plan; plan again")
    vectors = ShardEncoder(encoder, plan.batch_size).encode(contents, start=shard.start)
    with writing(out, mend=_MEND):
        store.save(number, shard.key, vectors)
    return True


def build_in_shards(
    documents: Iterable[Document],
    encoder: Encoder,
    out: str | Path,
    *,
    shards: int,
    factory: str = FLAT,
    memory: int | None = None,
    batch_size: int = 32,
    resume: bool = True,
    progress: bool | None = None,
) -> IndexManifest:
    """All steps of a build in this process, shard after shard; the same call goes on after a stop.

    Args:
        documents, encoder, out, shards, factory, memory, batch_size: as for :func:`plan_build`.
        resume: take over what an unfinished build left, where it fits; otherwise drop it first.
        progress: whether to show bars on stderr; ``None`` shows them from 500 documents up.

    Raises:
        DataError, InputError, IndexFolderError, IndexLockedError: as in :func:`plan_build`.
    """
    if not resume:
        drop_build(out)
    plan = plan_build(documents, encoder, out, shards=shards, factory=factory, memory=memory, batch_size=batch_size)
    with progress_bar(plan.count, f"Indexing with {encoder.name}", show=progress) as advance:
        for number, shard in enumerate(plan.shards):
            embed_shard(out, number, encoder)
            advance(shard.stop - shard.start)
    train_index(out)
    for number in range(len(plan.shards)):
        add_shard(out, number)
    return merge_index(out, progress=progress)


def missing_shards(out: str | Path) -> list[int]:
    """Numbers of the shards of a planned build that are still to be encoded, counted from 0."""
    out = Path(out)
    store = ShardStore(out / BUILD_FOLDER / "shards")
    return [number for number, shard in enumerate(read_plan(out).shards) if store.load(number, shard.key) is None]


def train_index(out: str | Path) -> bool:
    """Train the kind of index on an even sample of all shards, unless that was done.

    Returns:
        Whether there was something to train: flat indexes need none, and those that are made as a whole are trained
        when they are.

    Raises:
        IndexFolderError: a shard is missing or damaged, or the folder cannot be written.
    """
    out = Path(out)
    plan = read_plan(out)
    factory = parse_factory(plan.factory)
    path = _trained(out, plan)
    if not factory.lists or path.exists():
        return False
    with writing(out, mend=_MEND):
        aside = path.with_name(f"{uuid4().hex}.partial")
        write_trained(aside, factory, plan.dimension, plan.count, partial(_vectors, out, plan), memory=plan.memory)
        aside.replace(path)
    return True


def add_shard(out: str | Path, number: int) -> bool:
    """Put one shard into the lists of the trained index, as a file of its own, unless that was done.

    Returns:
        Whether there was something to do: only inverted files are made in parts.

    Raises:
        InputError: there is no such shard.
        IndexFolderError: the index is not trained, the shard is missing, or the folder cannot be written.
    """
    out = Path(out)
    plan = read_plan(out)
    shard = plan.shard(number)
    if not parse_factory(plan.factory).lists:
        return False
    trained = _trained(out, plan)
    if not trained.exists():
        raise IndexFolderError(f"{out}: the index is not trained yet; run: safe-retrieval index shards train {out}")
    path = _part(out, plan, number)
    if path.exists():
        return False
    with writing(out, mend=_MEND):
        path.parent.mkdir(exist_ok=True)
        aside = path.with_name(f"{uuid4().hex}.partial")
        write_part(aside, trained, Blocks(shard.start, [_loaded(out, plan, number)]))
        aside.replace(path)
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
    started = time.monotonic()
    with locked(out):
        plan = read_plan(out)
        factory = parse_factory(plan.factory)
        folder = out / BUILD_FOLDER
        blocks = partial(_vectors, out, plan)
        # Lists are merged from files, not from vectors.
        passes = int(factory.lossy) if factory.lists else readings(factory)
        shows = progress if passes else False
        with writing(out, mend=_MEND), vectors_shown(factory, passes * plan.count, blocks, show=shows) as shown:
            if factory.lists:
                path = folder / "vectors.faiss"
                parts = [_present(out, plan, number) for number in range(len(plan.shards))]
                merge_parts(path, _trained(out, plan), parts)
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


def drop_build(out: str | Path) -> None:
    """Drop what an unfinished build left, so that the next plan starts anew.

    Raises:
        IndexLockedError: another process is building there.
    """
    folder = Path(out) / BUILD_FOLDER
    if folder.exists():
        with locked(Path(out)):
            shutil.rmtree(folder)


def shard_number(text: str, shards: int) -> int:
    """The shard that ``3/64`` means, counted from 0.

    Raises:
        InputError: it is not of that form, or the plan has another number of shards.
    """
    number, slash, of = text.partition("/")
    if not (slash and number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
        raise InputError(f"expected a shard such as 3/64, counted from 1, got {text!r}")
    if int(of) != shards:
        raise InputError(
            f"the build was planned with {shards} shards, got {text!r}; plan it again, or say {number}/{shards}"
        )
    return int(number) - 1


def _chunks(documents: Iterable[Document]) -> Iterator[list[Document]]:
    remaining = iter(documents)
    while chunk := list(islice(remaining, _BATCH)):
        yield chunk


def _contents(store: DocumentStore, start: int, stop: int) -> list[str]:
    contents: list[str] = []
    for first in range(start, stop, _BATCH):
        contents += [document.content for document in store.at(range(first, min(first + _BATCH, stop)))]
    return contents


def _loaded(out: Path, plan: BuildPlan, number: int) -> FloatMatrix:
    vectors = ShardStore(out / BUILD_FOLDER / "shards").load(number, plan.shards[number].key)
    if vectors is None:
        of = len(plan.shards)
        raise IndexFolderError(
            f"{out}: shard {number + 1} of {of} is missing or damaged; run: safe-retrieval index shards embed {out} "
            f"--shard {number + 1}/{of}"
        )
    return vectors


def _vectors(out: Path, plan: BuildPlan) -> Iterator[FloatMatrix]:
    for number in range(len(plan.shards)):
        yield _loaded(out, plan, number)


def _trained(out: Path, plan: BuildPlan) -> Path:
    """Under a name that says of which plan it was made: another corpus or kind is trained anew."""
    digest = hashlib.sha256(plan.to_json().encode()).hexdigest()[:16]
    return out / BUILD_FOLDER / f"{digest}-{TRAINED_NAME}"


def _part(out: Path, plan: BuildPlan, number: int) -> Path:
    """Under a name that says of which trained index it is a part, and of which vectors.

    The trained index alone would not do: documents that are not in its sample may change, and it stays the same.
    """
    made_of = f"{file_sha256(_trained(out, plan))} {plan.shards[number].key}"
    digest = hashlib.sha256(made_of.encode()).hexdigest()[:16]
    return out / BUILD_FOLDER / "parts" / f"{digest}-{number:06d}.faiss"


def _present(out: Path, plan: BuildPlan, number: int) -> Path:
    if not _trained(out, plan).exists() or not (path := _part(out, plan, number)).exists():
        of = len(plan.shards)
        raise IndexFolderError(
            f"{out}: part {number + 1} of {of} is missing; run: safe-retrieval index shards add {out} "
            f"--shard {number + 1}/{of}"
        )
    return path
