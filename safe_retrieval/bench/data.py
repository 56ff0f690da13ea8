"""A task's data, read from a data folder and checked against the hashes in the task's record."""

from __future__ import annotations

import gzip
import hashlib
import random
import zlib
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, TypeAlias, TypeVar

from safe_retrieval.audit.beir import load_beir, parse_row, read_lines, text_field
from safe_retrieval.audit.probes import ProbeKind, ProbeSet, content_sha256, load_data_folder
from safe_retrieval.audit.targets import stratified
from safe_retrieval.bench.tasks import HarmProtocol, Task, TaskKind
from safe_retrieval.errors import DataError, InputError
from safe_retrieval.metrics import Qrels
from safe_retrieval.types import Document

CHUNK_WORDS = 100
"""Words of a full chunk of AdvBench-IR."""


class Query(NamedTuple):
    """One query of a retrieval task."""

    id: str
    text: str


class RetrievalData(NamedTuple):
    """Queries over a corpus, with judgements."""

    documents: tuple[Document, ...]
    queries: tuple[Query, ...]
    qrels: Qrels


class PairData(NamedTuple):
    """Sentence pairs with the similarity that people gave them."""

    first: tuple[str, ...]
    second: tuple[str, ...]
    scores: tuple[float, ...]


class LabelledData(NamedTuple):
    """Labelled texts to learn from and to judge by."""

    train: tuple[str, ...]
    train_labels: tuple[str, ...]
    test: tuple[str, ...]
    test_labels: tuple[str, ...]


Item = TypeVar("Item")

TaskData: TypeAlias = ProbeSet | RetrievalData | PairData | LabelledData


def check_files(task: Task, root: Path) -> dict[str, str]:
    """Hash a task's files; returns path to SHA-256 (hex) of the uncompressed bytes.

    Raises:
        DataError: a file is missing, unreadable, or not the one that the task's record names: the figures would be
            those of another task.
    """
    found = {name: _sha256(_place(root, name)) for name in task.files}
    for name, wanted in task.files.items():
        if found[name] != wanted:
            raise DataError(
                f"{root / name}: expected the data that task {task.name} is about (SHA-256 {wanted}), got "
                f"{found[name]}; prepare it as docs/data.md says, or audit other data with safe-retrieval audit --data"
            )
    return found


def load_task(task: Task, root: Path, *, limit: int | None = None, seed: int = 0) -> TaskData:
    """Read a task's data.

    Args:
        task: any but an mteb task, whose data mteb brings.
        root: the data folder.
        limit: at most so many queries (of harm tasks evenly over the kinds, of pairs and test texts plainly), chosen
            with ``seed``; the corpus stays whole. ``None`` takes all.
        seed: of that choice.

    Raises:
        DataError: a file is missing or broken; the message names file and line.
        InputError: an mteb task, or a limit below 1.
    """
    if limit is not None and limit < 1:
        raise InputError(f"expected a limit of at least one query, got {limit}")
    match task.kind:
        case TaskKind.HARM:
            return _harm(task, root, limit, seed)
        case TaskKind.RETRIEVAL:
            return _retrieval(task, root, limit, seed)
        case TaskKind.SIMILARITY:
            return _pairs(task, root, limit, seed)
        case TaskKind.CLASSIFICATION:
            return _labelled(task, root, limit, seed)
        case TaskKind.MTEB:
            raise InputError(f"{task.name} brings its data through mteb; expected a task with files")


def _place(root: Path, name: str) -> Path:
    plain = root / name
    path = plain if plain.is_file() else plain.with_name(f"{plain.name}.gz")
    if not path.is_file():
        raise DataError(f"expected {plain} or {plain.name}.gz, found neither; docs/data.md describes the folder")
    return path


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}; copy it again") from error
    return digest.hexdigest()


def _folders(task: Task, room: str) -> list[str]:
    return sorted({name.split("/")[1] for name in task.files if name.startswith(f"{room}/")})


