"""A training run from configuration to adapter.

The backbone is frozen and the trained tokens come last, so each query's prefix is computed once
(:mod:`safe_retrieval.training.prefix_cache`, filled while the responses are generated) and a step runs only the trained
tokens behind it, with gradients. When the joint epochs are over the tokens stand still; their states are then constants
too, and the alignment head, which holds most of what decides retrieval, is solved for in closed form or trains on for
many epochs at nearly no cost. A run may also begin there, with the tokens of an adapter that is trained already: then
more queries cost their answers and one pass each.

Everything drawn at random is drawn from the seed and the epoch, and the optimiser's state is in the checkpoint, so a
run that was killed and resumed follows the loss curve of one that was not.
"""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from safe_retrieval.backbone.language_model import LanguageModel
from safe_retrieval.backbone.template import render
from safe_retrieval.encoder.adapter import AdapterShape, HeadShape, RefusalFeatures, RefusalHead, ResponseAdapter
from safe_retrieval.encoder.persistence import (
    AdapterRecord,
    BackboneRecord,
    LoadedAdapter,
    PolicyRecord,
    RefusalRecord,
    TeacherRecord,
    load_adapter,
    save_adapter,
)
from safe_retrieval.encoder.policy import ResponsePolicy, policy_from
from safe_retrieval.encoder.progress import progress_bar
from safe_retrieval.encoder.shipped import adapter_folder
from safe_retrieval.errors import TrainingError
from safe_retrieval.training.card import write_card
from safe_retrieval.training.checkpoint import Checkpoints, Position
from safe_retrieval.training.config import AdapterSettings, Precision, PromptStyle, TrainingConfig
from safe_retrieval.training.lock import only_writer
from safe_retrieval.training.log import TrainingLog
from safe_retrieval.training.phases import HEADS, JOINT, PHASES, REFUSAL, Examples, Run, head_phase, joint_phase
from safe_retrieval.training.prefix_cache import PrefixCache
from safe_retrieval.training.queries import choose_queries
from safe_retrieval.training.refusal import (
    FittedRefusal,
    fit_refusal,
    gate_shares,
    refusal_tokens,
    require_both_verdicts,
)
from safe_retrieval.training.reliability import rounded
from safe_retrieval.training.responses import Response, answered_responses, generate_responses, held_back, sha256_of
from safe_retrieval.training.teachers import Teacher, load_teacher


@dataclass(frozen=True)
class Prepared:
    """Everything before the first optimiser step."""

    config: TrainingConfig
    model: LanguageModel
    policy: ResponsePolicy
    teacher: Teacher
    prefixes: PrefixCache
    training: list[Response]
    held_out: list[Response]
    answered_by: BackboneRecord | None = None
    tokens_from: LoadedAdapter | None = None


def train(config: TrainingConfig, *, offline: bool = False, answered_only: bool = False) -> Path:
    """Carry a run out, or go on with it; returns the adapter's folder, ``<out>/adapter``.

    Args:
        config: the run.
        offline: open no connection.
        answered_only: train on the queries that the responses file answers already, and generate nothing.

    Raises:
        TrainingError: the run's folder belongs to other settings, or there is too little to train on.
        ModelError: a model cannot be had.
        DataError: a query file is broken.
    """
    began = time.monotonic()
    prepared = prepare(config, offline=offline, answered_only=answered_only)
    with only_writer(config.out / "train.lock", f"the run in {config.out}"):
        run = _start(prepared)
        refusal = _optimise(run, prepared)
        _log_refusal(run, refusal)
        record = _record(prepared, run, refusal, seconds=time.monotonic() - began)
        folder = config.out / "adapter"
        save_adapter(folder, run.adapter, refusal.head, record)
        write_card(folder, log=config.out / "log.jsonl")
    return folder


