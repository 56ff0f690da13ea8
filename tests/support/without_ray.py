"""A loop in the place of Ray, for what a build does around it."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from typing import Any

import pytest

from safe_retrieval.index import distributed


def replace_ray(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Let this process do the workers' work; what comes back gathers the GPUs that each group of workers asks for."""
    gpus: list[float] = []

    def one_by_one(_ray: Any, work: Any, _plan: Any, shards: Iterable[int], **_: Any) -> None:
        gpus.append(work.gpus)
        worker = work.worker(*work.arguments)
        for number in shards:
            worker({"item": number})

    monkeypatch.setattr(distributed, "require", lambda *_, **__: None)
    monkeypatch.setattr(distributed, "_each", one_by_one)
    monkeypatch.setattr(distributed, "_running", lambda *_: nullcontext())
    monkeypatch.setattr(distributed, "_quiet", lambda *_: nullcontext())
    return gpus
