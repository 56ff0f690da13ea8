"""The two phases that optimise, as loops over the same few parts; the refusal head is fitted between them."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from safe_retrieval.encoder.adapter import Beside, HeadShape
from safe_retrieval.encoder.progress import progress_bar
from safe_retrieval.errors import TrainingError
from safe_retrieval.training import losses
from safe_retrieval.training.checkpoint import Checkpoints, Position
from safe_retrieval.training.config import AlignmentLoss, LossSettings, OptimiserSettings
from safe_retrieval.training.evaluation import Evaluation, evaluate
from safe_retrieval.training.log import TrainingLog
from safe_retrieval.training.parallel import GradientWorkers
from safe_retrieval.training.ridge import fit_ridge

if TYPE_CHECKING:
    from safe_retrieval.backbone.language_model import LanguageModel, Prefix
    from safe_retrieval.encoder.adapter import ResponseAdapter
    from safe_retrieval.training.prefix_cache import PrefixCache

JOINT, HEADS, REFUSAL = "joint", "heads", "refusal"
PHASES = (JOINT, HEADS, REFUSAL)
"""In the order in which they run and stand in the log.

``refusal`` has no optimiser and no checkpoint: its head is fitted at every start, so a resumed run cuts its line off
the log and writes it again, at the end.
"""

_SCALE_ROWS = 256  # training queries on which the spread of states and values is measured
_TINY = 1e-6  # of a layer that says the same of every query
_RECONSTRUCTION_ROWS = 64  # held-out rows on which reconstruction is evaluated: it costs a pass over the response


class Examples(NamedTuple):
    """n queries and what is known of their responses.

    Attributes:
        queries: the texts.
        responses: token ids, end token included.
        targets: (n, D) float32, the teacher's vectors.
        refused: (n,) bool, whether the response refuses.
    """

    queries: list[str]
    responses: list[list[int]]
    targets: Tensor
    refused: Tensor


class Run(NamedTuple):
    """What both phases work with."""

    model: LanguageModel
    adapter: ResponseAdapter
    prefixes: PrefixCache
    training: Examples
    held_out: Examples
    loss: LossSettings
    optimiser: OptimiserSettings
    checkpoints: Checkpoints
    log: TrainingLog
    seed: int
    checkpoint_steps: int


class Report(NamedTuple):
    """Losses of a slice of a batch, unweighted; ``None`` where a loss was not computed."""

    alignment: float
    contrast: float | None
    reconstruction: float | None


class _Phase(NamedTuple):
    """What tells one phase from the other."""

    name: str
    parameters: list[nn.Parameter]
    learning_rate: float
    epochs: float
    workers: int
    loss: Callable[[int, Sequence[int]], tuple[Tensor, Report]]
    evaluate: Callable[[], Evaluation]


def joint_phase(run: Run, start: int) -> None:
    """Train tokens and heads together, from optimiser step ``start`` of this phase on."""

    def loss(epoch: int, rows: Sequence[int]) -> tuple[Tensor, Report]:
        projected = run.adapter.project(_states(run, run.prefixes.get([run.training.queries[i] for i in rows])))
        total, report = _alignment(run, projected, run.training.targets[list(rows)])
        chosen = _reconstructed(run, rows, epoch)
        if not chosen:
            return total, report
        soft = run.adapter.soft_prompt(projected[[place for place, _ in chosen]])
        responses = [run.training.responses[row][: run.loss.reconstruction_tokens] for _, row in chosen]
        value = losses.reconstruction(run.model, soft, responses)
        return total + run.loss.reconstruction_weight * value, report._replace(reconstruction=value.item())

    settings = run.optimiser
    if settings.epochs == 0:
        return
    later = {id(linear.weight) for linear in run.adapter.beside().values()}  # solved for; until then they read nothing
    parameters = [parameter for parameter in run.adapter.parameters() if id(parameter) not in later]
    phase = _Phase(
        JOINT, parameters, settings.learning_rate, settings.epochs, settings.workers, loss, lambda: _evaluate_joint(run)
    )
    seen = _order(run, epoch=0)[: _steps(run, settings.epochs) * settings.batch_size]  # all of them from one epoch up
    _fill_prefixes(run, [run.training.queries[row] for row in seen])
    _optimise(run, phase, start)


def head_phase(run: Run, start: int, foreseen: Tensor) -> None:
    """Train the alignment head on states that stand still, from optimiser step ``start`` of this phase on.

    A ``ridge`` head has a formula and takes one step. For the others, many epochs on constant inputs may end past the
    best one, so the adapter is left with the head of the epoch that was best on the held-out queries. The
    reconstruction head stands still too: it is what makes an embedding readable, and the alignment head reads what it
    gives.

    Args:
        run: what to work with.
        start: optimiser steps of this phase that are done.
        foreseen: (n,) refusal probabilities of the held-out queries, by fits that had not seen them.
    """
    best = run.checkpoints.best
    if start == 0:
        best.discard()  # of an earlier run
    _fill_prefixes(run, run.training.queries)
    if run.adapter.shape.head is HeadShape.RIDGE:
        if start == 0:
            _solve_head(run, foreseen)
        return
    total = _steps_an_epoch(run) * run.optimiser.head_epochs
    if start < total and not _patience(run, HEADS).is_over:
        _train_head(run, start)
    if best.position() is not None:
        best.restore(run.adapter, None)


@torch.no_grad()
def _solve_head(run: Run, foreseen: Tensor) -> None:
    """Of a mixture on the answers alone; what a refusal looks like is the mean of those in training.

    Raises:
        TrainingError: all refusals are held out.
    """
    adapter, training = run.adapter, run.training
    rows = torch.arange(len(training.queries))
    if adapter.shape.mixture:
        if not training.refused.any():
            raise TrainingError("expected a refusal among the training queries, but all of them are held out; add more")
        adapter.refusal.copy_(training.targets[training.refused].mean(0))
        rows = rows[~training.refused.cpu()]
    maps = adapter.beside()
    scales = _scales(run) if maps else {}
    queries = [training.queries[row] for row in rows]
    widths = [linear.in_features for linear in (adapter.joined, *maps.values())]
    read = _mapped_states(run, queries, sum(widths), scales)
    fit = fit_ridge(read, training.targets[rows.to(training.targets.device)])
    of_states, *others = torch.split(fit.weight, widths, dim=1)
    adapter.joined.weight.copy_(of_states)
    adapter.joined.bias.copy_(fit.bias)
    for (name, linear), weight in zip(maps.items(), others, strict=True):
        linear.weight.copy_(weight / scales[name])
    position = Position(HEADS, 1)
    run.log.write(position, penalty=fit.penalty, left_out_cosine=fit.cosine)
    run.log.write(position, epoch=1, held_out=_evaluate_solved(run, foreseen)._asdict())
    run.checkpoints.save(position, run.adapter)


def _scales(run: Run) -> dict[str, Tensor]:
    """By what is read beside the states, what it is divided by so that it varies as much as the states do.

    The attention values of each layer by a number of their own: layers differ by orders of magnitude, and a ridge
    penalty is one for all.
    """
    read = _projected(run, run.training.queries[:_SCALE_ROWS], "Scales of what is read")
    states = read.projected.flatten(1).std(0).square().mean().sqrt()
    scales: dict[str, Tensor] = {}
    for name, columns in read.beside._asdict().items():
        if columns is not None:
            parts = columns.view(len(columns), run.model.layers if name == "values" else 1, -1)
            spread = parts.std(0).square().mean(1).sqrt() / states  # one a part
            scales[name] = spread.clamp(min=_TINY).repeat_interleave(parts.shape[2])
    return scales


def _train_head(run: Run, start: int) -> None:
    shape = run.adapter.shape
    read = _mapped_states(run, run.training.queries, shape.states * shape.hidden_size, scales={})
    projected = read.view(len(read), shape.states, shape.hidden_size)
    held_out = _projected(run, run.held_out.queries, "States of the held-out queries").projected

    def loss(epoch: int, rows: Sequence[int]) -> tuple[Tensor, Report]:  # noqa: ARG001  # one signature for both
        own = projected[list(rows)].to(run.model.device)
        return _alignment(run, own, run.training.targets[list(rows)])

    def evaluation() -> Evaluation:
        with torch.no_grad():
            return evaluate(run.adapter.align(held_out), run.held_out.targets)

    frozen = {id(p) for p in (run.adapter.tokens, *run.adapter.reconstruction.parameters())}
    parameters = [p for p in run.adapter.parameters() if id(p) not in frozen]
    settings = run.optimiser
    phase = _Phase(HEADS, parameters, settings.head_learning_rate, settings.head_epochs, 1, loss, evaluation)
    _optimise(run, phase, start)


def _optimise(run: Run, phase: _Phase, start: int) -> None:
    """AdamW over seeded epochs; evaluates after each, checkpoints as set, stops early where asked to."""
    settings = run.optimiser
    optimiser = torch.optim.AdamW(phase.parameters, lr=phase.learning_rate, weight_decay=settings.weight_decay)
    steps_an_epoch = _steps_an_epoch(run)
    total = _steps(run, phase.epochs)
    if start:
        run.checkpoints.restore(run.adapter, optimiser)
    patience = _patience(run, phase.name)
    if patience.is_over:
        return
    workers = GradientWorkers(phase.parameters, phase.workers)
    try:
        with progress_bar(total, f"Training, {phase.name}", show=True) as advance:
            advance(start)
            for step in range(start, total):
                epoch, batch = divmod(step, steps_an_epoch)
                _set_rate(optimiser, phase.learning_rate * _rate(step, total, settings.warmup_steps))
                reports = workers.run(partial(phase.loss, epoch), _batch(run, epoch, batch))
                position = Position(phase.name, step + 1)
                run.log.write(position, **_finite_means(reports, position))
                nn.utils.clip_grad_norm_(phase.parameters, settings.clip_norm)
                optimiser.step()
                optimiser.zero_grad()
                advance(1)
                ends = batch == steps_an_epoch - 1 or step == total - 1
                if ends:
                    evaluation = phase.evaluate()
                    run.log.write(position, epoch=epoch + 1, held_out=evaluation._asdict())
                    if patience.take(evaluation.cosine) and phase.name == HEADS:
                        run.checkpoints.best.save(position, run.adapter)
                if ends or (step + 1) % run.checkpoint_steps == 0:
                    run.checkpoints.save(position, run.adapter, optimiser)
                if patience.is_over:
                    return
    finally:
        workers.close()


class _Patience:
    """Counts evaluations without a new best."""

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._best = -math.inf
        self._since = 0

    def take(self, value: float) -> bool:
        """Take note of a held-out figure; whether it is the best so far."""
        better = value > self._best
        self._since = 0 if better else self._since + 1
        self._best = max(self._best, value)
        return better

    @property
    def is_over(self) -> bool:
        """Whether it is time to stop."""
        return self._limit is not None and self._since >= self._limit


def _patience(run: Run, phase: str) -> _Patience:
    """As the log says that it stands, so that a resumed run stops where one that was not cut would have."""
    patience = _Patience(run.optimiser.patience)
    for evaluation in run.log.held_out(phase):
        patience.take(evaluation["cosine"])
    return patience


def _steps_an_epoch(run: Run) -> int:
    return math.ceil(len(run.training.queries) / run.optimiser.batch_size)


def _steps(run: Run, epochs: float) -> int:
    return max(1, round(_steps_an_epoch(run) * epochs))


def _rate(step: int, total: int, warmup: int) -> float:
    """Linear warm-up, then a cosine down to zero at the last step."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def _set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = rate


