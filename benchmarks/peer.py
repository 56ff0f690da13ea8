"""Our trainer against the paper's own classes (llm2vec-gen 0.1.3): same backbone, responses, teacher vectors and seed.

    python benchmarks/peer.py benchmarks/adapters/qwen2.5-coder-0.5b-instruct-tokens.yaml --steps 200 --out runs/peer

The peer's wheel is downloaded without its dependencies (or given with ``--wheel``), checked and unpacked; only the
process that trains it ever has it on its path. Each side runs in a process of its own, one after the other, and writes
its curve: seconds of training, held-out alignment, own-response retrieval and reconstruction loss. The result is one
JSON file with both curves, times, peak memory and the time each needs to reach what either ends at.

The peer gets the published settings (AdamW, 100 warm-up steps, linear decay, batch of 32, ten compression tokens, both
losses at weight one) and its own collator, model and alignment loss; the training loop, which its wheel leaves out, is
written after its training script. The teacher's vectors are given to both, so that neither pays for the teacher.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import random
import resource
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from safe_retrieval.audit.provenance import provenance, source_state
from safe_retrieval.backbone.language_model import native_dtype
from safe_retrieval.errors import ConfigError, DownloadError, SafeRetrievalError
from safe_retrieval.models.fetch import resolve
from safe_retrieval.training import trainer
from safe_retrieval.training.checkpoint import Position
from safe_retrieval.training.config import load_config
from safe_retrieval.training.evaluation import evaluate
from safe_retrieval.training.log import TrainingLog

REPOSITORY = Path(__file__).resolve().parent.parent
PEER = "llm2vec-gen==0.1.3"
PEER_SHA256 = "582f4e05a9cf6d19ccba17ff73e02d4d4b6d365faaa3d090d12337eae5078366"
COMPRESSION_TOKENS = 10
LAST = ("cosine", "reconstruction")
"""The held-out figures of which the time to reach them is compared."""


@dataclass(frozen=True, slots=True)
class Job:
    """What both sides are given.

    Attributes:
        config: the training configuration, absolute.
        out: folder of this comparison.
        steps: optimiser steps of the peer.
        evaluate_every: steps between its evaluations.
        batch_size: of the peer.
        learning_rate: of the peer.
        evaluated: held-out queries that both evaluate on.
    """

    config: str
    out: str
    steps: int
    evaluate_every: int
    batch_size: int
    learning_rate: float
    evaluated: int


def get_wheel(out: Path, wheel: Path | None) -> Path:
    """The peer's unpacked wheel.

    Raises:
        DownloadError: it cannot be downloaded, or is not the file that is expected.
    """
    if wheel is None:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", str(out), PEER]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        found = sorted(out.glob("llm2vec_gen-*.whl"))
        if done.returncode or not found:
            raise DownloadError(f"{PEER} cannot be downloaded: {done.stderr.strip() or 'no wheel came'}; give --wheel")
        wheel = found[0]
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if digest != PEER_SHA256:
        raise DownloadError(f"{wheel}: expected the wheel of {PEER} (SHA-256 {PEER_SHA256}), got {digest}")
    folder = out / "peer-package"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)  # its hash was checked
    return folder


def run_ours(job: Job) -> dict[str, Any]:
    """Train with our trainer; the curve is its log, with the seconds at which each evaluation came."""
    config = load_config(Path(job.config))
    ours = Path(job.out) / "ours"
    # Prefixes of its own: to compute them is part of what is timed.
    apart = {"out": ours, "responses_file": config.responses_path, "prefixes": ours / "prefixes"}
    config = config.model_copy(update=apart)
    prepared = trainer.prepare(config)
    write_material(job, prepared)
    clock = _Clock()
    with (
        patch.object(trainer, "prepare", lambda *_, **__: prepared),  # models are loaded once, as at the peer's
        patch.object(TrainingLog, "__init__", clock.starting(TrainingLog.__init__)),
        patch.object(TrainingLog, "write", clock.noting(TrainingLog.write)),
    ):
        trainer.train(config)
    return {
        "curve": clock.rows,
        "seconds": clock.now(),
        "peak_megabytes": peak_megabytes(),
        "settings": config.model_dump(mode="json", include={"adapter", "loss", "optimiser", "seed"}),
    }


class _Clock:
    """Notes every evaluation of a run with the seconds since its log was opened, right before the first step.

    The prefixes of the queries are computed after that, and evaluations take their time: both count against us.
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self._start = 0.0

    def now(self) -> float:
        """Seconds since the log was opened."""
        return time.perf_counter() - self._start

    def starting(self, begin: Callable[..., None]) -> Callable[..., None]:
        """``begin``, and the clock starts."""

        def started(log: TrainingLog, *arguments: Any, **options: Any) -> None:
            begin(log, *arguments, **options)
            self._start = time.perf_counter()

        return started

    def noting(self, write: Callable[..., None]) -> Callable[..., None]:
        """``write``, and evaluations are noted."""

        def noted(log: TrainingLog, position: Position, **values: Any) -> None:
            if "held_out" in values:
                phase = {"phase": position.phase, "step": position.step}
                self.rows.append({"seconds": self.now(), **phase, **values["held_out"]})
            write(log, position, **values)

        return noted


