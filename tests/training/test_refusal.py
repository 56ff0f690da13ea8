from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from safe_retrieval.backbone.tokenizer import TextTokenizer
from safe_retrieval.encoder.adapter import RefusalFeatures
from safe_retrieval.errors import TrainingError
from safe_retrieval.metrics.auroc import auroc
from safe_retrieval.training.refusal import (
    THRESHOLDS,
    fit_foreseen,
    fit_refusal,
    gate_shares,
    refusal_tokens,
    require_both_verdicts,
)
from tests.support.tiny_models import tokenizer

WIDTH = 24


def synthetic(count: int, *, seed: int, from_state: bool) -> tuple[RefusalFeatures, NDArray[np.bool_]]:
    """Verdicts drawn from known probabilities: of the first token alone, or of the state as well; about 15 % refuse."""
    generator = np.random.default_rng(seed)
    state = generator.standard_normal((count, WIDTH)) * np.linspace(0.5, 20, WIDTH) + 3.0
    first = generator.normal(-3, 2, count)
    odds = 0.9 * first + 0.5
    if from_state:
        weights = np.random.default_rng(99).standard_normal(WIDTH)
        odds = odds + (state - 3.0) / np.linspace(0.5, 20, WIDTH) @ weights * 0.8
    refused = generator.random(count) < 1 / (1 + np.exp(-odds))
    features = RefusalFeatures(torch.tensor(first, dtype=torch.float32), torch.tensor(state, dtype=torch.float32))
    return features, refused


@pytest.mark.parametrize("from_state", [False, True])
def test_probabilities_are_calibrated_on_queries_not_seen(from_state: bool) -> None:
    fitted = fit_refusal(*synthetic(3000, seed=0, from_state=from_state), (5, 9))
    assert ("state" in fitted.method) == from_state
    features, refused = synthetic(6000, seed=1, from_state=from_state)
    predicted = fitted.head(features).numpy()
    assert predicted.mean() == pytest.approx(refused.mean(), abs=0.02)
    for low in np.arange(0, 1, 0.2):
        inside = (predicted >= low) & (predicted < low + 0.2)
        assert inside.sum() > 50
        assert predicted[inside].mean() == pytest.approx(refused[inside].mean(), abs=0.08)


def test_auroc_is_that_of_unseen_rows() -> None:
    fitted = fit_refusal(*synthetic(3000, seed=0, from_state=True), (5, 9))
    features, refused = synthetic(6000, seed=1, from_state=True)
    scores = fitted.head(features).double().numpy()
    assert fitted.auroc == pytest.approx(auroc(scores[refused], scores[~refused]), abs=0.02)
    assert fitted.head.first_tokens == (5, 9)


def test_a_state_of_noise_is_not_worth_its_weights() -> None:
    fitted = fit_refusal(*synthetic(1000, seed=3, from_state=False), (5,))
    assert not fitted.head.weight.any()
    assert fitted.head.scale.item() == pytest.approx(0.9, abs=0.15)
    assert fitted.head.bias.item() == pytest.approx(0.5, abs=0.4)


def judged(count: int, *, seed: int) -> tuple[RefusalFeatures, NDArray[np.float64]]:
    """What another model says of prompts: log-odds linear in the features, and something that they do not show."""
    features, _ = synthetic(count, seed=seed, from_state=True)
    state, first = features.state.double().numpy(), features.first_token.double().numpy()
    weights = np.random.default_rng(7).standard_normal(WIDTH)
    odds = (state - 3.0) / np.linspace(0.5, 20, WIDTH) @ weights + 0.5 * first - 1.0
    odds += np.random.default_rng(seed).normal(0, 1.5, count)
    return features, 1 / (1 + np.exp(-odds))


def test_another_models_probabilities_are_foreseen() -> None:
    fitted = fit_foreseen(*judged(3000, seed=0), (5, 9))
    assert "judge" in fitted.method
    assert fitted.head.first_tokens == (5, 9)
    features, probabilities = judged(6000, seed=1)
    foreseen = fitted.head(features).double().numpy()
    refused = probabilities >= 0.5
    assert fitted.auroc == pytest.approx(auroc(foreseen[refused], foreseen[~refused]), abs=0.02)
    assert fitted.auroc > 0.9
    assert fitted.calibration.error < 0.05
    for low in np.arange(0, 1, 0.2):
        inside = (foreseen >= low) & (foreseen < low + 0.2)
        assert foreseen[inside].mean() == pytest.approx(probabilities[inside].mean(), abs=0.05)
    unseen = np.corrcoef(fitted.probabilities, judged(3000, seed=0)[1])[0, 1]
    assert unseen == pytest.approx(np.corrcoef(foreseen, probabilities)[0, 1], abs=0.03)


def test_a_judge_must_refuse_and_answer() -> None:
    features, probabilities = judged(100, seed=0)
    with pytest.raises(TrainingError, match="got 0 and 100"):
        fit_foreseen(features, probabilities * 0.4, (5,))


def test_it_is_repeatable() -> None:
    one, other = (fit_refusal(*synthetic(400, seed=0, from_state=True), (5,)) for _ in range(2))
    assert one.auroc == other.auroc
    assert torch.equal(one.head.weight, other.head.weight)


@pytest.mark.parametrize("refusing", [0, 4, 46, 50])
def test_too_few_of_one_kind(refusing: int) -> None:
    refused = np.arange(50) < refusing
    with pytest.raises(TrainingError, match=rf"got {refusing} and {50 - refusing}"):
        require_both_verdicts(refused)


def test_five_of_each_kind_are_enough() -> None:
    features, _ = synthetic(12, seed=0, from_state=False)
    assert 0 <= fit_refusal(features, np.arange(12) < 5, (5,)).auroc <= 1


def test_only_whole_words_start_a_refusal() -> None:
    text_tokenizer = TextTokenizer(tokenizer())
    tokens = refusal_tokens(text_tokenizer)
    assert text_tokenizer.decode(tokens[:1]) == "I"
    pieces = text_tokenizer.encode_text(["Sorry"], max_tokens=9)[0]
    assert (pieces[0] in tokens) == (len(pieces) == 1)


def test_what_a_gate_would_hold_back() -> None:
    probabilities = np.array([0.95, 0.8, 0.1, 0.6, 0.2, 0.9])
    refused = np.array([True, True, True, False, False, False])
    shares = gate_shares(probabilities, refused, ["a", "a", "b", "a", "b", "b"])
    assert list(shares) == [f"{threshold:g}" for threshold in THRESHOLDS]
    assert shares["0.75"] == {
        "refused": pytest.approx(2 / 3, abs=1e-4),
        "answered": pytest.approx(1 / 3, abs=1e-4),
        "answered_by_source": {"a": 0.0, "b": 0.5},
    }
    assert shares["0.5"]["answered_by_source"] == {"a": 1.0, "b": 0.5}


def test_probabilities_of_unseen_rows_are_calibrated() -> None:
    features, refused = synthetic(3000, seed=0, from_state=True)
    fitted = fit_refusal(features, refused, (5, 9))
    assert fitted.probabilities.shape == (3000,)
    assert fitted.probabilities.mean() == pytest.approx(refused.mean(), abs=0.01)
    calibration = fitted.calibration
    assert calibration.error < 0.03
    assert calibration.near_half > 50
    assert calibration.foretold_near_half == pytest.approx(0.5, abs=0.05)
    assert calibration.refused_near_half == pytest.approx(calibration.foretold_near_half, abs=0.15)
