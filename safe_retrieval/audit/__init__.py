"""Audits: how often a retriever hands over harmful passages, with benign recall beside it.

::

    from safe_retrieval import audit

    report = audit.run("audit.yaml")
    report.to_frame()
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from safe_retrieval.audit.configured import run

__all__ = ["run"]


def __getattr__(name: str) -> Any:
    """Import on first use (PEP 562): rooms that need one module of this one do not pay for all."""
    if name != "run":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from safe_retrieval.audit.configured import run

    return run