def write_material(job: Job, prepared: Any) -> None:
    """Queries, responses and teacher vectors for the peer: those that our run trains and evaluates on."""
    out = Path(job.out)
    for name, rows in (("training", prepared.training), ("held-out", prepared.held_out[: job.evaluated])):
        np.save(out / f"{name}.npy", prepared.teacher.targets([row.response for row in rows]), allow_pickle=False)
        lines = (json.dumps({"query": row.query, "response": row.response}) + "\n" for row in rows)
        (out / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


def run_peer(job: Job, package: Path) -> dict[str, Any]:
    """Train with the peer's classes."""
    sys.path.insert(0, str(package))
    config = load_config(Path(job.config))
    torch.manual_seed(config.seed)
    side = _PeerSide(job, config.backbone)
    optimiser = torch.optim.AdamW([own for own in side.model.parameters() if own.requires_grad], lr=job.learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: warm_linear(step, job.steps))
    start, curve = time.perf_counter(), []
    for step, rows in enumerate(batches(len(side.training), job, seed=config.seed), start=1):
        optimiser.zero_grad()
        loss = side.loss(rows)
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % job.evaluate_every == 0 or step == job.steps:
            paused = time.perf_counter()
            figures = side.evaluate()
            curve.append({"seconds": paused - start, "step": step, "loss": float(loss.detach()), **figures})
            start += time.perf_counter() - paused  # evaluation is not training
    settings = {name: value for name, value in asdict(job).items() if name not in {"config", "out"}}  # no paths
    return {"curve": curve, "seconds": curve[-1]["seconds"], "peak_megabytes": peak_megabytes(), "settings": settings}


class _PeerSide:
    """The peer's model, collator and data."""

    def __init__(self, job: Job, backbone: str) -> None:
        dataset = importlib.import_module("llm2vec_gen.dataset")
        self._mse = importlib.import_module("llm2vec_gen.losses").compute_mse_loss
        self._sample = dataset.DataSample
        self.training, self.targets = _material(job, "training")
        self.held_out, self.held_out_targets = _material(job, "held-out")
        special = [f"<compression_{i}>" for i in range(COMPRESSION_TOKENS)]
        # As ours computes; the file's own is bfloat16, which may be emulated here. The heads are float32 in any case.
        self._precision = native_dtype(torch.device("cpu"))
        self.model, tokenizer = _peer_model(backbone, special, int(self.targets.shape[1]), self._precision)
        self._collate = dataset.CustomCollator(
            tokenizer=tokenizer, special_tokens=special, padding="longest", max_length=512
        )

    def loss(self, rows: Sequence[int]) -> Any:
        """Reconstruction plus alignment, weight one each, as its training script adds them."""
        states, outputs = self._forward([self.training[row] for row in rows])
        targets = torch.from_numpy(self.targets[list(rows)]).to(states.device, states.dtype)
        return outputs["loss"] + self._mse(states.mean(dim=1), targets, mse_loss_weight=1.0)[0]

    def evaluate(self) -> dict[str, float | None]:
        """The same figures as ours, on the same held-out queries."""
        vectors, losses = [], []
        with torch.no_grad():
            for start in range(0, len(self.held_out), 32):
                states, outputs = self._forward(self.held_out[start : start + 32])
                vectors.append(states.mean(dim=1).float().cpu())
                losses.append(float(outputs["loss"]))
        targets = torch.from_numpy(self.held_out_targets)
        reconstruction = sum(losses) / len(losses)
        return evaluate(torch.cat(vectors), targets, reconstruction)._asdict()

    def _forward(self, rows: Sequence[Mapping[str, str]]) -> Any:
        samples = [self._sample(id_=i, question=row["query"], answer=row["response"]) for i, row in enumerate(rows)]
        inputs = self._collate(samples)
        names = ("query_input_ids", "query_attention_mask", "answer_input_ids", "answer_attention_mask", "labels")
        with torch.autocast("cpu", self._precision, enabled=self._precision is torch.bfloat16):
            return self.model(**{name: inputs[name] for name in names})


def _peer_model(backbone: str, special: list[str], dimension: int, precision: torch.dtype) -> tuple[Any, Any]:
    """Encoder with trained special tokens, frozen decoder and both heads, put together as its training script does."""
    models: Any = importlib.import_module("llm2vec_gen.models")
    peft: Any = importlib.import_module("peft")
    folder = resolve(backbone).path
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    tokenizer.padding_side = "left"
    tokenizer.add_special_tokens({"additional_special_tokens": special})
    decoder = AutoModelForCausalLM.from_pretrained(folder, dtype=precision).requires_grad_(False)
    encoder = AutoModel.from_pretrained(folder, dtype=precision)
    encoder.resize_token_embeddings(len(tokenizer))
    encoder.config.num_special_tokens = len(special)
    special_ids = tokenizer.convert_tokens_to_ids(special)
    encoder = peft.get_peft_model(encoder, peft.TrainableTokensConfig(token_indices=special_ids))
    width = encoder.config.hidden_size
    model = models.EncoderDecoderModel(
        encoder_model=encoder,
        decoder_model=decoder,
        encoding_mode=f"last_{len(special)}_tokens",
        reconstruction_mlp=models.ProjectionModel(width, width),
        alignment_mlp=models.ProjectionModel(width, dimension),
    )
    return model, tokenizer


def _material(job: Job, name: str) -> tuple[list[dict[str, str]], Any]:
    lines = (Path(job.out) / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines], np.load(Path(job.out) / f"{name}.npy", allow_pickle=False)


def batches(count: int, job: Job, *, seed: int) -> Iterator[list[int]]:
    """Rows of each step: shuffled anew every epoch."""
    generator = random.Random(seed)  # noqa: S311  # reproducible, not a secret
    left: list[int] = []
    for _ in range(job.steps):
        if len(left) < job.batch_size:
            left = generator.sample(range(count), count)
        yield left[: job.batch_size]
        left = left[job.batch_size :]


def warm_linear(step: int, steps: int, *, warmup: int = 100) -> float:
    """Factor on the learning rate: up over the warm-up (at most half of the steps), then down to zero."""
    warmup = max(1, min(warmup, steps // 2))
    return (step + 1) / warmup if step < warmup else max(0.0, (steps - step) / max(1, steps - warmup))


def peak_megabytes() -> float:
    """The most memory that this process has held."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (2**20 if sys.platform == "darwin" else 2**10)


def time_to_equal(ours: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Seconds at which each side is first as good as ours ends, and as the peer ends, by figure and in all of them.

    Seconds are ``None`` where a side never is. ``share`` is ours over the peer's; where the peer never is as good, it
    is ``None``, and ``share_at_most`` is ours over all the time that the peer had.
    """
    return {end: _compared(_ends(curve), ours, theirs) for end, curve in (("ours", ours), ("peer", theirs))}


def _ends(curve: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The last value of each figure; the reconstruction is not measured again once heads are all that changes."""
    return {name: values[-1] for name in LAST if (values := [row[name] for row in curve if row.get(name) is not None])}


def _compared(
    goals: Mapping[str, float], ours: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, goal in goals.items():
        found[name] = {"goal": goal, "ours": _first(ours, name, goal), "peer": _first(theirs, name, goal)}
    sides = {side: [times[side] for times in found.values()] for side in ("ours", "peer")}
    found["all"] = {side: None if None in times else max(times) for side, times in sides.items()}
    for times in found.values():
        mine, other, whole = times["ours"], times["peer"], theirs[-1]["seconds"]
        times["share"] = None if mine is None or other is None else mine / other
        times["share_at_most"] = None if mine is None or other is not None else mine / whole
    return found


def _first(curve: Sequence[Mapping[str, Any]], name: str, goal: float) -> float | None:
    sign = 1 if name == "cosine" else -1
    good = (row for row in curve if row.get(name) is not None and sign * row[name] >= sign * goal)
    return next((float(row["seconds"]) for row in good), None)


def _claim(job: Job, out: Path) -> None:
    """Make the folder of a comparison, or go on in it with the sides that are not done."""
    file = out / "job.json"
    if file.exists() and json.loads(file.read_text(encoding="utf-8")) != asdict(job):
        raise ConfigError(f"{out} holds a comparison with other settings; delete it, or give another --out")
    if (out / "ours").exists() and not (out / "ours.json").exists():
        raise ConfigError(f"{out / 'ours'} is there already, and a run that goes on has no whole curve; delete it")
    out.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(asdict(job)), encoding="utf-8")


def compare(job: Job, result: Path, wheel: Path | None) -> None:
    """Run both sides, each in a process of its own, and write the result."""
    out = Path(job.out)
    _claim(job, out)
    package = get_wheel(out, wheel)
    file = out / "job.json"
    sides = {}
    for side in ("ours", "peer"):
        if (out / f"{side}.json").is_file():  # a run before this one got so far
            sides[side] = json.loads((out / f"{side}.json").read_text(encoding="utf-8"))
            continue
        command = [sys.executable, str(Path(__file__)), "--side", side, "--job", str(file), "--package", str(package)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            raise ConfigError(f"the {side} side ended with exit code {done.returncode}; its message stands above")
        sides[side] = json.loads((out / f"{side}.json").read_text(encoding="utf-8"))
    equal = time_to_equal(sides["ours"]["curve"], sides["peer"]["curve"])
    content = {"format": 1, "package": PEER, **sides, "time_to_equal": equal, "provenance": provenance({})}
    result.parent.mkdir(parents=True, exist_ok=True)
    result.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(equal, indent=1))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; 0 done, 2 an error."""
    parser = argparse.ArgumentParser(description="Our trainer against the paper's own classes.")
    parser.add_argument("config", nargs="?", type=Path, help="training configuration")
    parser.add_argument("--steps", type=int, default=200, help="optimiser steps of the peer")
    parser.add_argument("--evaluate-every", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--evaluated", type=int, default=256, help="held-out queries that both evaluate on")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "runs" / "peer")
    parser.add_argument("--result", type=Path, default=REPOSITORY / "benchmarks" / "results" / "peer.json")
    parser.add_argument("--wheel", type=Path, help="the peer's wheel, where it cannot be downloaded")
    parser.add_argument("--side", choices=("ours", "peer"), help=argparse.SUPPRESS)
    parser.add_argument("--job", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--package", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    source_state()  # before hours of work, not after them
    try:
        if options.side:
            job = Job(**json.loads(options.job.read_text(encoding="utf-8")))
            done = run_ours(job) if options.side == "ours" else run_peer(job, options.package)
            (Path(job.out) / f"{options.side}.json").write_text(json.dumps(done), encoding="utf-8")
            return 0
        if options.config is None:
            parser.error("expected a training configuration")
        numbers = options.steps, options.evaluate_every, options.batch_size, options.learning_rate, options.evaluated
        job = Job(str(options.config.resolve()), str(options.out.resolve()), *numbers)
        compare(job, options.result, options.wheel)
    except (SafeRetrievalError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