def _optimise(run: Run, prepared: Prepared) -> FittedRefusal:
    """Both phases, from the checkpoint on where there is one; the refusal head, which reads the prompts alone, between
    them, for a mixture is weighted by it."""
    resumed = run.checkpoints.position()
    if resumed is None or resumed.phase == JOINT:
        joint_phase(run, resumed.step if resumed else 0)
        resumed = None
    else:
        run.checkpoints.restore(run.adapter, None)
    refusal = _fit_refusal(prepared)
    if run.optimiser.head_epochs or run.adapter.shape.head is HeadShape.RIDGE:
        foreseen = torch.from_numpy(refusal.probabilities[len(prepared.training) :]).float().to(run.model.device)
        head_phase(run, resumed.step if resumed else 0, foreseen)
    return refusal


def prepare(config: TrainingConfig, *, offline: bool = False, answered_only: bool = False) -> Prepared:
    """Load the models and make sure every query has its response; resumable by itself."""
    model = LanguageModel.load(config.backbone, offline=offline).in_template(chat=config.template is PromptStyle.CHAT)
    policy = policy_from(config.policy)
    tokens_from = _tokens_from(config, model)
    config.out.mkdir(parents=True, exist_ok=True)
    reader = _reader(config, model, offline=offline)
    prefixes = PrefixCache(
        reader,
        policy.system_prompt,
        config.prefixes_path,
        max_bytes=int(config.prefix_gigabytes * 2**30),
        dtype=model.dtype,
    )
    teacher = load_teacher(config.teacher, model, offline=offline)  # what is missing is said before hours of work
    queries, file = choose_queries(config.queries, seed=config.seed), config.responses_path
    longest = config.responses.max_new_tokens
    answering = _answering(config, reader, offline=offline)
    if answered_only:
        responses = answered_responses(answering, queries, policy, file, max_new_tokens=longest)
    else:
        responses = generate_responses(
            answering,
            queries,
            policy,
            file,
            max_new_tokens=longest,
            batch_size=config.responses.batch_size,
            workers=config.optimiser.workers,
            prefixes=prefixes if answering is reader else None,
            seed=config.seed,
        )
    answered_by = None if answering.fingerprint == model.fingerprint else _named(answering)
    usable = [row for row in responses if row.response]  # an empty answer has nothing to foresee
    if len(usable) < 2 * config.held_out:
        raise TrainingError(
            f"expected at least twice as many answered queries as are held out ({config.held_out}), got {len(usable)}; "
            "give more queries, or hold out fewer"
        )
    require_both_verdicts(np.array([row.refused for row in usable]))
    held_out, training = held_back(usable, config.held_out)
    return Prepared(config, model, policy, teacher, prefixes, training, held_out, answered_by, tokens_from)


def _tokens_from(config: TrainingConfig, model: LanguageModel) -> LoadedAdapter | None:
    """The adapter whose tokens a run starts from; it may have been trained under another policy.

    Raises:
        TrainingError: its tokens stand behind another template, belong to other weights, or are not as many.
        AdapterError: there is no such adapter, or it is damaged.
    """
    settings = config.adapter
    if settings.tokens_from is None:
        return None
    found = load_adapter(adapter_folder(settings.tokens_from))
    record = found.record
    same_policy = render(model.tokenizer, record.policy.system_prompt, chat=model.chat)
    wanted = {
        "backbone": (model.fingerprint, record.backbone.fingerprint),
        "rendered template": (same_policy.sha256, record.template_sha256),
        **{name: (getattr(settings, name), getattr(record.shape, name)) for name in _OF_TOKENS},
    }
    unlike = [f"{name} {ours}, got {theirs}" for name, (ours, theirs) in wanted.items() if ours != theirs]
    if unlike:
        raise TrainingError(f"adapter.tokens_from, {settings.tokens_from}: expected {'; '.join(unlike)}")
    return found


def _reader(config: TrainingConfig, model: LanguageModel, *, offline: bool) -> LanguageModel:
    """The backbone in the precision in which queries are read: ``model`` itself, or a second copy."""
    precision = _reads_in(config)
    return model if precision is Precision.FULL else _in_precision(config.backbone, precision, model, offline=offline)


