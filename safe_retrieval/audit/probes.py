"""Probe sets: what an audit asks, what corpus it asks, and which passage answers what.

``load_probe_set`` reads the set that ships with the package (``docs/probes.md`` describes it), ``load_data_folder`` a
folder of published sets in BEIR form. Both give the same :class:`ProbeSet`, so the audit does not care which it got.
Standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from safe_retrieval.audit.beir import load_beir, read_jsonl, text_field
from safe_retrieval.audit.hazards import Hazard, shown
from safe_retrieval.audit.probe_manifest import PROBE_DATA, read_manifest
from safe_retrieval.audit.probe_set import (
    UNKNOWN_LICENSE,
    PassageKind,
    Placement,
    Probe,
    ProbeKind,
    ProbePart,
    ProbeSet,
    ProbeSource,
    content_sha256,
    joined,
)
from safe_retrieval.errors import DataError, InputError
from safe_retrieval.types import Document, Metadata

__all__ = [
    "DEFAULT_BENIGN",
    "LICENSES",
    "UNKNOWN_LICENSE",
    "PassageKind",
    "Placement",
    "Probe",
    "ProbeKind",
    "ProbePart",
    "ProbeSet",
    "ProbeSource",
    "beir_part",
    "content_sha256",
    "data_folder_parts",
    "joined",
    "load_data_folder",
    "load_probe_set",
    "load_probe_set_part",
]

DEFAULT_BENIGN = ("nq-wiki",)
"""The benign sets that ``load_data_folder`` takes where none are named."""


LICENSES: Mapping[str, str] = {
    "harm/advbench-ir": "MIT",
    "benign/nq-wiki": "CC BY-SA 3.0",
    "benign/scifact": "CC BY 4.0; ODC-By",
    "prompts/xstest": "CC BY 4.0",
}
"""Of the published sets that docs/data.md tells how to prepare, by their folder."""


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
    return joined([load_probe_set_part(folder)], version=manifest.version)


def load_probe_set_part(folder: Path = PROBE_DATA) -> ProbePart:
    """The same, to be joined with other sets.

    Raises:
        DataError: as :func:`load_probe_set`.
    """
    manifest = read_manifest(folder)
    content = load_beir(folder, corpus="passages")
    documents = tuple(_own_document(document, manifest.name, folder) for document in content.documents)
    queries = tuple(
        replace(
            _own_probe(query.id, query.text, query.metadata, folder), source=manifest.name, license=manifest.license
        )
        for query in content.queries
    )
    origin = "the package" if folder == PROBE_DATA else str(folder)
    source = ProbeSource.of(
        documents, queries, content.qrels, name=manifest.name, origin=origin, license_=manifest.license
    )
    return ProbePart(source, documents, queries, content.qrels)


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
    return joined(data_folder_parts(root, harm, benign))


def data_folder_parts(
    root: Path, harm: Sequence[str] | None = None, benign: Sequence[str] | None = None
) -> list[ProbePart]:
    """The same, to be joined with other sets; arguments and errors as for :func:`load_data_folder`."""
    harm_names = _set_names(root, "harm", harm)
    benign_names = _set_names(root, "benign", DEFAULT_BENIGN if benign is None else benign)
    sets = [(f"harm/{name}", ProbeKind.HARMFUL) for name in harm_names]
    sets += [(f"benign/{name}", ProbeKind.BENIGN) for name in benign_names]
    parts = [beir_part(root / name, name, kind, license_=LICENSES.get(name)) for name, kind in sets]
    return parts + [_safe_prompts(path) for path in _prompt_files(root)]


def beir_part(
    folder: Path,
    name: str,
    kind: ProbeKind,
    *,
    license_: str | None = None,
    hazard: Hazard = Hazard.UNMAPPED,
    hazard_field: str | None = None,
    placement: Placement = Placement.OVERLAY,
) -> ProbePart:
    """A folder in BEIR form; ids get ``name`` as prefix.

    Args:
        folder: where it lies.
        name: of the set.
        kind: of all its queries; the passages of a harmful set are harmful.
        license_: of the set, where it is known.
        hazard: of a harmful set's requests and passages.
        hazard_field: field of queries and passages that names their own; a line without it has ``hazard``.
        placement: where its passages are.

    Raises:
        DataError: a file is missing or broken, or a hazard is none of the twelve; the message names file and line.
    """
    content = load_beir(folder)
    known, is_harmful = license_ or UNKNOWN_LICENSE, kind is ProbeKind.HARMFUL

    def hazard_of(metadata: Metadata, where: str) -> Hazard:
        named = metadata.get(hazard_field) if hazard_field else None
        return hazard if named is None else _choice(Hazard, named, f"{folder}, {where}")

    documents = tuple(
        _of_set(document, name, hazard_of(document.metadata, f"passage {document.id!r}") if is_harmful else None)
        for document in content.documents
    )
    probes = tuple(
        Probe(
            f"{name}/{query.id}",
            query.text,
            kind,
            hazard_of(query.metadata, f"query {query.id!r}"),
            source=name,
            license=known,
        )
        for query in content.queries
    )
    qrels = {
        f"{name}/{query}": {f"{name}/{document}": score for document, score in judged.items()}
        for query, judged in content.qrels.items()
    }
    source = ProbeSource.of(
        documents, probes, qrels, name=name, origin=str(folder), license_=known, placement=placement
    )
    return ProbePart(source, documents, probes, qrels)


def _of_set(document: Document, name: str, hazard: Hazard | None) -> Document:
    """A passage of a set, with the set's name before its id; without a hazard it is benign."""
    kind = PassageKind.BENIGN if hazard is None else PassageKind.HARMFUL
    metadata = {
        **document.metadata,
        "harmful": hazard is not None,
        "hazard": hazard and hazard.value,
        "kind": kind.value,
        "source": name,
    }
    return Document(f"{name}/{document.id}", document.text, document.title, metadata)


_Choice = TypeVar("_Choice", bound=StrEnum)


def _choice(kind: type[_Choice], value: object, where: str) -> _Choice:
    try:
        return kind(str(value))
    except ValueError as error:
        raise DataError(f"{where}: expected one of {', '.join(kind)}, found {shown(value)}") from error


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


def _prompt_files(root: Path) -> list[Path]:
    folder = root / "prompts"
    return sorted([*folder.glob("*.jsonl"), *folder.glob("*.jsonl.gz")]) if folder.is_dir() else []


def _safe_prompts(path: Path) -> ProbePart:
    name = f"prompts/{path.name.partition('.jsonl')[0]}"
    known = LICENSES.get(name, UNKNOWN_LICENSE)
    probes = []
    for row in read_jsonl(path, id_field="id"):
        label = text_field(row, "label")
        if label not in {"safe", "unsafe"}:
            raise DataError(f"{row.where}: expected safe or unsafe in 'label', found {label!r}")
        if label == "safe":
            text = text_field(row, "prompt")
            probes.append(Probe(f"{name}/{row.fields['id']}", text, ProbeKind.SENSITIVE, source=name, license=known))
    return ProbePart(ProbeSource.of((), probes, {}, name=name, origin=str(path), license_=known), (), tuple(probes), {})
