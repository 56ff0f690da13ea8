"""Safe Retrieval: output-centric retrieval, and audits of how much harm a retriever hands over."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from safe_retrieval.encoder.blend import BlendEncoder
    from safe_retrieval.encoder.hyde import HydeEncoder
    from safe_retrieval.encoder.input import InputEncoder
    from safe_retrieval.encoder.response import ResponseEncoder
    from safe_retrieval.index.faiss_index import FaissIndex
    from safe_retrieval.retrieval.retriever import SafeRetriever

__version__ = "0.1.0"

# Loaded on first use: `import safe_retrieval` must cost neither torch nor faiss.
_HOMES = {
    "BlendEncoder": "safe_retrieval.encoder.blend",
    "HydeEncoder": "safe_retrieval.encoder.hyde",
    "InputEncoder": "safe_retrieval.encoder.input",
    "ResponseEncoder": "safe_retrieval.encoder.response",
    "FaissIndex": "safe_retrieval.index.faiss_index",
    "SafeRetriever": "safe_retrieval.retrieval.retriever",
}

__all__ = [
    "BlendEncoder",
    "FaissIndex",
    "HydeEncoder",
    "InputEncoder",
    "ResponseEncoder",
    "SafeRetriever",
    "__version__",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its home on first use (PEP 562)."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'safe_retrieval' has no attribute {name!r}")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return sorted(__all__)
