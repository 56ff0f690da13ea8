"""Echo embeddings: the text is said twice and the states of the second copy are averaged.

In a causal model the second copy's positions have seen the whole text. Source: Springer et al., "Repetition Improves
Language Model Embeddings" (arXiv 2402.15449); the wording is theirs. It costs twice the tokens of a plain pass.
"""

from __future__ import annotations

from collections.abc import Sequence

from safe_retrieval.encoder.pooled import PooledEncoder

BEFORE = "Rewrite the following paragraph: "
BETWEEN = "\nThe rewritten paragraph: "
"""What stands before each of the two copies."""

_MAX_TOKENS = 256  # of each copy, so that both together are as long as what other encoders read


class EchoEncoder(PooledEncoder):
    """Mean over the last-layer states of a text's second copy; see :class:`PooledEncoder` for the rest."""

    @property
    def name(self) -> str:
        """The model's name and how it is read."""
        return f"{self.model.name} (echo)"

    @property
    def space(self) -> str:
        """Fingerprint over the weights, the wording and the pooling."""
        return self._fingerprint(f"echo\n{self.bidirectional}\n{BEFORE}\n{BETWEEN}")

    def _rows(self, texts: Sequence[str]) -> tuple[list[list[int]], list[int]]:
        copies = self.model.tokenizer.encode_text(texts, max_tokens=_MAX_TOKENS)
        before, between = self.model.tokenizer.encode_text([BEFORE, BETWEEN], max_tokens=_MAX_TOKENS)
        rows = [[*before, *copy, *between, *copy] for copy in copies]
        return rows, [len(row) - len(copy) for row, copy in zip(rows, copies, strict=True)]