def _answering(config: TrainingConfig, reader: LanguageModel, *, offline: bool) -> LanguageModel:
    """Who answers: the backbone that reads, a copy in another precision, or another model in its own chat template."""
    precision = config.responses.precision
    if config.responses.model is not None:
        return LanguageModel.load(config.responses.model, dtype=precision.dtype, offline=offline)
    if precision is _reads_in(config):
        return reader
    return _in_precision(config.backbone, precision, reader, offline=offline)


def _reads_in(config: TrainingConfig) -> Precision:
    return config.responses.prefix_precision or config.responses.precision


def _in_precision(name: str, precision: Precision, like: LanguageModel, *, offline: bool) -> LanguageModel:
    return LanguageModel.load(name, dtype=precision.dtype, offline=offline).in_template(chat=like.chat)


def _named(model: LanguageModel) -> BackboneRecord:
    return BackboneRecord(name=model.name, fingerprint=model.fingerprint)


_OF_TOKENS = ("thought_tokens", "compression_tokens", "read_prompt")
"""Settings that trained tokens and a reconstruction head depend on."""

_NOT_DECISIVE = {"out", "checkpoint_steps", "prefixes", "prefix_gigabytes"}
"""Settings that a run may be continued with others of."""

_STANDS_FOR: dict[str, Any] = {
    **dict.fromkeys(("backbone", "teacher", "queries", "responses_file"), True),
    "responses": {"model"},
    "adapter": {"tokens_from", "blend_share"},
}
"""Names and paths; what they lead to is hashed in their place, for it may be another thing by now, or lie elsewhere.

The share of a blend is passed on and decides nothing in a run.
"""


def _identity(prepared: Prepared) -> str:
    """Hash of all that decides the result of a run."""
    settings = prepared.config.model_dump_json(exclude=dict.fromkeys(_NOT_DECISIVE, True) | _STANDS_FOR)
    rows = sha256_of(prepared.training), sha256_of(prepared.held_out)
    order = (row.query for row in (*prepared.held_out, *prepared.training))
    tokens = () if prepared.tokens_from is None else (prepared.tokens_from.fingerprint,)
    parts = (settings, prepared.model.fingerprint, *tokens, prepared.teacher.space, *rows, *order)
    return hashlib.sha256("\n".join(parts).encode("utf-8", "surrogatepass")).hexdigest()


def _start(prepared: Prepared) -> Run:
    config, model = prepared.config, prepared.model
    torch.manual_seed(config.seed)
    checkpoints = Checkpoints(config.out, _identity(prepared))
    return Run(
        model=model,
        adapter=_new_adapter(prepared),
        prefixes=prepared.prefixes,
        training=_examples(prepared, prepared.training, "training"),
        held_out=_examples(prepared, prepared.held_out, "held-out"),
        loss=config.loss,
        optimiser=config.optimiser,
        checkpoints=checkpoints,
        log=TrainingLog(config.out / "log.jsonl", checkpoints.position(), PHASES),
        seed=config.seed,
        checkpoint_steps=config.checkpoint_steps,
    )


def _new_adapter(prepared: Prepared) -> ResponseAdapter:
    """An untrained adapter: tokens start as the embeddings of a phrase, scales are measured on a few queries."""
    settings, model = prepared.config.adapter, prepared.model
    shared = model.shared_prefix(prepared.policy.system_prompt)
    shape = AdapterShape(
        hidden_size=model.hidden_size,
        dimension=prepared.teacher.dimension,
        values=shared.key_values.values_size if settings.read_values else 0,
        **settings.model_dump(include=set(AdapterShape.model_fields) & set(AdapterSettings.model_fields)),
    )
    if prepared.tokens_from is not None:
        return _continued(shape, prepared.tokens_from.adapter).to(model.device)
    states = prepared.prefixes.get([row.query for row in prepared.training[:32]]).state.float()
    scale = float(states.square().mean().sqrt())
    adapter = ResponseAdapter(shape, state_scale=scale, embedding_scale=model.embedding_scale).to(model.device)
    ids = model.tokenizer.encode_text([settings.initial_text], max_tokens=512)[0]
    wanted = torch.tensor([ids[i % len(ids)] for i in range(shape.tokens)], device=model.device)
    with torch.no_grad():
        adapter.tokens.copy_(model.embed(wanted).float())
    return adapter


