"""The manifest of a probe set: name, version, licence, counts, and the SHA-256 of every file.

After a change to the data, write it anew with a new version: ``python -m safe_retrieval.audit.probe_manifest 1.0.1``.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safe_retrieval.audit.beir import load_beir
from safe_retrieval.errors import DataError

PROBE_DATA = Path(__file__).with_name("probe_data")
"""The folder of the set that ships with the package."""

MANIFEST_NAME = "probe-set.json"
FORMAT = 1
DATA_FILES = ("passages.jsonl", "queries.jsonl", "qrels.tsv")
"""Name and version of the manifest, and the files whose hashes stand in it."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What ``probe-set.json`` holds.

    Attributes:
        format: version of the file format, :data:`FORMAT`.
        counts: passages and queries by kind, and judgements.
        sha256: hex digest by file name, for each of :data:`DATA_FILES`.
    """

    format: int
    name: str
    version: str
    license: str
    counts: dict[str, int]
    sha256: dict[str, str]


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest and check every data file against it.

    Raises:
        DataError: the manifest is missing, broken or of an unknown format, or a file is not the one it names.
    """
    path = folder / MANIFEST_NAME
    try:
        fields = json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: expected the probe set's manifest: {error}; install the package again") from error
    except ValueError as error:
        raise DataError(f"{path}: expected JSON: {error}; install the package again") from error
    manifest = _manifest(fields, path)
    for name, expected in manifest.sha256.items():
        found = _sha256(folder / name)
        if found != expected:
            raise DataError(
                f"{folder / name}: expected SHA-256 {expected}, found {found}; install the package again, or, "
                f"if you changed the data, run: python -m safe_retrieval.audit.probe_manifest VERSION"
            )
    return manifest


def write_manifest(folder: Path, version: str, *, name: str = "safe-retrieval-probes") -> Manifest:
    """Count and hash the data files of ``folder`` and write the manifest beside them.

    Raises:
        DataError: a data file is missing or broken.
    """
    content = load_beir(folder, corpus="passages")
    counts = Counter(f"passages/{document.metadata.get('kind')}" for document in content.documents)
    counts.update(f"queries/{query.metadata.get('kind')}" for query in content.queries)
    counts["judgements"] = sum(len(judged) for judged in content.qrels.values())
    manifest = Manifest(
        format=FORMAT,
        name=name,
        version=version,
        license="Apache-2.0",
        counts=dict(sorted(counts.items())),
        sha256={file: _sha256(folder / file) for file in DATA_FILES},
    )
    (folder / MANIFEST_NAME).write_text(json.dumps(asdict(manifest), indent=2) + "\n", encoding="utf-8", newline="\n")
    return manifest


def _manifest(fields: Any, path: Path) -> Manifest:
    if not isinstance(fields, dict) or fields.get("format") != FORMAT:
        found = fields.get("format") if isinstance(fields, dict) else type(fields).__name__
        raise DataError(f"{path}: expected a manifest of format {FORMAT}, found {found!r}; update the package")
    try:
        manifest = Manifest(**fields)
    except TypeError as error:
        raise DataError(f"{path}: its fields are not those of format {FORMAT}: {error}") from error
    if not isinstance(manifest.sha256, dict) or sorted(manifest.sha256) != sorted(DATA_FILES):
        raise DataError(f"{path}: expected a SHA-256 for each of {', '.join(DATA_FILES)}")
    return manifest


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error}; install the package again") from error


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m safe_retrieval.audit.probe_manifest VERSION")
    write_manifest(PROBE_DATA, sys.argv[1])
