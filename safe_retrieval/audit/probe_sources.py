"""From the settings of an audit to its probes: sets of several kinds, read and joined."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safe_retrieval.audit.beir import Row, parse_row, read_lines, text_field
from safe_retrieval.audit.hazards import Hazard, shown
from safe_retrieval.audit.probes import (
    LICENSES,
    UNKNOWN_LICENSE,
    PassageKind,
    Probe,
    ProbeKind,
    ProbePart,
    ProbeSet,
    ProbeSource,
    beir_part,
    data_folder_parts,
    joined,
    load_probe_set,
    load_probe_set_part,
)
from safe_retrieval.audit.settings import (
    AdvBenchProbes,
    AuditSettings,
    BeirProbes,
    BuiltInProbes,
    DataFolderProbes,
    ProbeSettings,
    PromptProbes,
)
from safe_retrieval.errors import DataError, DownloadError, OfflineError
from safe_retrieval.models.fetch import is_offline
from safe_retrieval.types import Document

ADVBENCH_NAME = "harm/advbench-ir"
"""The set's name, and the prefix of its ids: the one that its folder in a data folder has."""

_JSON_LINES = {".jsonl", ".ndjson"}

CHUNK_WORDS = 100
"""Words of a chunk of an AdvBench-IR document, as its authors cut them."""


def load_probes(settings: AuditSettings) -> ProbeSet:
    """Read all sets of an audit and join them.

    Raises:
        DataError: a file is missing or broken; the message names file and line.
        InputError: two sets have one name, or a named set is not there.
        OfflineError, DownloadError: a set would have to come from the hub, and cannot.
    """
    if settings.probes == (BuiltInProbes(kind="built-in"),):
        return load_probe_set()  # with its version
    return joined([part for each in settings.probes for part in _parts(each, settings)])


def _parts(probes: ProbeSettings, settings: AuditSettings) -> list[ProbePart]:
    match probes:
        case BuiltInProbes():
            return [load_probe_set_part()]
        case DataFolderProbes():
            return data_folder_parts(settings.placed(probes.path), probes.harm, probes.benign)
        case AdvBenchProbes(path=None):
            return [_advbench(probes, offline=settings.offline)]
        case AdvBenchProbes(path=path):
            license_ = LICENSES[ADVBENCH_NAME]
            folder = settings.placed(path or Path())
            harmful = ProbeKind.HARMFUL
            return [beir_part(folder, ADVBENCH_NAME, harmful, license_=license_, placement=probes.placement)]
        case BeirProbes():
            return [_beir(probes, settings.placed(probes.path))]
        case PromptProbes():
            return [_prompts(probes, settings.placed(probes.path))]


def _beir(probes: BeirProbes, folder: Path) -> ProbePart:
    return beir_part(
        folder,
        probes.name or folder.name,
        probes.role,
        license_=probes.license,
        hazard=probes.hazard,
        hazard_field=probes.hazard_field,
        placement=probes.placement,
    )


def _prompts(settings: PromptProbes, path: Path) -> ProbePart:
    name = settings.name or path.name.partition(".")[0]
    license_ = settings.license or UNKNOWN_LICENSE
    probes = tuple(
        Probe(
            f"{name}/{row.fields.get(settings.id_field, number)}",
            text_field(row, settings.text_field),
            settings.role,
            _hazard(row, settings),
            source=name,
            license=license_,
        )
        for number, row in _rows(path, settings.text_field)
        if all(str(row.fields.get(field)) == value for field, value in settings.where.items())
    )
    if not probes:
        raise DataError(f"{path}: expected at least one prompt{f' with {settings.where}' if settings.where else ''}")
    source = ProbeSource.of((), probes, {}, name=name, origin=str(path), license_=license_)
    return ProbePart(source, (), probes, {})


def _rows(path: Path, text: str) -> Iterator[tuple[int, Row]]:
    kind = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    if kind not in {".txt", *_JSON_LINES}:  # each line of a table or of one JSON document would count as a prompt
        raise DataError(
            f"{path}: expected prompts as .txt (one a line) or as JSON lines, .jsonl, either with .gz behind it, got "
            f"{kind or 'a name without an ending'}; write a table's column as JSON lines"
        )
    plain = kind not in _JSON_LINES
    for number, line in read_lines(path):
        where = f"{path}, line {number}"
        yield number, Row(where, {text: line}) if plain else parse_row(where, line)


def _hazard(row: Row, settings: PromptProbes) -> Hazard:
    named = row.fields.get(settings.hazard_field) if settings.hazard_field else None
    if named is None:
        return settings.hazard
    try:
        return Hazard(str(named))
    except ValueError as error:
        raise DataError(f"{row.where}: expected a hazard of {', '.join(Hazard)}, found {shown(named)}") from error


def _advbench(settings: AdvBenchProbes, *, offline: bool) -> ProbePart:
    """The set from the hub, its documents cut into chunks of a hundred words."""
    documents: list[Document] = []
    probes: list[Probe] = []
    qrels: dict[str, dict[str, int]] = {}
    license_ = LICENSES[ADVBENCH_NAME]
    metadata = {
        "harmful": True,
        "hazard": Hazard.UNMAPPED.value,
        "kind": PassageKind.HARMFUL.value,
        "source": ADVBENCH_NAME,
    }
    for row in _hub_rows(settings.hub, offline=offline):
        query = f"{ADVBENCH_NAME}/advbench_{row['ID']}"
        words = str(row["document"]).split()
        probes.append(Probe(query, str(row["query"]), ProbeKind.HARMFUL, source=ADVBENCH_NAME, license=license_))
        for place, start in enumerate(range(0, len(words), CHUNK_WORDS)):
            identifier = f"{ADVBENCH_NAME}/malicious_{row['ID']}-{place}"
            text = " ".join(words[start : start + CHUNK_WORDS])
            documents.append(Document(identifier, text, str(row["title"]), metadata))
            qrels.setdefault(query, {})[identifier] = 1
    source = ProbeSource.of(
        documents,
        probes,
        qrels,
        name=ADVBENCH_NAME,
        origin=f"hf:{settings.hub}",
        license_=license_,
        placement=settings.placement,
    )
    return ProbePart(source, documents, probes, qrels)


def _hub_rows(name: str, *, offline: bool) -> Iterator[Mapping[str, Any]]:
    import datasets

    if is_offline(offline) or datasets.config.HF_HUB_OFFLINE:
        raise OfflineError(f"{name} would have to be read from the hub, and offline was asked for; give a path")
    try:
        rows = datasets.load_dataset(name, split="train")
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise DownloadError(f"{name} cannot be read from the hub ({error}); give a path in its place") from error
    missing = sorted({"ID", "query", "title", "document"} - set(rows.column_names))
    if missing:
        raise DataError(f"{name}: expected the columns of AdvBench-IR, without {', '.join(missing)} it is not that set")
    yield from rows
