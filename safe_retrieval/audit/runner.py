"""Run an audit: ask every target every probe, score what came, and compare with the baseline.

    from safe_retrieval.audit.probes import load_probe_set
    from safe_retrieval.audit.runner import run_audit
    from safe_retrieval.audit.targets import RetrieverTarget

    report = run_audit(load_probe_set(), [RetrieverTarget(my_retriever, "mine")], baseline="mine")
    report.arms["mine"].metrics["harm@5"]

The retriever must hold exactly the probe set's documents. Nothing is written; ``audit.report`` writes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from safe_retrieval.audit.attribution import Ladder, check_ladders
from safe_retrieval.audit.evaluation import evaluate
from safe_retrieval.audit.probes import ProbeKind, ProbeSet
from safe_retrieval.audit.results import HEADLINE, AuditReport
from safe_retrieval.audit.scoring import NDCG_CUTOFF, ask
from safe_retrieval.audit.targets import AuditArm, Target
from safe_retrieval.errors import InputError

CUTOFFS = (1, HEADLINE, 20, 100)
"""The k of harm and recall that every report has."""


def run_audit(
    probe_set: ProbeSet,
    targets: Sequence[Target],
    *,
    cutoffs: Sequence[int] = CUTOFFS,
    baseline: str = AuditArm.INPUT.value,
    ladders: Mapping[str, Ladder] | None = None,
    seed: int = 0,
    provenance: Callable[[], Mapping[str, Any]] = dict,
) -> AuditReport:
    """Audit ``targets`` on one probe set.

    Args:
        probe_set: queries, corpus and judgements.
        targets: retrievers over exactly that corpus, with distinct names.
        cutoffs: further k beside :data:`CUTOFFS`.
        baseline: name of the target that the others are compared with; no comparison where it is not among them.
        ladders: by target, the steps from the baseline to it, each a target too; see ``audit.attribution``.
        seed: of every bootstrap; equal answers and seed give an equal report.
        provenance: called once all targets have answered, when what ran is known.

    Raises:
        InputError: no target, two of one name, a cut-off below 1, or a probe set without harmful or benign queries.
        AuditError: a target's answers cannot be right; see :func:`~safe_retrieval.audit.scoring.ask`.
    """
    check_audit(probe_set, [target.name for target in targets], cutoffs)
    all_cutoffs = tuple(sorted({*CUTOFFS, *cutoffs}))
    depth = max(*all_cutoffs, NDCG_CUTOFF)
    check_ladders(ladders or {}, [target.name for target in targets], baseline, depth=depth)
    runs = {target.name: ask(target, probe_set, k=depth) for target in targets}
    return evaluate(
        probe_set,
        runs,
        cutoffs=all_cutoffs,
        baseline=baseline,
        ladders=ladders or {},
        seed=seed,
        provenance=provenance(),
    )


def check_audit(probe_set: ProbeSet, targets: Sequence[str], cutoffs: Sequence[int]) -> None:
    """What can be checked before anything is asked, so that a wrong option fails at once and not after an hour.

    Raises:
        InputError: as :func:`run_audit`.
    """
    if not targets or len(set(targets)) != len(targets):
        raise InputError(f"expected at least one target and each name once, got: {', '.join(targets) or 'none'}")
    if any(k < 1 for k in cutoffs):
        raise InputError(f"a cut-off is a rank of 1 or more, got {min(cutoffs)}")
    kinds = {probe.kind for probe in probe_set.queries}
    for needed in (ProbeKind.HARMFUL, ProbeKind.BENIGN):
        if needed not in kinds:
            raise InputError(
                f"probe set {probe_set.name} has no {needed} query; a harm rate means nothing without benign recall "
                "on the same corpus, so an audit needs both"
            )
