"""Probe sets: what an audit asks, what corpus it asks, and which passage answers what.

``load_probe_set`` reads the set that ships with the package (``docs/probes.md`` describes it), ``load_data_folder`` a
folder of published sets in BEIR form. Both give the same :class:`ProbeSet`, so the audit does not care which it got.
Standard library only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from safe_retrieval.audit.beir import BeirFolder, Qrels, load_beir, read_jsonl, text_field
from safe_retrieval.audit.hazards import Hazard
from safe_retrieval.audit.probe_manifest import PROBE_DATA, read_manifest
from safe_retrieval.errors import DataError, InputError
from safe_retrieval.types import Document, Metadata

DEFAULT_BENIGN = ("nq-wiki",)
"""The benign sets that ``load_data_folder`` takes where none are named."""


class ProbeKind(StrEnum):
    """What a query is there to measure."""

    HARMFUL = "harmful"
    """A request that a safe retriever should not serve: harm rate."""
    BENIGN = "benign"
    """An ordinary question: benign recall, the control beside every harm rate."""
    SENSITIVE = "sensitive"
    """Looks unsafe and is harmless: over-refusal."""


class PassageKind(StrEnum):
    """What a passage is there for; in the metadata of every document as ``kind``."""

    STAND_IN = "harmful-standin"
    """Stands for a harmful document: its topic and vocabulary, and nothing of use."""
    HARMFUL = "harmful"
    """A passage of a harmful set that was given as a folder: treat it as the real thing."""
    BENIGN = "benign"
    SENSITIVE_ANSWER = "sensitive-answer"
    """Answers a sensitive question; harmless."""


@dataclass(frozen=True, slots=True)
class Probe:
    """One query of a probe set.

    Attributes:
        hazard: of a harmful request, its category. A benign twin or a sensitive question of our own set has the
            category that it borders on, so that pairs can be counted together; elsewhere ``Hazard.UNMAPPED``.
        twin: id of the probe in the same wording style on the other side of the line, or ``None``.
    """

    id: str
    text: str
    kind: ProbeKind
    hazard: Hazard = Hazard.UNMAPPED
    twin: str | None = None


@dataclass(frozen=True, slots=True)
class ProbeSet:
    """Queries, corpus and judgements of one audit.

    Attributes:
        sha256: over documents, queries and judgements in their order, independent of file format and compression.
        documents: metadata holds ``harmful`` (bool), ``kind`` (a :class:`PassageKind` value), ``hazard`` (a
            :class:`Hazard` value, ``None`` for what is not harmful) and ``source`` (the set it came from).
        qrels: relevance by query id, then document id. A query without judgements has no entry: a harmful set without
            qrels, or safe prompts that are only there for over-refusal.
    """

    name: str
    version: str
    sha256: str
    documents: tuple[Document, ...]
    queries: tuple[Probe, ...]
    qrels: Qrels

    def of_kind(self, kind: ProbeKind) -> tuple[Probe, ...]:
        """The queries of one kind, in their order."""
        return tuple(probe for probe in self.queries if probe.kind is kind)

    @property
    def harmful_ids(self) -> frozenset[str]:
        """Ids of the documents that nobody should be handed."""
        return frozenset(document.id for document in self.documents if document.metadata["harmful"])


_OWN_QUERY_KINDS = {
    "harmful": ProbeKind.HARMFUL,
    "benign-twin": ProbeKind.BENIGN,
    "sensitive": ProbeKind.SENSITIVE,
}


def load_probe_set(folder: Path = PROBE_DATA) -> ProbeSet:
    """The probe set that ships with the package: twelve hazards, stand-in passages, benign twins, sensitive questions.

    Args:
        folder: another folder of the same form, for a set of one's own.

    Raises:
        DataError: a file is missing, broken, or not the one whose SHA-256 the manifest holds.
    """
    manifest = read_manifest(folder)
    content = load_beir(folder, corpus="passages")
    documents = tuple(_own_document(document, manifest.name, folder) for document in content.documents)
    queries = tuple(_own_probe(query.id, query.text, query.metadata, folder) for query in content.queries)
    return _probe_set(manifest.name, manifest.version, documents, queries, content.qrels)


def load_data_folder(root: Path, harm: Sequence[str] | None = None, benign: Sequence[str] | None = None) -> ProbeSet:
    """Published sets in one folder: ``root/harm/NAME`` and ``root/benign/NAME`` (BEIR form), ``root/prompts``.

    Every id gets its set's folder as prefix (``harm/advbench-ir/...``), so ids of different sets never collide. A
    harmful set without qrels is legal. ``root/prompts`` is optional: of its ``*.jsonl`` or ``*.jsonl.gz`` files
    (``id``, ``prompt``, ``label``) the prompts labelled ``safe`` become sensitive probes without judgements.

    Args:
        root: the data folder.
        harm: names of harmful sets; ``None`` takes all in ``root/harm``.
        benign: names of benign sets; ``None`` takes :data:`DEFAULT_BENIGN`.

    Raises:
        DataError: a folder or file is missing or broken; the message names file and line.
        InputError: a named set is not there, is named twice, or no set is named.
    """
    harm_names = _set_names(root, "harm", harm)
    benign_names = _set_names(root, "benign", DEFAULT_BENIGN if benign is None else benign)
    documents: list[Document] = []
    probes: list[Probe] = []
    qrels: Qrels = {}
    sources = [f"harm/{name}" for name in harm_names] + [f"benign/{name}" for name in benign_names]
    for source in sources:
        content = load_beir(root / source)
        is_harmful = source.startswith("harm/")
        documents += _folder_documents(content, source, is_harmful=is_harmful)
        probes += _folder_probes(content, source, is_harmful=is_harmful)
        for query, judged in content.qrels.items():
            qrels[f"{source}/{query}"] = {f"{source}/{document}": score for document, score in judged.items()}
    for path in _prompt_files(root):
        source = f"prompts/{path.name.partition('.jsonl')[0]}"
        probes += _safe_prompts(path, source)
        sources.append(source)
    return _probe_set("+".join(sources), "unversioned", documents, probes, qrels)


def content_sha256(
    documents: Iterable[Document], queries: Iterable[Probe], qrels: Mapping[str, Mapping[str, int]]
) -> str:
    """SHA-256 (hex) over documents, queries and judgements; their order counts, since ties are broken by position."""
    records: list[object] = [["d", doc.id, doc.title, doc.text, dict(doc.metadata)] for doc in documents]
    records += [["q", probe.id, probe.text, probe.kind, probe.hazard, probe.twin] for probe in queries]
    records += [["r", query, dict(qrels[query])] for query in sorted(qrels)]
    digest = hashlib.sha256()
    for record in records:
        # JSON in ASCII: unambiguous boundaries between fields, and lone surrogates have a byte form.
        digest.update(json.dumps(record, ensure_ascii=True, sort_keys=True).encode("ascii") + b"\n")
    return digest.hexdigest()


def _probe_set(
    name: str, version: str, documents: Sequence[Document], queries: Sequence[Probe], qrels: Qrels
) -> ProbeSet:
    return ProbeSet(name, version, content_sha256(documents, queries, qrels), tuple(documents), tuple(queries), qrels)


_Choice = TypeVar("_Choice", bound=StrEnum)


def _choice(kind: type[_Choice], value: object, where: str) -> _Choice:
    try:
        return kind(str(value))
    except ValueError as error:
        raise DataError(f"{where}: expected one of {', '.join(kind)}, found {value!r}") from error


def _own_document(document: Document, source: str, folder: Path) -> Document:
    where = f"{folder}, passage {document.id!r}"
    kind = _choice(PassageKind, document.metadata.get("kind"), where)
    is_harmful = kind in {PassageKind.STAND_IN, PassageKind.HARMFUL}
    hazard = _choice(Hazard, document.metadata.get("hazard"), where) if is_harmful else None
    metadata = {"harmful": is_harmful, "hazard": hazard and hazard.value, "kind": kind.value, "source": source}
    return Document(document.id, document.text, document.title, metadata)


def _own_probe(identifier: str, text: str, metadata: Metadata, folder: Path) -> Probe:
    where = f"{folder}, query {identifier!r}"
    kind, twin = metadata.get("kind"), metadata.get("twin")
    if kind not in _OWN_QUERY_KINDS:
        raise DataError(f"{where}: expected one of {', '.join(_OWN_QUERY_KINDS)} as kind, found {kind!r}")
    if twin is not None and not isinstance(twin, str):
        raise DataError(f"{where}: expected a query id or null as twin, found {type(twin).__name__}")
    return Probe(identifier, text, _OWN_QUERY_KINDS[kind], _choice(Hazard, metadata.get("hazard"), where), twin)


def _set_names(root: Path, room: str, names: Sequence[str] | None) -> list[str]:
    folder = root / room
    if not folder.is_dir():
        raise DataError(f"{folder}: expected a folder of BEIR folders, found none; give the folder that holds {room}/")
    present = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    chosen = present if names is None else list(names)
    if not chosen:
        raise InputError(f"{folder}: expected at least one set; there are: {', '.join(present) or 'none'}")
    if len(set(chosen)) != len(chosen):
        raise InputError(f"a {room} set is named twice: {', '.join(chosen)}")
    unknown = sorted(set(chosen) - set(present))  # also keeps a name such as "../x" inside the folder
    if unknown:
        raise InputError(f"{folder}: no set named {', '.join(unknown)}; there are: {', '.join(present) or 'none'}")
    return chosen


def _folder_documents(content: BeirFolder, source: str, *, is_harmful: bool) -> list[Document]:
    kind = PassageKind.HARMFUL if is_harmful else PassageKind.BENIGN
    hazard = Hazard.UNMAPPED.value if is_harmful else None
    metadata = {"harmful": is_harmful, "hazard": hazard, "kind": kind.value, "source": source}
    return [
        Document(f"{source}/{document.id}", document.text, document.title, {**document.metadata, **metadata})
        for document in content.documents
    ]


def _folder_probes(content: BeirFolder, source: str, *, is_harmful: bool) -> list[Probe]:
    kind = ProbeKind.HARMFUL if is_harmful else ProbeKind.BENIGN
    return [Probe(f"{source}/{query.id}", query.text, kind) for query in content.queries]


def _prompt_files(root: Path) -> list[Path]:
    folder = root / "prompts"
    return sorted([*folder.glob("*.jsonl"), *folder.glob("*.jsonl.gz")]) if folder.is_dir() else []


def _safe_prompts(path: Path, source: str) -> list[Probe]:
    probes = []
    for row in read_jsonl(path, id_field="id"):
        label = text_field(row, "label")
        if label not in {"safe", "unsafe"}:
            raise DataError(f"{row.where}: expected safe or unsafe in 'label', found {label!r}")
        if label == "safe":
            probes.append(Probe(f"{source}/{row.fields['id']}", text_field(row, "prompt"), ProbeKind.SENSITIVE))
    return probes
