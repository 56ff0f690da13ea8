from __future__ import annotations

import pytest

from safe_retrieval.encoder.progress import PROGRESS_FROM, progress_bar


@pytest.mark.parametrize(
    ("total", "show", "shown"),
    [
        (PROGRESS_FROM - 1, None, False),
        (PROGRESS_FROM, None, True),
        (None, None, True),
        (1, True, True),
        (10_000, False, False),
    ],
)
def test_bar_is_shown_on_stderr_where_there_is_something_to_wait_for(
    capsys: pytest.CaptureFixture[str], total: int | None, show: bool | None, shown: bool
) -> None:
    with progress_bar(total, "Counting", show=show) as advance:
        advance(1)
        advance(2)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert ("Counting" in captured.err) is shown


def test_an_unknown_total_shows_no_question_mark(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar(None, "Counting") as advance:
        advance(2)
    shown = capsys.readouterr().err
    assert "?" not in shown
    assert "2" in shown


def test_an_estimate_gives_way_to_what_there_was(capsys: pytest.CaptureFixture[str]) -> None:
    for total in (9, 1):
        with progress_bar(total, "Counting", show=True) as advance:
            advance(2)
            advance(1)
        assert "3/3" in capsys.readouterr().err