def _continued(shape: AdapterShape, earlier: ResponseAdapter) -> ResponseAdapter:
    """An adapter with the tokens, the reconstruction head and the scales of another, and heads of its own."""
    adapter = ResponseAdapter(
        shape, state_scale=float(earlier.state_scale), embedding_scale=float(earlier.embedding_scale)
    )
    with torch.no_grad():
        adapter.tokens.copy_(earlier.tokens)
    adapter.reconstruction.load_state_dict(earlier.reconstruction.state_dict())
    return adapter


def _examples(prepared: Prepared, rows: Sequence[Response], title: str) -> Examples:
    model, limit = prepared.model, prepared.config.responses.max_new_tokens
    # One token past the limit tells a text that was encoded whole from one that was cut here.
    encoded = model.tokenizer.encode_text([row.response for row in rows], max_tokens=limit + 1)
    end = model.end_ids[:1]  # the tokenizer's own
    responses = [
        [*ids, *end] if _is_whole(row, len(ids), limit) else ids[:limit] for row, ids in zip(rows, encoded, strict=True)
    ]
    targets = _targets(prepared, rows, title).to(model.device)
    refused = torch.tensor([row.refused for row in rows], device=model.device)
    return Examples([row.query for row in rows], responses, targets, refused)


def _is_whole(row: Response, tokens: int, limit: int) -> bool:
    """Whether an answer ended by itself, so that its end token is to be written back as well.

    Rows of older files do not say; there, a text shorter than the limit is taken to have ended. Of an answer that was
    cut that may be wrong: its text is stripped, and may be encoded in fewer tokens than it was written in.
    """
    return tokens < limit if row.ended is None else row.ended and tokens <= limit


def _targets(prepared: Prepared, rows: Sequence[Response], title: str) -> torch.Tensor:
    """Teacher vectors of the responses, kept in the run's folder for the next start."""
    # In their order: the rows of a run are the same set under any seed, and each needs its own target.
    contents = json.dumps([row.response for row in rows])
    key = hashlib.sha256(f"{prepared.teacher.space}\n{contents}".encode()).hexdigest()[:16]
    file = prepared.config.out / f"targets-{title}-{key}.npy"
    try:
        return torch.from_numpy(np.load(file, allow_pickle=False))
    except (OSError, ValueError, EOFError):  # not there yet, or damaged: it can be computed again
        vectors = prepared.teacher.targets([row.response for row in rows])
    partial = file.with_suffix(".partial.npy")
    np.save(partial, vectors, allow_pickle=False)
    partial.replace(file)
    return torch.from_numpy(vectors)


def _fit_refusal(prepared: Prepared) -> FittedRefusal:
    rows = [*prepared.training, *prepared.held_out]
    tokens = refusal_tokens(prepared.model.tokenizer)
    head = RefusalHead(prepared.model.hidden_size, tokens)
    parts: list[RefusalFeatures] = []
    prepared.prefixes.fill([row.query for row in rows], workers=prepared.config.optimiser.workers)
    size = prepared.config.optimiser.batch_size
    with progress_bar(len(rows), "Refusal head") as advance, torch.no_grad():
        for start in range(0, len(rows), size):
            state = prepared.prefixes.get([row.query for row in rows[start : start + size]]).state
            parts.append(head.features(state, prepared.model.logits(state)))
            advance(len(state))
    features = RefusalFeatures(
        torch.cat([part.first_token for part in parts]), torch.cat([part.state for part in parts])
    )
    return fit_refusal(features, np.array([row.refused for row in rows]), tokens)


def _log_refusal(run: Run, refusal: FittedRefusal) -> None:
    # Not under "held_out", which holds what is measured on the queries kept back: all rows are judged here, each by a
    # fit that had not seen it.
    figures = {"refusal_auroc": refusal.auroc, "calibration_error": refusal.calibration.error}
    run.log.write(Position(REFUSAL, 1), method=refusal.method, **figures)


