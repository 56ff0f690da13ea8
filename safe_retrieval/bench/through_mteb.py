"""Tasks that mteb carries out, with data from the Hugging Face hub: MTEB(eng, v2), MTEB-Lite, BRIGHT(v1.1)."""

from __future__ import annotations

from typing import Any

from safe_retrieval._extras import require
from safe_retrieval.bench.arms import Arm
from safe_retrieval.bench.measure import Measured
from safe_retrieval.bench.mteb_model import mteb_model
from safe_retrieval.bench.retrieve import ArmEncoder
from safe_retrieval.bench.tasks import Task
from safe_retrieval.errors import DataError, DownloadError
from safe_retrieval.metrics import Estimate


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
    model = mteb_model(arm, encoder)
    scores: dict[str, float] = {}
    for name in task.members or offered:
        try:
            # Without mteb's own cache, which knows nothing of the code that made a score: ours decides what is kept.
            (found,) = mteb.evaluate(model, offered[name], cache=None).task_results
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
