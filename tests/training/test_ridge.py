from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from safe_retrieval.training import ridge
from safe_retrieval.training.ridge import fit_ridge


def data(rows: int, features: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(rows, features, generator=generator) + 2.0
    truth = torch.randn(features, 5, generator=generator)
    noise = torch.randn(rows, 5, generator=generator)
    return states, functional.normalize(states @ truth / features**0.5 + noise, dim=1)


@pytest.mark.parametrize(("rows", "features"), [(40, 12), (12, 40), (20, 20)])
def test_it_equals_scikit_learn(rows: int, features: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from sklearn.linear_model import Ridge

    monkeypatch.setattr(ridge, "PENALTIES", (0.3,))
    states, targets = data(rows, features)
    fit = fit_ridge(states, targets)
    centred = (states - states.mean(0)).double()
    penalty = 0.3 * float(centred.square().sum()) / min(rows, features)
    theirs = Ridge(alpha=penalty).fit(states.double().numpy(), targets.double().numpy())
    torch.testing.assert_close(fit.weight.double(), torch.tensor(theirs.coef_), atol=1e-5, rtol=1e-3)
    torch.testing.assert_close(fit.bias.double(), torch.tensor(theirs.intercept_), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(("rows", "features"), [(15, 6), (9, 30)])
def test_leaving_one_out_equals_refitting(rows: int, features: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from sklearn.linear_model import Ridge

    monkeypatch.setattr(ridge, "PENALTIES", (0.5,))
    states, targets = data(rows, features)
    penalty = 0.5 * float((states - states.mean(0)).double().square().sum()) / min(rows, features)
    predicted = []
    for row in range(rows):
        others = [other for other in range(rows) if other != row]
        model = Ridge(alpha=penalty).fit(states[others].double().numpy(), targets[others].double().numpy())
        predicted.append(torch.tensor(model.predict(states[row : row + 1].double().numpy())[0]))
    expected = functional.cosine_similarity(torch.stack(predicted), targets.double()).mean()
    assert fit_ridge(states, targets).cosine == pytest.approx(float(expected), abs=1e-4)


def test_the_penalty_grows_with_the_noise() -> None:
    states, targets = data(60, 30)
    noisy = functional.normalize(targets + 3 * torch.randn(60, 5, generator=torch.Generator().manual_seed(1)), dim=1)
    assert fit_ridge(states, noisy).penalty > fit_ridge(states, targets).penalty


def test_constant_states_give_the_mean() -> None:
    targets = data(10, 4)[1]
    fit = fit_ridge(torch.ones(10, 4), targets)
    torch.testing.assert_close(fit.bias + fit.weight @ torch.ones(4), targets.mean(0), atol=1e-4, rtol=1e-4)