def _record(prepared: Prepared, run: Run, refusal: FittedRefusal, *, seconds: float) -> AdapterRecord:
    model, policy, rows = prepared.model, prepared.policy, prepared.training
    teacher, template = prepared.teacher, model.shared_prefix(policy.system_prompt).template
    return AdapterRecord(
        backbone=_named(model),
        teacher=TeacherRecord(
            name=teacher.name, space=teacher.space, dimension=teacher.dimension, fingerprint=teacher.fingerprint
        ),
        policy=PolicyRecord.of(policy),
        template_sha256=template.sha256,
        template=template.text,
        blend_share=prepared.config.adapter.blend_share,
        shape=run.adapter.shape,
        refusal=RefusalRecord(
            first_tokens=refusal.head.first_tokens, method=refusal.method, held_out_auroc=round(refusal.auroc, 4)
        ),
        training={
            **_training_record(prepared, rows, run, seconds),
            "gate": _gate_record(prepared, refusal),
            "calibration": rounded(refusal.calibration),
        },
    )


def _training_record(prepared: Prepared, rows: Sequence[Response], run: Run, seconds: float) -> dict[str, Any]:
    config = prepared.config
    position = run.checkpoints.position() or Position(JOINT, 0)
    return {
        "queries": len(rows),
        "queries_by_source": dict(sorted(Counter(row.source for row in rows).items())),
        "held_out_queries": len(prepared.held_out),
        "kept_apart": config.queries.keep_apart_from is not None,
        "refused_share": round(sum(row.refused for row in rows) / len(rows), 4),
        "responses_sha256": sha256_of(rows),
        "seed": config.seed,
        "settings": config.model_dump(
            mode="json",
            include={"responses", "adapter", "loss", "optimiser"},
            exclude={"adapter": {"tokens_from", "blend_share"}},  # a place, whose hash stands below; stands above
        ),
        "last_phase": position.phase,
        "last_step": position.step,
        **({} if prepared.answered_by is None else {"answered_by": prepared.answered_by.model_dump()}),
        **({} if prepared.tokens_from is None else {"tokens_from": _origin(prepared.tokens_from, prepared.policy)}),
        "held_out": _evaluation(run),
        "seconds_of_last_start": round(seconds),
        "dtype": prepared.model.precision,
        "versions": {name: version(name) for name in ("torch", "transformers", "sentence-transformers")},
        "processor": platform.processor() or platform.machine(),
    }


def _origin(adapter: LoadedAdapter, policy: ResponsePolicy) -> dict[str, Any]:
    """What a record says of the adapter whose tokens it has: its hash, and what they were trained on.

    Tokens that were taken over there already are those of the adapter that they came from. A policy stands there where
    it is not that of the run.
    """
    training, trained_under = adapter.record.training, adapter.record.policy
    other = {} if trained_under.policy.sha256 == policy.sha256 else {"policy": trained_under.name}
    if "tokens_from" in training and not training["settings"]["optimiser"]["epochs"]:
        earlier: dict[str, Any] = training["tokens_from"]
        return {**other, **earlier}
    kept = ("queries", "responses_sha256", "seed", "answered_by")
    return {"adapter": adapter.fingerprint, **other, **{name: training[name] for name in kept if name in training}}


def _gate_record(prepared: Prepared, refusal: FittedRefusal) -> dict[str, Any]:
    rows = [*prepared.training, *prepared.held_out]  # as the head was fitted
    return gate_shares(refusal.probabilities, np.array([row.refused for row in rows]), [row.source for row in rows])


def _evaluation(run: Run) -> dict[str, Any] | None:
    """Alignment of the head that is kept, and the reconstruction loss of the phase that trained what decides it."""
    joint, heads = run.log.held_out(JOINT), run.log.held_out(HEADS)
    if not heads:
        return joint[-1] if joint else None
    best = run.checkpoints.best.position()
    kept = (run.log.held_out_at(best) if best else None) or heads[-1]
    return {**kept, "reconstruction": joint[-1]["reconstruction"] if joint else kept["reconstruction"]}
