"""The adapters inside the package: one folder each under ``safe_retrieval/adapters``."""

from __future__ import annotations

from pathlib import Path

from safe_retrieval.encoder.policy import CAREFUL, ResponsePolicy, policy_from
from safe_retrieval.errors import AdapterError
from safe_retrieval.models import catalog
from safe_retrieval.models.catalog import DEFAULT_BACKBONE, DEFAULT_DOCUMENT_ENCODER
from safe_retrieval.models.record import ModelKind

_HOME = Path(__file__).resolve().parent.parent / "adapters"


def shipped_name(backbone: str, teacher: str, policy: str | None = None) -> str:
    """What the folder of an adapter of these is called, were it shipped: ``<backbone>--<teacher>``.

    The name of the policy follows where it is not the default one. A hyphen stands for each colon, which not every file
    system takes.
    """
    parts = [backbone, teacher] if policy in (None, CAREFUL.name) else [backbone, teacher, policy]
    return "--".join(str(part) for part in parts).replace(":", "-")


def shipped_adapters() -> list[str]:
    """Names of the shipped adapters (:func:`shipped_name`)."""
    return sorted(path.parent.name for path in _HOME.glob("*/adapter.json"))


def shipped_adapter(
    backbone: str | None = None, teacher: str | None = None, policy: str | ResponsePolicy | None = None
) -> Path:
    """Folder of an adapter inside the package.

    Args:
        backbone: whose adapter; ``None`` is the default one, or, where none is shipped for it and the teacher, the
            first of the catalog for which one is.
        teacher: the document encoder whose space is wanted, by catalog name, hub id or other name. ``None`` is the
            default one, and so is a name that neither the catalog nor a shipped adapter knows: a folder may hold that
            encoder as well, and whoever brings vectors together compares their spaces.
        policy: name of a response policy, or a system prompt; where no adapter was trained under it, it is the one of
            the default policy.

    Raises:
        AdapterError: none is shipped for backbone and teacher.
        InputError: no such policy.
    """
    there = shipped_adapters()
    taught_by = _catalog_name(teacher or DEFAULT_DOCUMENT_ENCODER)
    if catalog.find(taught_by) is None and shipped_name("", taught_by) not in {_less_backbone(name) for name in there}:
        taught_by = DEFAULT_DOCUMENT_ENCODER
    under = CAREFUL if policy is None else policy_from(policy)
    models = [record.name for record in catalog.all_models() if record.kind is ModelKind.LANGUAGE_MODEL]
    backbones = [DEFAULT_BACKBONE, *models] if backbone is None else [_catalog_name(backbone)]
    for each in backbones:
        for name in (shipped_name(each, taught_by, under.name), shipped_name(each, taught_by)):
            if name in there:
                return _HOME / name
    raise AdapterError(
        f"no adapter is shipped for {backbones[0]} and {taught_by} (shipped: {', '.join(there) or 'none'}); "
        "give an adapter folder, or train one (safe-retrieval train)"
    )


def is_shipped(backbone: str, teacher: str, policy: str | None = None) -> bool:
    """Whether an adapter of exactly these is shipped."""
    return shipped_name(backbone, teacher, policy) in shipped_adapters()


def adapter_folder(name: str) -> Path:
    """An adapter folder, or the folder of the adapter that is shipped for a backbone of that name.

    Raises:
        AdapterError: it is no folder, and no adapter is shipped for that name.
    """
    return Path(name) if Path(name).is_dir() else shipped_adapter(name)


def _less_backbone(name: str) -> str:
    _, teacher, *_ = name.split("--")
    return shipped_name("", teacher)


def _catalog_name(name: str) -> str:
    record = catalog.find(name)
    return name if record is None else record.name
