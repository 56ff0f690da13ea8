"""The refusal gate: what is done with a query that the backbone itself would refuse to answer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from safe_retrieval.errors import InputError
from safe_retrieval.types import GateAction, Hit, PartReader, Retrieval

DEFAULT_THRESHOLD = 0.9
"""Refusing is nine times as likely as answering.

A shut gate leaves a harmless query with nothing, so it should shut later than the vector changes (a blend goes over to
the response at one half). The rule is about 1 % of the red-team-like training queries that the 1.5B answers, the ones
nearest to harm; 0.75 would be 4 % of them, one half 11 % (its card). It was set after seeing AdvBench and XSTest, of
whose safe prompts 0.75 holds back 7.6 %, so they are no independent test of it.
"""


def as_judged(judge: object, texts: Sequence[str]) -> list[str]:
    """The part of each text that a judge's verdict is on.

    A gate must be asked about all that is searched with. A judge reads so much of a text; what stands behind that would
    pass unseen, while word search or another model's tokenizer read it.
    """
    return judge.as_read(texts) if isinstance(judge, PartReader) else list(texts)


@dataclass(frozen=True, slots=True)
class RefusalGate:
    """Fires for queries whose refusal probability reaches a threshold.

    Attributes:
        action: what happens then; ``allow`` never fires.
        threshold: in [0, 1]. Refusal probabilities are calibrated, so one half means: as likely refused as answered.

    Raises:
        InputError: the threshold is outside [0, 1].
    """

    action: GateAction
    threshold: float = DEFAULT_THRESHOLD

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:  # NaN fails too
            raise InputError(f"expected a threshold from 0 to 1, got {self.threshold}")

    @property
    def needs_verdict(self) -> bool:
        """Whether the gate cannot work without a refusal probability."""
        return self.action is not GateAction.ALLOW

    def apply(self, hits: Sequence[Hit], refusal: float | None) -> Retrieval:
        """Pass one query's hits through the gate.

        Args:
            hits: what the search found, best first.
            refusal: the query's refusal probability; ``None`` where nothing gave one.

        Raises:
            InputError: the gate needs a verdict and there is none, or it is NaN.
        """
        if not self.needs_verdict:
            return Retrieval(tuple(hits), refusal)
        if refusal is None or math.isnan(refusal):
            raise InputError("a refusal gate needs a refusal probability for each query; give it a refusal_encoder")
        fired = refusal >= self.threshold
        kept = () if fired and self.action is GateAction.EMPTY else tuple(hits)
        return Retrieval(kept, refusal, fired)
