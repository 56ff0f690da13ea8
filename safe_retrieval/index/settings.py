"""How much of an approximate index a search looks at: what ``safe-retrieval index tune`` measures and writes down."""

from __future__ import annotations

from dataclasses import dataclass

from safe_retrieval.errors import InputError
from safe_retrieval.index.factories import Factory

_PROBED_SHARE = 16
_LEAST_PROBED = 8
_LEAST_EF = 64
# Codes keep the order of near vectors only roughly, so more of them are scored again.
_LOSSY_FACTOR = 4


@dataclass(frozen=True, slots=True)
class SearchSettings:
    """Settings of a search; what does not concern a kind of index is 0.

    Attributes:
        probes: clusters that are looked at, of an inverted file (FAISS's ``nprobe``).
        ef: nodes that are kept in view while a graph is walked (``efSearch``); at least twice the hits asked for.
        refine: candidates a hit that are scored again from the vectors as they were given, where FAISS keeps codes.
    """

    probes: int = 0
    ef: int = 0
    refine: int = 0

    def check(self, factory: Factory) -> None:
        """Refuse settings that a kind of index cannot be searched with.

        Raises:
            InputError: one that the kind needs is below 1.
        """
        needed = {"probes": bool(factory.lists), "ef": factory.codes == "HNSW", "refine": factory.lossy}
        for name, wanted in needed.items():
            if wanted and getattr(self, name) < 1:
                raise InputError(f"{factory.name} needs {name} of at least 1, got {getattr(self, name)}")


def usual_settings(factory: Factory) -> SearchSettings:
    """What an index is searched with that nobody tuned: a sixteenth of the clusters, four candidates a hit."""
    probes = min(factory.lists, max(_LEAST_PROBED, factory.lists // _PROBED_SHARE))
    return SearchSettings(
        probes=probes,
        ef=_LEAST_EF if factory.codes == "HNSW" else 0,
        refine=_LOSSY_FACTOR if factory.lossy else 0,
    )
