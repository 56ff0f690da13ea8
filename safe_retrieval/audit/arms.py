"""The six arms over one index of the probe set's corpus, and the audit of them.

::

    report = audit_arms(load_probe_set(), [AuditArm.INPUT, AuditArm.GATED], out=Path("audit-report"))

The response encoder's forward pass is the slow part, so it is made once and shared by ``output``, ``blend`` and
``gated``. What was encoded, and the index, stay in the report folder's cache: a cut audit goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safe_retrieval.audit.encodings import Encoded, EncodingCache, Progress
from safe_retrieval.audit.models import LocalModels, Models, RecordedEncoder
from safe_retrieval.audit.probes import ProbeSet
from safe_retrieval.audit.provenance import provenance
from safe_retrieval.audit.report import ReportFolder
from safe_retrieval.audit.results import AuditReport
from safe_retrieval.audit.runner import CUTOFFS, run_audit
from safe_retrieval.audit.targets import AuditArm, EncodedTarget, RetrieverTarget, Target
from safe_retrieval.encoder.progress import progress_bar
from safe_retrieval.errors import IndexFolderError, InputError
from safe_retrieval.types import GateAction

if TYPE_CHECKING:
    from safe_retrieval.index.folder import SearchableIndex
    from safe_retrieval.retrieval.guard import RefusalGate

GATE_THRESHOLD = 0.5
HYDE_QUERIES = 200
"""Probes that HyDE is asked by default; each costs a generation."""


def audit_arms(
    probe_set: ProbeSet,
    arms: Sequence[AuditArm],
    *,
    out: Path,
    models: Models | None = None,
    hyde_queries: int = HYDE_QUERIES,
    cutoffs: Sequence[int] = CUTOFFS,
    seed: int = 0,
    progress: Progress = progress_bar,
) -> AuditReport:
    """Audit arms on one probe set and write the report.

    Args:
        probe_set: queries, corpus and judgements.
        arms: which, each once, in the order of the report.
        out: report folder; an earlier audit in it is replaced, its cache is used and kept.
        models: where encoders come from; ``None`` takes the defaults of :class:`LocalModels`.
        hyde_queries: probes that ``hyde`` is asked at most, the same number of each kind as far as there are so many;
            0 asks all.
        cutoffs: further k for harm and recall.
        seed: of bootstraps and of the choice of probes for ``hyde``.
        progress: display for encodings that have to be made.

    Raises:
        InputError: no arm, one named twice, or a number out of range.
        AuditError: ``out`` is not ours to write, or answers cannot be right.
        ModelError, AdapterError: a model or adapter cannot be had.
        EncoderMismatchError: the adapter's teacher is not the document encoder.
    """
    if hyde_queries < 0:
        raise InputError(f"hyde_queries is a number of probes, 0 for all; got {hyde_queries}")
    with ReportFolder(out) as folder:
        bench = _Bench(
            probe_set,
            models or LocalModels(),
            folder.cache,
            hyde_queries=hyde_queries or None,
            seed=seed,
            progress=progress,
        )
        try:
            targets = [bench.target(arm) for arm in arms]
            report = run_audit(probe_set, targets, cutoffs=cutoffs, seed=seed, provenance=bench.provenance)
        finally:
            bench.close()
        folder.write(report)
    return report


class _Bench:
    """Opens what an arm needs when it is first needed, and remembers what was used."""

    def __init__(
        self,
        probe_set: ProbeSet,
        models: Models,
        cache: Path,
        *,
        hyde_queries: int | None,
        seed: int,
        progress: Progress,
    ) -> None:
        self._probe_set = probe_set
        self._models = models
        self._cache = cache
        self._hyde_queries = hyde_queries
        self._seed = seed
        self._encodings = EncodingCache(cache / "encodings", progress=progress)
        self._used: dict[str, Any] = {}
        self._open_index: SearchableIndex | None = None

    def target(self, arm: AuditArm) -> Target:
        match arm:
            case AuditArm.INPUT:
                return self._dense(arm, self._models.document, partial(self._encode, "input", self._models.document))
            case AuditArm.OUTPUT:
                return self._dense(arm, self._models.response, self._respond)
            case AuditArm.BLEND:
                return self._dense(arm, self._models.response, self._blend)
            case AuditArm.GATED:
                return self._gated()
            case AuditArm.HYDE:
                encode = partial(self._encode, "hyde", self._models.hyde)
                return self._dense(arm, self._models.hyde, encode, limit=self._hyde_queries)
            case AuditArm.BM25:
                return self._lexical()

    def provenance(self) -> dict[str, Any]:
        return provenance(self._used)

    def close(self) -> None:
        if self._open_index is not None:
            self._open_index.close()

    def _dense(
        self,
        arm: AuditArm,
        recorded: RecordedEncoder,
        encode: Callable[[Sequence[str]], Encoded],
        *,
        gate: RefusalGate | None = None,
        limit: int | None = None,
    ) -> EncodedTarget:
        from safe_retrieval.retrieval.retriever import SafeRetriever

        retriever = SafeRetriever(self._index, recorded.encoder, name=arm.value, gate=gate)
        self._used |= recorded.record
        return EncodedTarget(arm.value, encode, retriever, has_gate=gate is not None, limit=limit, seed=self._seed)

    def _gated(self) -> EncodedTarget:
        from safe_retrieval.retrieval.guard import RefusalGate

        gate = RefusalGate(GateAction.EMPTY, GATE_THRESHOLD)
        self._used["gate"] = {"action": gate.action.value, "threshold": gate.threshold}
        return self._dense(AuditArm.GATED, self._models.response, self._blend, gate=gate)

    def _lexical(self) -> RetrieverTarget:
        from safe_retrieval.audit.lexical import LexicalRetriever

        return RetrieverTarget(LexicalRetriever(self._probe_set.documents), AuditArm.BM25.value)

    def _encode(self, label: str, recorded: RecordedEncoder, texts: Sequence[str]) -> Encoded:
        return self._encodings.encode(label, recorded.identity, partial(recorded.encoder.encode, progress=False), texts)

    def _respond(self, texts: Sequence[str]) -> Encoded:
        return self._encode("response", self._models.response, texts)

    def _blend(self, texts: Sequence[str]) -> Encoded:
        from safe_retrieval.encoder.blend import BlendEncoder, BlendWeight

        response, own = self._respond(texts), self._encode("input", self._models.document, texts)
        self._used["blend"] = BlendWeight()._asdict()
        start = time.perf_counter()
        mixed = BlendEncoder.blend(response.encoding, own.encoding.vectors)
        return Encoded(mixed, response.seconds + own.seconds + time.perf_counter() - start)

    @cached_property
    def _index(self) -> SearchableIndex:
        """The corpus by the document encoder, from the cache where it is sound."""
        from safe_retrieval.index.builder import build_index
        from safe_retrieval.index.folder import load_index

        document = self._models.document
        key = hashlib.sha256(f"{self._probe_set.sha256} {document.identity}".encode()).hexdigest()
        path = self._cache / f"index-{key[:16]}"
        try:
            index = load_index(path)
        except IndexFolderError:  # not there, unfinished or damaged: in each case building again is what mends it
            path.parent.mkdir(parents=True, exist_ok=True)
            build_index(self._probe_set.documents, document.encoder, path)
            index = load_index(path)
        self._open_index = index
        self._used |= document.record
        self._used["index"] = {
            "factory": index.manifest.factory,
            "vectors_sha256": index.manifest.vectors.sha256,
            "documents_sha256": index.manifest.documents.sha256,
        }
        return index
