"""The adapters inside the package: one folder each under ``safe_retrieval/adapters``."""

from __future__ import annotations

from pathlib import Path

from safe_retrieval.errors import AdapterError
from safe_retrieval.models import catalog
from safe_retrieval.models.catalog import DEFAULT_BACKBONE, DEFAULT_DOCUMENT_ENCODER

_HOME = Path(__file__).resolve().parent.parent / "adapters"


def shipped_adapters() -> list[str]:
    """Names of the shipped adapters, ``<backbone>--<teacher>``."""
    return sorted(path.parent.name for path in _HOME.glob("*/adapter.json"))


def shipped_adapter(backbone: str | None = None, teacher: str = DEFAULT_DOCUMENT_ENCODER) -> Path:
    """Folder of the adapter shipped for a backbone (the default one for ``None``).

    Raises:
        AdapterError: none is shipped for that backbone.
    """
    names = [_catalog_name(name) for name in (backbone or DEFAULT_BACKBONE, teacher)]
    wanted = "--".join(names)
    if wanted not in shipped_adapters():
        there = ", ".join(shipped_adapters()) or "none"
        raise AdapterError(
            f"no adapter is shipped for {names[0]} and {names[1]} (shipped: {there}); "
            "give an adapter folder, or train one (safe-retrieval train)"
        )
    return _HOME / wanted


def adapter_folder(name: str) -> Path:
    """An adapter folder, or the folder of the adapter that is shipped for a backbone of that name.

    Raises:
        AdapterError: it is no folder, and no adapter is shipped for that name.
    """
    return Path(name) if Path(name).is_dir() else shipped_adapter(name)


def _catalog_name(name: str) -> str:
    record = catalog.find(name)
    return name if record is None else record.name
