"""A refusal head taught by another model: a small backbone that foresees what a larger one would refuse.

A small model's own verdicts are poor labels, since it answers much of what it should refuse; but what it has computed
at the end of a prompt tells harm from harmlessness better than what it goes on to say. So a judge, a larger model whose
refusal probability is good, reads unlabelled queries, and the smaller one's head is fitted on its log-odds. Nothing is
generated: both models read each query once. Only the refusal head of the adapter is replaced; its response vectors stay
as they are.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from safe_retrieval.backbone.language_model import LanguageModel
from safe_retrieval.encoder.adapter import RefusalFeatures
from safe_retrieval.encoder.persistence import LoadedAdapter, load_adapter, save_adapter
from safe_retrieval.encoder.progress import progress_bar
from safe_retrieval.encoder.response import ResponseEncoder
from safe_retrieval.encoder.shipped import adapter_folder
from safe_retrieval.errors import TrainingError
from safe_retrieval.training.card import write_card
from safe_retrieval.training.checksums import checksum
from safe_retrieval.training.config import GateConfig
from safe_retrieval.training.lock import only_writer
from safe_retrieval.training.queries import TrainingQuery, choose_queries
from safe_retrieval.training.refusal import FittedRefusal, fit_foreseen, gate_shares, require_both_verdicts
from safe_retrieval.training.reliability import rounded

_BLOCK = 256  # queries whose features are kept together: what a cut run has to compute again
_REFUSES = 0.5  # the judge's probability from which on it is taken to refuse; it is calibrated


def train_gate(config: GateConfig, *, offline: bool = False) -> Path:
    """Fit the head, or go on with a run that was cut; returns the new adapter's folder, ``<out>/adapter``.

    Args:
        config: the run.
        offline: open no connection.

    Raises:
        TrainingError: the judge refuses too few of the queries or too many, or another process has the folder.
        AdapterError: there is no such adapter, or it is damaged.
        ModelError: a model cannot be had.
        DataError: a query file is broken.
    """
    folder = adapter_folder(config.adapter)
    own, judge = load_adapter(folder), load_adapter(adapter_folder(config.judge))
    queries = choose_queries(config.queries, seed=config.seed)
    config.out.mkdir(parents=True, exist_ok=True)
    with only_writer(config.out / "train.lock", f"the run in {config.out}"):
        # One model after the other: only one of them is in memory.
        probabilities = judged(judge, queries, config, offline=offline)
        require_both_verdicts(probabilities >= _REFUSES)
        features = _features(own, queries, config, offline=offline)
        fitted = fit_foreseen(features, probabilities, own.refusal.first_tokens)
        record = own.record.model_copy(
            update={
                "refusal": own.record.refusal.model_copy(
                    update={"method": fitted.method, "held_out_auroc": round(fitted.auroc, 4)}
                ),
                "training": {**own.record.training, **_facts(config, judge, queries, probabilities, fitted)},
            }
        )
        save_adapter(config.out / "adapter", own.adapter, fitted.head, record)
        logs = [folder / "log.jsonl", folder.parent / "log.jsonl"]  # beside the adapter, or of the run it lies in
        write_card(config.out / "adapter", log=next((log for log in logs if log.is_file()), None))
    return config.out / "adapter"


def judged(
    judge: LoadedAdapter, queries: Sequence[TrainingQuery], config: GateConfig, *, offline: bool = False
) -> NDArray[np.float64]:
    """The judge's refusal probabilities of n queries, (n,)."""
    return judge.refusal(_features(judge, queries, config, offline=offline)).double().numpy()  # type: ignore[no-any-return]


def _features(
    loaded: LoadedAdapter, queries: Sequence[TrainingQuery], config: GateConfig, *, offline: bool
) -> RefusalFeatures:
    """What an adapter's refusal head reads of each query, block by block as it lies in the run's folder."""
    blocks = [queries[start : start + _BLOCK] for start in range(0, len(queries), _BLOCK)]
    files = [config.out / "features" / f"{_key(loaded, block)}.safetensors" for block in blocks]
    parts = [_read(file) for file in files]
    if any(part is None for part in parts):
        encoder = ResponseEncoder(LanguageModel.load(loaded.record.backbone.name, offline=offline), loaded)
        with progress_bar(len(queries), f"Prompts through {encoder.model.name}", show=True) as advance:
            for place, block in enumerate(blocks):
                if parts[place] is None:
                    texts = [query.text for query in block]
                    parts[place] = found = encoder.prompt_features(texts, batch_size=config.batch_size, progress=False)
                    _write(files[place], found)
                advance(len(block))
    whole = [part for part in parts if part is not None]
    return RefusalFeatures(torch.cat([part.first_token for part in whole]), torch.cat([part.state for part in whole]))


def _key(loaded: LoadedAdapter, block: Sequence[TrainingQuery]) -> str:
    """Of everything that features depend on: weights, the prompt around a query, the tokens looked at, the queries."""
    record = loaded.record
    parts = [record.backbone.fingerprint, record.template_sha256, record.refusal.first_tokens, [q.text for q in block]]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _read(file: Path) -> RefusalFeatures | None:
    """A kept block, or ``None`` where there is none, or the disk gave back something else than was written."""
    try:
        with safe_open(file, framework="pt") as opened:
            found = RefusalFeatures(opened.get_tensor("first_token"), opened.get_tensor("state"))
            return found if (opened.metadata() or {}).get("checksum") == str(checksum(found)) else None
    except (SafetensorError, OSError):
        return None


def _write(file: Path, features: RefusalFeatures) -> None:
    file.parent.mkdir(exist_ok=True)
    partial = file.with_suffix(".partial")
    try:
        save_file(features._asdict(), partial, metadata={"checksum": str(checksum(features))})
        partial.replace(file)
    except (OSError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        raise TrainingError(f"{file} cannot be written ({error}); free some disk, then start again") from error


def _facts(
    config: GateConfig,
    judge: LoadedAdapter,
    queries: Sequence[TrainingQuery],
    probabilities: NDArray[np.float64],
    fitted: FittedRefusal,
) -> dict[str, Any]:
    """What the adapter's record says of its gate."""
    refused = probabilities >= _REFUSES
    return {
        "gate": gate_shares(fitted.probabilities, refused, [query.source for query in queries]),
        "calibration": rounded(fitted.calibration),
        "judge": {
            "name": judge.record.backbone.name,
            "fingerprint": judge.record.backbone.fingerprint,
            "adapter": judge.fingerprint,
            "policy": judge.record.policy.name,
            "queries": len(queries),
            "queries_by_source": dict(sorted(Counter(query.source for query in queries).items())),
            "refused_share": round(float(refused.mean()), 4),
            "kept_apart": config.queries.keep_apart_from is not None,
            "seed": config.seed,
            "versions": {name: version(name) for name in ("torch", "transformers", "scikit-learn")},
        },
    }
