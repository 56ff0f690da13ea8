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
