"""Tasks that mteb carries out, with data from the Hugging Face hub: MTEB(eng, v2), MTEB-Lite, BRIGHT(v1.1)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from safe_retrieval._extras import require
from safe_retrieval.bench.arms import Arm
from safe_retrieval.bench.measure import Measured
from safe_retrieval.bench.retrieve import ArmEncoder
from safe_retrieval.bench.tasks import Task
from safe_retrieval.errors import DataError, DownloadError
from safe_retrieval.metrics import Estimate
from safe_retrieval.types import FloatMatrix


class MtebEncoder:
    """An arm as mteb asks for encoders.

    Args:
        arm: one with vectors.
        encoder: its encodings.
        meta: mteb's record of the model.
    """

    def __init__(self, arm: Arm, encoder: ArmEncoder, meta: Any) -> None:
        self.mteb_model_meta = meta
        self._arm, self._encoder = arm, encoder

    def encode(
        self, inputs: Iterable[Mapping[str, Sequence[str]]], *, prompt_type: Any = None, **_: Any
    ) -> FloatMatrix:
        """Encode batches of texts; (n, d) float32, unit norm."""
        texts = [text for batch in inputs for text in batch["text"]]
        if prompt_type is not None and str(getattr(prompt_type, "value", prompt_type)) == "document":
            return self._encoder.documents(self._arm, texts)[0]
        return self._encoder.queries(self._arm, texts).encoding.vectors

    def similarity(self, first: Any, second: Any) -> Any:
        """(n, m) cosines of unit vectors."""
        import torch

        return torch.as_tensor(np.asarray(first)) @ torch.as_tensor(np.asarray(second)).T

    def similarity_pairwise(self, first: Any, second: Any) -> Any:
        """(n,) cosines of unit vectors."""
        import torch

        return (torch.as_tensor(np.asarray(first)) * torch.as_tensor(np.asarray(second))).sum(-1)


def measure_through_mteb(task: Task, arm: Arm, encoder: ArmEncoder) -> Measured:
    """Run a benchmark of mteb with an arm.

    Returns:
        The mean of the tasks' main scores and each of them by name; mteb gives no intervals, so ends and value are one.

    Raises:
        MissingExtraError: mteb is not installed.
        DownloadError: the hub cannot be reached.
        DataError: the benchmark lacks a task that is asked for.
    """
    mteb: Any = require("mteb", extra="mteb", purpose=f"the tasks of {task.title}")
    import httpx
    from huggingface_hub.errors import HfHubHTTPError

    offered = {each.metadata.name: each for each in mteb.get_benchmark(task.source).tasks}
    missing = sorted(set(task.members) - set(offered))
    if missing:
        raise DataError(f"{task.source} has no {', '.join(missing)} here; install the mteb of constraints.txt")
    model = MtebEncoder(arm, encoder, _meta(mteb, arm, encoder))
    scores: dict[str, float] = {}
    for name in task.members or offered:
        try:
            (found,) = mteb.evaluate(model, offered[name]).task_results
        except (OSError, HfHubHTTPError, httpx.HTTPError) as error:
            raise DownloadError(
                f"{name} ({task.title}) takes its data from the Hugging Face hub, which gave: {error}; run it where "
                "the hub can be reached. The other tasks need a data folder alone (safe-retrieval bench list)"
            ) from error
        scores[name] = float(found.get_score())
    mean = sum(scores.values()) / len(scores)
    figures: dict[str, Estimate | None] = {"main_score": Estimate(mean, mean, mean, len(scores))}
    figures |= {name: Estimate(value, value, value, 1) for name, value in scores.items()}
    return Measured(figures, {}, None, [])


def _meta(mteb: Any, arm: Arm, encoder: ArmEncoder) -> Any:
    """mteb keeps what it has by name and revision, so the revision is a hash of everything that decides the vectors."""
    identity = json.dumps([arm.record(), encoder.models.query(arm).record], sort_keys=True)
    revision = hashlib.sha256(identity.encode()).hexdigest()
    return mteb.ModelMeta.create_empty(overwrites={"name": f"safe-retrieval/{arm.name}", "revision": revision})
