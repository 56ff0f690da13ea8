"""What a model's name in a settings file stands for, and when nobody may be sent to the hub for one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from safe_retrieval.models import catalog
from safe_retrieval.models.fetch import is_offline


def folder_or_name(name: str, placed: Callable[[Path], Path]) -> str:
    """A model's folder where there is one, else the name as it is.

    A name of the catalog is that model, always: a folder beside the settings may well be called so, as a run's own is.

    Args:
        name: as it stands in the settings.
        placed: makes a path of the settings one from here.
    """
    if catalog.find(name) is not None:
        return name
    path = placed(Path(name))
    return str(path) if path.is_dir() else name


def is_hub_closed(offline: bool) -> bool:
    """Whether libraries that go to the hub by themselves, such as mteb, may not be asked.

    With ``HF_HUB_OFFLINE`` they may: they read the hub's own cache then, and open no connection.

    Args:
        offline: whether the caller asked for that; ``SAFE_RETRIEVAL_OFFLINE`` asks for it too.
    """
    from huggingface_hub.constants import HF_HUB_OFFLINE

    return is_offline(offline) and not HF_HUB_OFFLINE
