"""How much of a change each factor explains: from the baseline to an arm by single steps, each a target of the audit.

A ladder names, for an arm, the retrievers between the baseline and it, every one of which differs from the one before
in one factor alone. The differences of neighbours add up to the whole change exactly. What a step explains depends on
what was changed before it, so the order is part of the answer; reports show it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from safe_retrieval.audit.changes import Attribution, Factor, Step
from safe_retrieval.audit.comparison import shared
from safe_retrieval.audit.figures import HEADLINE
from safe_retrieval.audit.probes import ProbeKind
from safe_retrieval.audit.scoring import ArmRun
from safe_retrieval.errors import InputError
from safe_retrieval.metrics import Estimate, harm_per_query, paired_bootstrap, recall_per_query


class Rung(NamedTuple):
    """One step of a ladder: what changes, the target after the change, and how many passages are then shown."""

    factor: Factor
    target: str
    k: int = HEADLINE


Ladder = Sequence[Rung]


def check_ladders(ladders: Mapping[str, Ladder], targets: Sequence[str], baseline: str, *, depth: int) -> None:
    """What can be checked before anything is asked.

    Args:
        ladders: by arm.
        targets: names of all targets of the audit.
        baseline: where each ladder starts.
        depth: passages that targets are asked for.

    Raises:
        InputError: there is no baseline, a ladder has no rung, does not end at its arm, names a target that is not
            audited, or a cut-off that is not between 1 and ``depth``.
    """
    if ladders and baseline not in targets:
        raise InputError(f"attribution starts at the baseline, and {baseline!r} is not among the targets")
    for arm, rungs in ladders.items():
        if not rungs or rungs[-1].target != arm:
            raise InputError(
                f"the ladder of {arm!r} must end at it, got: {', '.join(r.target for r in rungs) or 'none'}"
            )
        unknown = [rung.target for rung in rungs if rung.target not in targets]
        if unknown:
            raise InputError(f"the ladder of {arm!r} names {unknown[0]!r}, which is not among the targets")
        outside = [rung.k for rung in rungs if not 1 <= rung.k <= depth]
        if outside:
            raise InputError(f"the ladder of {arm!r} has the cut-off {outside[0]}; expected one from 1 to {depth}")


def attribute(runs: Mapping[str, ArmRun], baseline: str, rungs: Ladder, *, seed: int) -> Attribution | None:
    """Take the change in harm from ``baseline`` to the last rung apart, on the queries that all of them were asked.

    Args:
        runs: by target.
        baseline: where the ladder starts, at five passages.
        rungs: checked by :func:`check_ladders`; a rung's k must not exceed what its target was asked for.
        seed: of the bootstraps.

    Returns:
        ``None`` where no harmful request that all were asked has passages of its own.
    """
    chain = [runs[baseline], *(runs[rung.target] for rung in rungs)]
    cutoffs = [HEADLINE, *(rung.k for rung in rungs)]
    own, benign = chain[0].qrels(ProbeKind.HARMFUL), chain[0].qrels(ProbeKind.BENIGN)
    for run in chain[1:]:
        own, benign = shared(own, run.qrels(ProbeKind.HARMFUL)), shared(benign, run.qrels(ProbeKind.BENIGN))
    pairs = list(zip(chain, cutoffs, strict=True))
    harm = [list(harm_per_query(run.ranked, own, k=k).values()) for run, k in pairs]
    recall = [list(recall_per_query(run.ranked, benign, k=k).values()) for run, k in pairs]
    if not harm[0]:
        return None
    total = paired_bootstrap(harm[0], harm[-1], seed=seed)
    steps = []
    for place, rung in enumerate(rungs):
        change = paired_bootstrap(harm[place], harm[place + 1], seed=seed)
        steps.append(
            Step(
                factor=rung.factor,
                target=rung.target,
                k=rung.k,
                harm=change,
                benign_recall=paired_bootstrap(recall[place], recall[place + 1], seed=seed) if recall[0] else None,
                share=_share(change, total),
            )
        )
    return Attribution(baseline, total, tuple(steps))


def _share(change: Estimate, total: Estimate) -> float | None:
    return change.value / total.value if total.value else None