def _batch(run: Run, epoch: int, batch: int) -> list[int]:
    size = run.optimiser.batch_size
    return _order(run, epoch)[batch * size : (batch + 1) * size]


def _order(run: Run, epoch: int) -> list[int]:
    order: list[int] = np.random.default_rng((run.seed, epoch)).permutation(len(run.training.queries)).tolist()
    return order


def _reconstructed(run: Run, rows: Sequence[int], epoch: int) -> list[tuple[int, int]]:
    """Which rows of a slice are reconstructed in this epoch: (place in the slice, row), the same for any slicing."""
    if run.loss.reconstruction_weight == 0 or run.loss.reconstruction_share == 0:
        return []
    draw = np.random.default_rng((run.seed, epoch, 1)).random(len(run.training.queries))
    return [(place, row) for place, row in enumerate(rows) if draw[row] < run.loss.reconstruction_share]


def _fill_prefixes(run: Run, queries: Sequence[str]) -> None:
    run.prefixes.fill([*queries, *run.held_out.queries], workers=run.optimiser.workers)


class _Read(NamedTuple):
    """What an alignment head reads of B queries.

    Attributes:
        projected: (B, R, H) float32.
        beside: what its shape reads beside them.
    """

    projected: Tensor
    beside: Beside


def _states(run: Run, prefix: Prefix) -> Tensor:
    """(B, R, H) states that the heads read; gradients flow to the trained tokens."""
    shape = run.adapter.shape
    states = run.model.continuation_pass(prefix, run.adapter.tokens)[:, shape.thought_tokens :]
    return torch.cat((prefix.state[:, None], states), dim=1) if shape.read_prompt else states


