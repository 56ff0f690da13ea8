"""The steps from plain dense retrieval to a retriever over an index of ours, as targets of one audit.

::

    ladder = index_ladder(index, baseline=minilm, encoder=response, where={"lang": "en"}, gate=RefusalGate(...), k=3)
    report = run_audit(probe_set, ladder.targets, baseline=ladder.baseline, ladders={ladder.arm: ladder.rungs})
    report.attributions[ladder.arm]

The first target asks a flat twin of the index, made from its own vectors, with the baseline's encoder. Then one thing
changes at a time: the encoder, the index as it is instead of the twin, the filter, the gate, the number of passages.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from time import perf_counter
from typing import NamedTuple

from safe_retrieval.audit.attribution import Rung
from safe_retrieval.audit.changes import Factor
from safe_retrieval.audit.corpus import CorpusIndex
from safe_retrieval.audit.encodings import Encoded
from safe_retrieval.audit.figures import HEADLINE
from safe_retrieval.audit.targets import EncodedTarget, Target
from safe_retrieval.errors import InputError
from safe_retrieval.index.factories import FLAT
from safe_retrieval.index.filters import Where
from safe_retrieval.index.searchable import SearchableIndex
from safe_retrieval.retrieval.guard import RefusalGate
from safe_retrieval.retrieval.retriever import DocumentIndex, SafeRetriever
from safe_retrieval.types import Encoder, QueryEncoding, Retrieval


class IndexLadder(NamedTuple):
    """Targets and the rungs between them.

    Attributes:
        targets: of the audit, from the baseline to the arm.
        rungs: for ``run_audit(ladders=...)``.
        baseline: name of the first target.
        arm: name of the last.
    """

    targets: tuple[Target, ...]
    rungs: tuple[Rung, ...]
    baseline: str
    arm: str


class _Filtered:
    """A retriever with a filter, asked with vectors."""

    def __init__(self, retriever: SafeRetriever, where: Where) -> None:
        self._retriever, self._where = retriever, where

    def retrieve_encoded(self, encoding: QueryEncoding, *, k: int) -> list[Retrieval]:
        return self._retriever.retrieve_encoded(encoding, k=k, where=self._where)


class _Encodings:
    """Encodes each set of texts once for all steps that share the encoder."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._encoded = cache(self._encode)

    def __call__(self, texts: Sequence[str]) -> Encoded:
        return self._encoded(tuple(texts))

    def _encode(self, texts: tuple[str, ...]) -> Encoded:
        start = perf_counter()
        return Encoded(self._encoder.encode(texts), perf_counter() - start)


def index_ladder(
    index: SearchableIndex,
    *,
    baseline: Encoder,
    encoder: Encoder,
    where: Where = None,
    gate: RefusalGate | None = None,
    k: int = HEADLINE,
    name: str = "audited",
) -> IndexLadder:
    """Take a retriever apart; a factor that is the same on both sides has no step.

    Args:
        index: with the probe set's documents in it; it is read, never written. Its vectors are copied into memory.
        baseline: the encoder of the plain retriever to start from, usually the index's own document encoder.
        encoder: of the audited retriever.
        where: its filter.
        gate: its gate; needs an encoder with verdicts.
        k: passages it shows.
        name: of the audited retriever in the report.

    Raises:
        EncoderMismatchError: an encoder does not speak the index's space.
        InputError: nothing differs, so there is nothing to take apart; or the gate has no verdict to go by.
    """
    ids = index.ids()
    flat = CorpusIndex(index.get_documents(ids), index.get_vectors(ids), baseline)
    own, plain = _Encodings(encoder), _Encodings(baseline)
    first = EncodedTarget("baseline, flat", plain, SafeRetriever(flat, baseline))
    targets: list[Target] = [first]
    rungs: list[Rung] = []

    def step(factor: Factor, searched: DocumentIndex, where: Where = None, gate: RefusalGate | None = None) -> None:
        retriever = SafeRetriever(searched, encoder, gate=gate)
        label = f"{name}, up to {factor.value}"
        targets.append(EncodedTarget(label, own, _Filtered(retriever, where), has_gate=gate is not None))
        rungs.append(Rung(factor, label))

    if encoder is not baseline:
        step(Factor.ENCODER, flat)
    if index.manifest.factory != FLAT:
        step(Factor.APPROXIMATION, index)
    if where is not None:
        step(Factor.FILTER, index, where)
    if gate is not None:
        step(Factor.GATE, index, where, gate)
    if k != HEADLINE:
        rungs.append(Rung(Factor.CUTOFF, targets[-1].name, k))
    if not rungs:
        raise InputError("the audited retriever is the baseline on a flat index; there is no step between them")
    return IndexLadder(tuple(targets), tuple(rungs), first.name, targets[-1].name)
