"""The six arms over one index of the probe set's corpus, and the audit of them.

::

    report = audit_arms(load_probe_set(), [AuditArm.INPUT, AuditArm.GATED], out=Path("audit-report"))

The response encoder's forward pass is the slow part, so it is made once and shared by ``output``, ``blend`` and
``gated``. What was encoded, passages and queries, stays in the report folder's cache: a cut audit goes on where it
stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safe_retrieval.audit.attribution import Ladder, Rung
from safe_retrieval.audit.changes import Factor
from safe_retrieval.audit.encodings import EncodingCache, Progress
from safe_retrieval.audit.models import LocalModels, Models
from safe_retrieval.audit.probes import ProbeSet
from safe_retrieval.audit.provenance import provenance, source_state
from safe_retrieval.audit.query_side import QuerySide
from safe_retrieval.audit.regression import compare_reports, read_comparable
from safe_retrieval.audit.report import ReportFolder
from safe_retrieval.audit.results import AuditReport
from safe_retrieval.audit.runner import CUTOFFS, check_audit, run_audit
from safe_retrieval.audit.targets import AuditArm, EncodedTarget, RetrieverTarget, Target
from safe_retrieval.encoder.progress import progress_bar
from safe_retrieval.errors import InputError
from safe_retrieval.types import GateAction

if TYPE_CHECKING:
    from safe_retrieval.audit.corpus import CorpusIndex
    from safe_retrieval.retrieval.guard import RefusalGate

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
    baseline: Path | None = None,
    reveal: bool = False,
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
        baseline: folder of an earlier audit of the same probes, to be compared with.
        reveal: show the texts of queries and passages in ``index.html`` and ``findings.jsonl``, under a warning.
        progress: display for encodings that have to be made.

    Raises:
        InputError: no arm, one named twice, or a number out of range.
        AuditError: ``out`` is not ours to write, answers cannot be right, or ``baseline`` cannot be compared with.
        ModelError, AdapterError: a model or adapter cannot be had.
        EncoderMismatchError: the adapter's teacher is not the document encoder.
    """
    check_audit(probe_set, [arm.value for arm in arms], cutoffs)
    if hyde_queries < 0:
        raise InputError(f"hyde_queries is a number of probes, 0 for all; got {hyde_queries}")
    earlier = read_comparable(baseline, probe_set) if baseline else None  # now: it may lie in ``out``
    source_state()  # before hours of work, not after them
    models = models or LocalModels()
    if any(arm.needs_adapter for arm in arms):
        models.check_adapter()
    with ReportFolder(out) as folder:
        bench = Bench(
            probe_set,
            models,
            folder.cache,
            hyde_queries=hyde_queries or None,
            seed=seed,
            progress=progress,
        )
        targets = [bench.target(arm) for arm in arms]
        report = run_audit(
            probe_set, targets, cutoffs=cutoffs, ladders=ladders_of(arms), seed=seed, provenance=bench.provenance
        )
        if earlier:
            report = replace(report, against=compare_reports(report, earlier))
        folder.write(report, reveal=probe_set if reveal else None)
    return report


def ladders_of(arms: Sequence[AuditArm]) -> dict[str, Ladder]:
    """The steps from ``input`` to the arms that change more than one thing, as far as the arms between are there."""
    present = set(arms)
    if not {AuditArm.INPUT, AuditArm.BLEND} <= present:
        return {}
    if AuditArm.OUTPUT in present:
        blend = [Rung(Factor.ENCODER, AuditArm.OUTPUT.value), Rung(Factor.BLEND, AuditArm.BLEND.value)]
    else:
        blend = [Rung(Factor.ENCODER, AuditArm.BLEND.value)]
    ladders: dict[str, Ladder] = {AuditArm.BLEND.value: blend} if len(blend) > 1 else {}
    if AuditArm.GATED in present:
        ladders[AuditArm.GATED.value] = [*blend, Rung(Factor.GATE, AuditArm.GATED.value)]
    return ladders


class Bench:
    """The probe set's corpus, indexed once, and the arms over it; opens what an arm needs when it is first needed.

    Args:
        probe_set: its documents are the corpus.
        models: where encoders come from.
        cache: folder of kept encodings.
        hyde_queries: most probes that ``hyde`` is asked; ``None`` asks all.
        seed: of that choice.
        progress: display for encodings that have to be made.
    """

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
        self._hyde_queries = hyde_queries
        self._seed = seed
        self._side = QuerySide(models, EncodingCache(cache, progress=progress))
        self._used: dict[str, Any] = {}

    def target(self, arm: AuditArm, name: str | None = None) -> Target:
        """An arm over the corpus.

        Args:
            arm: which.
            name: in the report; ``None`` takes the arm's.

        Raises:
            ModelError, AdapterError: a model or adapter cannot be had.
            EncoderMismatchError: the adapter's teacher is not the document encoder.
        """
        from safe_retrieval.retrieval.guard import RefusalGate

        called = name or arm.value
        match arm:
            case AuditArm.BM25:
                return self._lexical(called)
            case AuditArm.GATED:
                gate = RefusalGate(GateAction.EMPTY)
                self._used["gate"] = {"action": gate.action.value, "threshold": gate.threshold}
                return self._dense(arm, called, gate=gate)
            case AuditArm.HYDE:
                return self._dense(arm, called, limit=self._hyde_queries)
            case AuditArm.INPUT | AuditArm.OUTPUT | AuditArm.BLEND:
                return self._dense(arm, called)

    @property
    def used(self) -> dict[str, Any]:
        """Encoders, index and gate that were used so far."""
        return self._used | self._side.used

    def provenance(self) -> dict[str, Any]:
        """What ran, on what, and when."""
        return provenance(self.used)

    def _dense(
        self, arm: AuditArm, name: str, *, gate: RefusalGate | None = None, limit: int | None = None
    ) -> EncodedTarget:
        from safe_retrieval.retrieval.retriever import SafeRetriever

        retriever = SafeRetriever(self._index, self._side.encoder(arm).encoder, name=name, gate=gate)
        encode = partial(self._side.encode, arm)
        return EncodedTarget(name, encode, retriever, has_gate=gate is not None, limit=limit, seed=self._seed)

    def _lexical(self, name: str) -> RetrieverTarget:
        from safe_retrieval.audit.lexical import LexicalRetriever

        return RetrieverTarget(LexicalRetriever(self._probe_set.documents), name)

    @cached_property
    def _index(self) -> CorpusIndex:
        """The corpus by the document encoder; its vectors come from the cache as far as they are there."""
        from safe_retrieval.audit.corpus import CorpusIndex

        documents = self._probe_set.documents
        vectors = self._side.passages([document.content for document in documents])
        index = CorpusIndex(documents, vectors, self._side.document.encoder)
        self._used["index"] = {"kind": "flat", "metric": "cosine", "sha256": index.sha256}
        return index
