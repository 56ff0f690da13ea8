from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

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


@pytest.mark.parametrize(("rows", "features"), [(40, 12), (12, 40)])
@pytest.mark.parametrize("block", [1, 7, 40])
def test_the_size_of_the_blocks_does_not_show(
    rows: int, features: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    states, targets = data(rows, features)
    whole = fit_ridge(states, targets)
    monkeypatch.setattr(ridge, "_BLOCK", block)
    fit = fit_ridge(states, targets)
    assert fit.penalty == whole.penalty
    assert fit.cosine == pytest.approx(whole.cosine, abs=1e-5)
    torch.testing.assert_close(fit.weight, whole.weight, atol=1e-5, rtol=1e-3)
    torch.testing.assert_close(fit.bias, whole.bias, atol=1e-4, rtol=1e-3)


def test_more_rows_take_no_more_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    largest = 0

    class Watching(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            owns = isinstance(out, torch.Tensor) and not out._is_view()
            largest = max(largest, out.numel() if owns else 0)
            return out

    monkeypatch.setattr(ridge, "_BLOCK", 16)
    states, targets = data(2000, 8)
    with Watching():  # type: ignore[no-untyped-call]
        fit_ridge(states, targets)
    assert largest <= targets.numel() < states.numel()


def test_the_penalty_grows_with_the_noise() -> None:
    states, targets = data(60, 30)
    noisy = functional.normalize(targets + 3 * torch.randn(60, 5, generator=torch.Generator().manual_seed(1)), dim=1)
    assert fit_ridge(states, noisy).penalty > fit_ridge(states, targets).penalty


def test_constant_states_give_the_mean() -> None:
    targets = data(10, 4)[1]
    fit = fit_ridge(torch.ones(10, 4), targets)
    torch.testing.assert_close(fit.bias + fit.weight @ torch.ones(4), targets.mean(0), atol=1e-4, rtol=1e-4)
