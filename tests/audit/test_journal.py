from __future__ import annotations

from pathlib import Path

import pytest

from safe_retrieval.audit.journal import Entry, Journal, forget
from safe_retrieval.audit.results import Passage
from safe_retrieval.types import Hit, Retrieval

ENTRY = Entry(
    Retrieval((Hit("a", 0.1 + 0.2), Hit("own:b", -1.0)), 0.25, True), {"own:b": Passage(True, "hate", "0")}, 0.5, 1, 7
)
OTHER = Entry(Retrieval(()), {}, 0.1)


def filled(folder: Path) -> Journal:
    journal = Journal(folder, {"target": "t"})
    journal.decide({"scale": "cosine"})
    journal.add({"q1": ENTRY})
    journal.add({"q2": OTHER, "q1": OTHER})
    return journal


def test_what_was_written_is_read_again_exactly(tmp_path: Path) -> None:
    filled(tmp_path)
    again = Journal(tmp_path, {"target": "t"})
    assert again.decision == {"scale": "cosine"}
    assert again.entries == {"q1": ENTRY, "q2": OTHER}  # the first answer stays


def test_of_other_settings_there_is_nothing(tmp_path: Path) -> None:
    filled(tmp_path)
    other = Journal(tmp_path, {"target": "u"})
    assert other.decision is None
    assert not other.entries


def test_every_cut_leaves_what_was_finished_before_it(tmp_path: Path) -> None:
    filled(tmp_path)
    (path,) = tmp_path.glob("*.jsonl")
    whole = path.read_bytes()
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        journal = Journal(tmp_path, {"target": "t"})
        finished = whole[:length].count(b"\n")
        assert len(journal.entries) == max(finished - 2, 0)
        assert (journal.decision is not None) == (finished >= 2)
        if finished:
            assert path.read_bytes() == b"".join(whole.splitlines(keepends=True)[:finished])
        journal.decide({"scale": "cosine"})
        journal.add({"q1": ENTRY, "q2": OTHER})
        assert Journal(tmp_path, {"target": "t"}).entries.keys() == {"q1", "q2"}


@pytest.mark.parametrize("line", [b"[]\n", b"{}\n", b'{"probe": "x"}\n', b"\xff\n", b"nonsense\n"])
def test_damaged_lines_and_what_follows_are_dropped(tmp_path: Path, line: bytes) -> None:
    filled(tmp_path)
    (path,) = tmp_path.glob("*.jsonl")
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:3], line, lines[3]]))
    assert Journal(tmp_path, {"target": "t"}).entries == {"q1": ENTRY}


def test_removing(tmp_path: Path) -> None:
    filled(tmp_path / "answers")
    forget(tmp_path / "answers")
    forget(tmp_path / "answers")
    assert list(tmp_path.iterdir()) == []
