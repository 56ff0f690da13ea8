"""A fixture for modules whose objects each load the backbone for themselves: they are handed the same weights."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import pytest

from safe_retrieval.backbone.language_model import LanguageModel


@pytest.fixture(scope="module", autouse=True)
def one_backbone() -> Iterator[None]:
    """Weights take ten seconds to read; a module that imports this reads each model once."""
    load = LanguageModel.load.__func__  # type: ignore[attr-defined]  # a classmethod's function
    shared = cache(lambda name: load(LanguageModel, name))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LanguageModel, "load", lambda name, **_: shared(name))
        yield