def _alignment(run: Run, projected: Tensor, targets: Tensor) -> tuple[Tensor, Report]:
    vectors = run.adapter.align(projected)
    measure = losses.cosine_alignment if run.loss.alignment is AlignmentLoss.COSINE else losses.squared_alignment
    alignment = measure(vectors, targets)
    total = run.loss.alignment_weight * alignment
    if run.loss.contrast_weight == 0:
        return total, Report(alignment.item(), None, None)
    apart = losses.contrast(vectors, targets, run.loss.contrast_temperature)
    return total + run.loss.contrast_weight * apart, Report(alignment.item(), apart.item(), None)


def _projected(run: Run, queries: Sequence[str], title: str) -> _Read:
    """All in memory: for the held-out queries, whose number is set."""
    parts = list(_projections(run, queries, title))
    columns = zip(*(part.beside for part in parts), strict=True)
    beside = Beside(*(None if column[0] is None else torch.cat(column) for column in columns))
    return _Read(torch.cat([part.projected for part in parts]), beside)


def _mapped_states(run: Run, queries: Sequence[str], width: int, scales: Mapping[str, Tensor]) -> Tensor:
    """(n, F) float32 of training queries, on the CPU, in a mapped file: memory does not grow with n.

    A row is the projected states side by side and then, divided by ``scales``, what is read beside them.

    The file has no name, so nothing is left of it when the process ends in whatever way. It is written through the file
    and mapped afterwards, since a disk that fills up under a mapping is no error but the end of the process.

    Raises:
        TrainingError: the disk has no room for them.
    """
    sizes = (len(queries), width)
    folder = run.checkpoints.folder
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            for projected, beside in _projections(run, queries, "States of the training queries"):
                others = [getattr(beside, name) / scale for name, scale in scales.items()]
                row = torch.cat((projected.flatten(1), *others), dim=1)
                file.write(row.cpu().numpy().tobytes())
            file.flush()
            return torch.from_numpy(np.memmap(file, dtype=np.float32, mode="c", shape=sizes))
    except OSError as error:
        raise TrainingError(
            f"expected room in {folder} for the states of {len(queries):,} queries, "
            f"{4 * math.prod(sizes) / 1e9:.1f} GB, but writing them failed ({error}); free some disk, then start again"
        ) from error


