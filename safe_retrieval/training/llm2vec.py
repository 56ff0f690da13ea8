"""An unsupervised teacher of our own: a causal language model made into a text encoder, as LLM2Vec does it.

Attention becomes bidirectional; LoRA weights learn first to predict masked tokens (each from the position before it, as
the model was trained to), then to keep a text's two noisy readings together and apart from other texts (SimCSE). The
merged weights are an ordinary model folder, which ``llm2vec:FOLDER`` names as a teacher. Source: BehnamGhader et al.,
"LLM2Vec: Large Language Models Are Secretly Powerful Text Encoders" (arXiv 2404.05961), sections 2.2 and 2.3.

One set of LoRA weights goes through both phases: SimCSE's noise is LoRA's own dropout, which is silent on weights that
have learned nothing yet. Everything random is drawn from seed, phase and step, so a resumed run follows the loss curve
of one that was not stopped. A batch holds texts of similar length: in random ones most of the work is padding.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import torch
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn
from torch.nn import functional

from safe_retrieval._extras import require
from safe_retrieval._paths import placed
from safe_retrieval.backbone.language_model import LanguageModel
from safe_retrieval.encoder.pooled import masked_mean, text_states
from safe_retrieval.encoder.progress import progress_bar
from safe_retrieval.errors import ConfigError, TrainingError
from safe_retrieval.models.naming import folder_or_name
from safe_retrieval.training.checkpoint import Checkpoints, Position
from safe_retrieval.training.lock import only_writer
from safe_retrieval.training.log import TrainingLog
from safe_retrieval.training.queries import evaluation_texts, read_queries, without
from safe_retrieval.training.responses import read_responses

MASKED, CONTRAST = "masked-next-token", "simcse"
PHASES = (MASKED, CONTRAST)
"""In the order in which they run and stand in the log."""

# Batches whose texts are drawn together, before those of similar length are put into one.
_DRAWN_TOGETHER = 16
# Token positions of a forward pass, padding included, whose activations are kept for the backward pass. At 0.5B,
# 8,192 of them did not fit into 24 GB. Of larger batches they are computed again, layer by layer.
_KEPT_CELLS = 2_048

# Settings that do not tell one run from another: what decides no weight, and names and paths, for what they lead to is
# hashed in their place.
_NOT_HASHED = {"out", "checkpoint_steps", "backbone", "files", "responses_file", "keep_apart_from", "count"}

Loss: TypeAlias = Callable[[Sequence[Sequence[int]], random.Random], Tensor]
"""Token ids of a batch and a source of chance, to a scalar."""


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PhaseSettings(_Settings):
    """One phase: AdamW with linear warm-up and linear decay to zero."""

    steps: int = Field(default=500, ge=0)
    batch_size: int = Field(default=32, ge=2)
    learning_rate: float = Field(default=1e-4, gt=0)
    warmup_steps: int = Field(default=20, ge=0)


class Llm2VecConfig(_Settings):
    """One run.

    Attributes:
        backbone: catalog name, hub id or folder.
        out: folder of the run; the merged model lies in ``out/model``.
        files: JSON lines or text files of texts.
        responses_file: a responses file whose responses are texts too: what a teacher will have to embed.
        count: how many texts; ``None`` takes all.
        keep_apart_from: an evaluation folder whose texts may not be trained on.
        max_tokens: of a text.
        mask_share: share of the tokens that are masked.
        temperature: of SimCSE.
        checkpoint_steps: steps between checkpoints.
    """

    backbone: str
    out: Path
    files: tuple[Path, ...] = ()
    responses_file: Path | None = None
    count: int | None = Field(default=None, gt=0)
    keep_apart_from: Path | None = None
    seed: int = 0
    max_tokens: int = Field(default=128, ge=8)
    lora_rank: int = Field(default=16, gt=0)
    lora_alpha: int = Field(default=32, gt=0)
    lora_dropout: float = Field(default=0.2, gt=0, lt=1)
    mask_share: float = Field(default=0.2, gt=0, lt=1)
    temperature: float = Field(default=0.05, gt=0)
    masked: PhaseSettings = PhaseSettings()
    contrast: PhaseSettings = PhaseSettings()
    checkpoint_steps: int = Field(default=50, gt=0)


def load_llm2vec_config(path: Path) -> Llm2VecConfig:
    """Read a YAML file; its paths are treated as those of a training configuration.

    Raises:
        ConfigError: it cannot be read, or a field is unknown or wrong; the message names it.
    """
    try:
        config = Llm2VecConfig.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, RecursionError, yaml.YAMLError) as error:
        raise ConfigError(f"expected a YAML configuration at {path}: {error}") from error
    except ValidationError as error:
        lines = [f"{'.'.join(str(part) for part in e['loc']) or 'the file'}: {e['msg']}" for e in error.errors()]
        raise ConfigError(f"{path}: " + "; ".join(lines)) from error
    paths = {name: getattr(config, name) for name in ("out", "responses_file", "keep_apart_from")}
    update: dict[str, Any] = {name: placed(path.parent, own) for name, own in paths.items() if own is not None}
    update["backbone"] = folder_or_name(config.backbone, partial(placed, path.parent))
    return config.model_copy(update={**update, "files": tuple(placed(path.parent, file) for file in config.files)})


def train_llm2vec(config: Llm2VecConfig, *, offline: bool = False) -> Path:
    """Carry a run out, or go on with it; returns the folder of the merged model, ``<out>/model``.

    Raises:
        MissingExtraError: peft is not installed.
        TrainingError: the run's folder belongs to other settings, another process is training there, or there are fewer
            texts than a batch holds.
        ModelError: the backbone cannot be had.
        DataError: a file of texts is broken.
    """
    model = LanguageModel.load(config.backbone, offline=offline, packed=False)
    rows = _token_rows(model, config)
    peft_model = add_lora(model, config)
    config.out.mkdir(parents=True, exist_ok=True)
    with only_writer(config.out / "train.lock", f"the run in {config.out}"):
        return _trained(model, peft_model, rows, config)


def _trained(model: LanguageModel, peft_model: Any, rows: list[list[int]], config: Llm2VecConfig) -> Path:
    """Both phases, and the merged model's folder. The run's lock must be held."""
    trained = nn.ParameterList([own for own in peft_model.parameters() if own.requires_grad])
    identity = f"{config.model_dump_json(exclude=_NOT_HASHED)}\n{model.fingerprint}\n{rows}"
    checkpoints = Checkpoints(config.out, hashlib.sha256(identity.encode()).hexdigest())
    resumed = checkpoints.position()
    log = TrainingLog(config.out / "log.jsonl", resumed, PHASES)
    run = _Run(peft_model, trained, rows, config, checkpoints, log)
    mask_id = model.tokenizer.encode_text(["_"], max_tokens=1)[0][0]
    losses: dict[str, Loss] = {
        MASKED: lambda batch, chance: masked_loss(model, batch, chance, share=config.mask_share, mask_id=mask_id),
        CONTRAST: lambda batch, _: contrast_loss(model, batch, temperature=config.temperature),
    }
    for phase, settings in ((MASKED, config.masked), (CONTRAST, config.contrast)):
        if resumed is not None and PHASES.index(resumed.phase) > PHASES.index(phase):
            continue
        start = resumed.step if resumed is not None and resumed.phase == phase else 0
        _run_phase(run, phase, settings, losses[phase], start)
    if resumed is not None and resumed == Position(CONTRAST, config.contrast.steps):
        checkpoints.restore(trained, None)
    return _save(model, peft_model, config.out / "model")


def add_lora(model: LanguageModel, config: Llm2VecConfig) -> Any:
    """LoRA weights in all linear layers but the output layer; the model's own weights stay frozen.

    Raises:
        MissingExtraError: peft is not installed.
    """
    peft: Any = require("peft", extra="peft", purpose="training an LLM2Vec-style teacher")
    torch.manual_seed(config.seed)
    return peft.get_peft_model(
        model.model,
        peft.LoraConfig(
            r=config.lora_rank,
            lora_alpha=config.lora_alpha,
            lora_dropout=config.lora_dropout,
            target_modules="all-linear",
            bias="none",
        ),
    )


def masked_loss(
    model: LanguageModel, rows: Sequence[Sequence[int]], chance: random.Random, *, share: float, mask_id: int
) -> Tensor:
    """Cross-entropy in nats a masked token, each predicted from the state of the position before it.

    Args:
        model: attends in both directions.
        rows: token ids, at least two a row; the first of a row is never masked, since nothing stands before it.
        chance: draws what is masked; at least one token a row.
        share: of the tokens that are masked.
        mask_id: id that stands in their place.
    """
    places = [[place for place in range(1, len(row)) if chance.random() < share] for row in rows]
    places = [own or [chance.randrange(1, len(row))] for own, row in zip(places, rows, strict=True)]
    shown = [
        [mask_id if place in set(own) else token for place, token in enumerate(row)]
        for own, row in zip(places, rows, strict=True)
    ]
    states, _ = text_states(model, shown, bidirectional=True)
    row_of = torch.tensor([i for i, own in enumerate(places) for _ in own], device=states.device)
    column = torch.tensor([place for own in places for place in own], device=states.device)
    truth = torch.tensor([rows[i][place] for i, own in enumerate(places) for place in own], device=states.device)
    return functional.cross_entropy(model.logits(states[row_of, column - 1]).float(), truth)


def contrast_loss(model: LanguageModel, rows: Sequence[Sequence[int]], *, temperature: float) -> Tensor:
    """Unsupervised SimCSE: each text's two readings under dropout, against those of the other texts of the batch.

    Source: Gao, Yao and Chen, "SimCSE" (arXiv 2104.08821), equation 4.
    """
    states, real = text_states(model, [*rows, *rows], bidirectional=True)
    first, second = functional.normalize(masked_mean(states, real), dim=-1).chunk(2)
    return functional.cross_entropy(first @ second.T / temperature, torch.arange(len(rows), device=first.device))


@dataclass(frozen=True)
class _Run:
    """What both phases share."""

    model: Any
    trained: nn.ParameterList
    rows: list[list[int]]
    config: Llm2VecConfig
    checkpoints: Checkpoints
    log: TrainingLog


def _run_phase(run: _Run, phase: str, settings: PhaseSettings, loss: Loss, start: int) -> None:
    optimiser = torch.optim.AdamW(run.trained, lr=settings.learning_rate)
    readings = 2 if phase == CONTRAST else 1
    if start:
        run.checkpoints.restore(run.trained, optimiser)
    run.model.train()
    with progress_bar(settings.steps - start, phase, show=None) as advance:
        for step in range(start, settings.steps):
            chance = random.Random(f"{run.config.seed} {phase} {step}")  # noqa: S311  # reproducible, not a secret
            torch.manual_seed(chance.getrandbits(63))
            batch = _batch(run, phase, settings.batch_size, step)
            for group in optimiser.param_groups:
                group["lr"] = settings.learning_rate * _schedule(step, settings)
            optimiser.zero_grad()
            _recompute(run.model, readings * len(batch) * max(map(len, batch)) > _KEPT_CELLS)
            value = loss(batch, chance)
            value.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(run.trained, 1.0)
            optimiser.step()
            position = Position(phase, step + 1)
            run.log.write(position, loss=round(float(value.detach()), 6))
            if position.step % run.config.checkpoint_steps == 0 or position.step == settings.steps:
                run.checkpoints.save(position, run.trained, optimiser)
            advance(1)
    run.model.eval()


def _recompute(model: Any, on: bool) -> None:
    """Whether the backward pass computes activations again rather than finding them kept."""
    action = "enable" if on else "disable"
    # Transformers 5 renamed it on the way; the old name is to go with version 6.
    named = (f"{kind}_checkpointing_{action}" for kind in ("activation", "gradient"))
    next(filter(None, (getattr(model, name, None) for name in named)))()


def _batch(run: _Run, phase: str, size: int, step: int) -> list[list[int]]:
    """The rows of a step: of those drawn for several steps at once, some of similar length."""
    draw, place = divmod(step, _DRAWN_TOGETHER)
    chance = random.Random(f"{run.config.seed} {phase} draw {draw}")  # noqa: S311  # reproducible, not a secret
    drawn = sorted(chance.sample(run.rows, min(len(run.rows), size * _DRAWN_TOGETHER)), key=len)
    batches = len(drawn) // size
    order = chance.sample(range(batches), batches)  # short ones first would be a curriculum
    left_over = chance.randrange(len(drawn) - batches * size + 1)
    start = left_over + order[place % batches] * size
    return drawn[start : start + size]


def _schedule(step: int, settings: PhaseSettings) -> float:
    """Factor on the learning rate: linear up over the warm-up, linear down to zero after the last step."""
    if step < settings.warmup_steps:
        return (step + 1) / settings.warmup_steps
    return (settings.steps - step) / max(1, settings.steps - settings.warmup_steps)


def _token_rows(model: LanguageModel, config: Llm2VecConfig) -> list[list[int]]:
    """Token ids of the texts, at least two a row, in an order drawn from the seed."""
    found = read_queries(config.files)
    if config.keep_apart_from is not None:
        found = without(found, evaluation_texts(config.keep_apart_from))
    texts = [query.text for query in found]
    if config.responses_file is not None:
        texts += [row.response for row in read_responses(config.responses_file)[1] if row.response]
    texts = list(dict.fromkeys(texts))
    random.Random(config.seed).shuffle(texts)  # noqa: S311  # reproducible, not a secret
    rows = model.tokenizer.encode_text(texts[: config.count], max_tokens=config.max_tokens)
    usable = [row for row in rows if len(row) > 1]
    needed = max(config.masked.batch_size, config.contrast.batch_size)
    if len(usable) < needed:
        raise TrainingError(f"expected at least {needed} texts of two tokens or more, a batch, got {len(usable)}")
    return usable


def _save(model: LanguageModel, peft_model: Any, folder: Path) -> Path:
    """Merge LoRA into the weights and write an ordinary model folder, the weights last."""
    merged = peft_model.merge_and_unload().requires_grad_(False)
    partial = folder.with_name(f"{folder.name}.partial")
    merged.save_pretrained(partial, safe_serialization=True)
    model.tokenizer.trusted.save_pretrained(partial)
    if folder.exists():
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
    partial.rename(folder)
    return folder
