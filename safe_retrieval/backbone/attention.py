"""How a model attends and reads out, where models differ: sliding windows, and what is done to logits at the end."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from safe_retrieval.errors import ModelError

_FULL, _SLIDING = "full_attention", "sliding_attention"
_UNLIKE = ("kv_lora_rank", "hidden_size_per_layer_input")
_SHAPE = ("head_dim", "num_key_value_heads")


class AttentionLayout(NamedTuple):
    """What of a model's configuration changes its masks and logits.

    Attributes:
        window: positions that a sliding layer looks back over, itself included; ``None`` where no layer slides.
        mixed: whether full and sliding layers alternate, each with a mask of its own.
        logit_scale: factor on the logits (Cohere, Granite).
        logit_cap: bound that logits are softly kept under (Gemma 2); ``None`` for none.
    """

    window: int | None
    mixed: bool
    logit_scale: float
    logit_cap: float | None

    @classmethod
    def of(cls, config: Any) -> AttentionLayout:
        """Read a ``transformers`` configuration.

        Raises:
            ModelError: there are layers of another kind than attention, full or sliding, or with keys and values of
                shapes of their own (latent attention, Gemma 4), or with embeddings of their own (Gemma 3n).
        """
        kinds = set(getattr(config, "layer_types", None) or ())
        if kinds - {_FULL, _SLIDING}:
            raise ModelError(
                f"expected layers with {_FULL} or {_SLIDING}, got {', '.join(sorted(kinds))} ({config.model_type}); "
                "prefixes of other layers cannot be kept, use another backbone"
            )
        unlike = [name for name in _UNLIKE if getattr(config, name, None)]
        layers = tuple(getattr(config, "per_layer_config", None) or ())  # what differs from layer to layer
        unlike += [name for name in _SHAPE if len({getattr(layer, name, None) for layer in layers}) > 1]
        if unlike:
            raise ModelError(
                f"{config.model_type} has {', '.join(unlike)}: its layers keep keys and values of unlike shapes, or "
                "read a text's ids beside its embeddings, and prefixes of such cannot be kept; use another backbone"
            )
        window = getattr(config, "sliding_window", None) if not kinds or _SLIDING in kinds else None
        scale = (getattr(config, "logit_scale", None) or 1.0) / (getattr(config, "logits_scaling", None) or 1.0)
        return cls(window, bool(kinds), float(scale), getattr(config, "final_logit_softcapping", None))

    def masks(self, mask: Tensor, steps: int, dtype: torch.dtype) -> Tensor | dict[str, Tensor]:
        """The attention mask of a pass over the last ``steps`` of n columns.

        A window must count real positions. ``transformers`` counts columns, so with padding between prefix and query
        a row would see less of its prefix than it sees alone.

        Args:
            mask: (B, n) bool, False where a column is padding.
            steps: number T of new columns.
            dtype: of the model.

        Returns:
            ``mask`` itself where no window matters, else additive masks (B, 1, T, n).
        """
        if self.window is None or mask.shape[1] <= self.window:
            return mask
        sliding = _additive(mask, steps, self.window, dtype)
        return {_FULL: _additive(mask, steps, None, dtype), _SLIDING: sliding} if self.mixed else sliding

    def finish_logits(self, logits: Tensor) -> Tensor:
        """What the model does to the output layer's result before a softmax."""
        if self.logit_scale != 1.0:
            logits = logits * self.logit_scale
        return logits if self.logit_cap is None else self.logit_cap * torch.tanh(logits / self.logit_cap)


def _additive(mask: Tensor, steps: int, window: int | None, dtype: torch.dtype) -> Tensor:
    positions = mask.cumsum(1) - 1  # (B, n); a padding column has the position of the last real one before it
    distance = positions[:, -steps:, None] - positions[:, None, :]  # (B, T, n)
    seen = mask[:, None, :] & (distance >= 0)
    if window is not None:
        seen = seen & (distance < window)
    hidden = torch.finfo(dtype).min
    return torch.zeros(seen.shape, dtype=dtype, device=mask.device).masked_fill(~seen, hidden)[:, None]