@torch.no_grad()
def _projections(run: Run, queries: Sequence[str], title: str) -> Iterator[_Read]:
    """Batches, in order; prefixes are read, or computed where they are not kept."""
    size, shape, model = run.optimiser.batch_size, run.adapter.shape, run.model
    with progress_bar(len(queries), title) as advance:
        for start in range(0, len(queries), size):
            prefix = run.prefixes.get(queries[start : start + size])
            values = run.prefixes.values(prefix) if shape.values else None
            first_token = model.expected_token(model.logits(prefix.state)) if shape.read_first_token else None
            beside = run.adapter.read_beside(values, first_token)
            yield _Read(run.adapter.project(_states(run, prefix)), beside)
            advance(len(prefix.state))


@torch.no_grad()
def _evaluate_joint(run: Run) -> Evaluation:
    projected = _projected(run, run.held_out.queries, "Held-out queries").projected
    return evaluate(run.adapter.align(projected), run.held_out.targets, _reconstruction(run, projected))


@torch.no_grad()
def _evaluate_solved(run: Run, foreseen: Tensor) -> Evaluation:
    """As it is encoded later; reconstruction where no joint epoch has measured it."""
    read = _projected(run, run.held_out.queries, "States of the held-out queries")
    vectors = run.adapter.expect(run.adapter.align(read.projected, read.beside), foreseen)
    reconstruction = None if run.optimiser.epochs else _reconstruction(run, read.projected)
    return evaluate(vectors, run.held_out.targets, reconstruction)


def _reconstruction(run: Run, projected: Tensor) -> float | None:
    if not run.loss.reconstruction_weight:
        return None
    rows = min(_RECONSTRUCTION_ROWS, len(projected))
    responses = [ids[: run.loss.reconstruction_tokens] for ids in run.held_out.responses[:rows]]
    return float(losses.reconstruction(run.model, run.adapter.soft_prompt(projected[:rows]), responses))


def _finite_means(reports: Sequence[tuple[int, Report]], position: Position) -> dict[str, float]:
    """Mean of each loss over the slices that computed it, weighted by their size.

    Raises:
        TrainingError: one is not finite: from there on every weight would be lost.
    """
    means: dict[str, float] = {}
    for name in Report._fields:
        values = [(size, getattr(report, name)) for size, report in reports if getattr(report, name) is not None]
        if values:
            means[name] = sum(size * value for size, value in values) / sum(size for size, _ in values)
    broken = [name for name, value in means.items() if not math.isfinite(value)]
    if broken:
        raise TrainingError(
            f"the {broken[0]} loss of step {position.step} ({position.phase}) is not finite; lower the learning rate, "
            "and delete the checkpoint if it happens again"
        )
    return means