def _harm(task: Task, root: Path, limit: int | None, seed: int) -> ProbeSet:
    probe_set = load_data_folder(root, _folders(task, "harm"), _folders(task, "benign"))
    if task.protocol is not HarmProtocol.CONTROLLED:
        probe_set = _as_published(probe_set, full_chunks_only=task.protocol is HarmProtocol.PAPER)
    if limit is None:
        return probe_set
    return replace(probe_set, queries=stratified(probe_set.queries, limit, seed=seed))


def _as_published(probe_set: ProbeSet, *, full_chunks_only: bool) -> ProbeSet:
    """Passages as "title # text", no safe prompts; without the short last chunks of harmful documents if asked."""
    queries = tuple(probe for probe in probe_set.queries if probe.kind is not ProbeKind.SENSITIVE)
    dropped = _short_chunks(probe_set) if full_chunks_only else frozenset()
    documents = tuple(
        replace(document, title="", text=f"{document.title} # {document.text}")
        for document in probe_set.documents
        if document.id not in dropped
    )
    qrels = {
        query: {document: grade for document, grade in grades.items() if document not in dropped}
        for query, grades in probe_set.qrels.items()
    }
    sha256 = content_sha256(documents, queries, qrels)
    return ProbeSet(probe_set.name, probe_set.version, sha256, documents, queries, qrels)


def _short_chunks(probe_set: ProbeSet) -> frozenset[str]:
    """Harmful chunks of fewer than 100 words, except where a request has nothing else (then its first is kept)."""
    short = {
        document.id
        for document in probe_set.documents
        if document.metadata["harmful"] and len(document.text.split()) < CHUNK_WORDS
    }
    kept: set[str] = set()
    for probe in probe_set.of_kind(ProbeKind.HARMFUL):
        own = list(probe_set.qrels.get(probe.id, {}))
        if own and all(document in short for document in own):
            kept.add(own[0])
    return frozenset(short - kept)


def _retrieval(task: Task, root: Path, limit: int | None, seed: int) -> RetrievalData:
    content = load_beir(root / Path(next(iter(task.files))).parent)
    judged = [Query(query.id, query.text) for query in content.queries if query.id in content.qrels]
    return RetrievalData(content.documents, tuple(_sample(judged, limit, seed)), content.qrels)


def _pairs(task: Task, root: Path, limit: int | None, seed: int) -> PairData:
    path = _place(root, next(iter(task.files)))
    rows = []
    for number, line in read_lines(path):
        row = parse_row(f"{path}, line {number}", line)
        score = row.fields.get("score")
        if not isinstance(score, int | float):
            raise DataError(f"{row.where}: expected a number in 'score', found {type(score).__name__}")
        rows.append((text_field(row, "sentence1"), text_field(row, "sentence2"), float(score)))
    rows = _sample(rows, limit, seed)
    return PairData(*(tuple(column) for column in zip(*rows, strict=True)))


def _labelled(task: Task, root: Path, limit: int | None, seed: int) -> LabelledData:
    parts = {}
    for name in task.files:
        path = _place(root, name)
        rows = [parse_row(f"{path}, line {number}", line) for number, line in read_lines(path)]
        parts[path.name.rpartition("-")[2].partition(".")[0]] = [
            (text_field(row, "text"), text_field(row, "label")) for row in rows
        ]
    train, test = parts["train"], _sample(parts["test"], limit, seed)
    return LabelledData(
        tuple(text for text, _ in train),
        tuple(label for _, label in train),
        tuple(text for text, _ in test),
        tuple(label for _, label in test),
    )


def _sample(rows: list[Item], limit: int | None, seed: int) -> list[Item]:
    if limit is None or limit >= len(rows):
        return rows
    chosen = random.Random(seed).sample(range(len(rows)), limit)  # noqa: S311 - a repeatable choice, nothing secret
    return [rows[position] for position in sorted(chosen)]
