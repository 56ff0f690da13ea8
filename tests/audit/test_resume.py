"""Cut at random, twenty times, and started again: the findings are the same to the byte."""

from __future__ import annotations

import multiprocessing
import random
import signal
import sys
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest
import yaml
from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document as LangChainDocument
from langchain_core.retrievers import BaseRetriever

from safe_retrieval import audit
from safe_retrieval.audit.probe_manifest import PROBE_DATA
from safe_retrieval.audit.probes import load_probe_set
from safe_retrieval.retrieval.lexical import LexicalIndex

CUTS = 20
_SECONDS_A_QUERY = 0.004


class Slow(BaseRetriever):
    """BM25 over the built-in probes, slow enough to be cut; says in a file what it was asked."""

    log: Path
    stop_after: int | None = None

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun
    ) -> list[LangChainDocument]:
        if _lines(self.log) == self.stop_after:
            raise KeyboardInterrupt
        time.sleep(_SECONDS_A_QUERY)
        with self.log.open("a") as file:
            file.write("1\n")
        return [LangChainDocument("", id=identifier) for identifier in found_by_words(query)]


INDEX = LexicalIndex(load_probe_set(PROBE_DATA).documents)


@cache
def found_by_words(query: str) -> list[str]:
    """Ids of the passages for a query, remembered, and so known to a child that is forked after a whole run.

    BM25's tokenizer takes the lock of tqdm, one semaphore for a process and all its forks; a child that is killed
    while it holds it would stop every progress bar of the parent for good.
    """
    (hits,) = INDEX.search([query], 8)
    return [hit.id for hit in hits]


def write(folder: Path) -> Path:
    folder.mkdir()
    target = {"kind": "langchain", "object": f"{__name__}:found", "holds": "probes", "name": "slow"}
    (folder / "audit.yaml").write_text(yaml.safe_dump({"targets": [target], "out": "report"}))
    return folder / "audit.yaml"


@pytest.mark.skipif(sys.platform == "win32", reason="a child that shares this process's imports needs fork")
def test_twenty_cuts_change_no_byte_of_the_findings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "asked"
    monkeypatch.setattr(sys.modules[__name__], "found", Slow(log=log), raising=False)
    audit.run(write(tmp_path / "whole"))
    whole = (tmp_path / "whole" / "report" / "findings.jsonl").read_bytes()
    queries = len(load_probe_set().queries)
    asked_whole = _lines(log)

    log.unlink()
    settings = write(tmp_path / "cut")
    generator = random.Random(7)
    killed = sum(_killed(settings, log, generator.randint(1, 15), generator.uniform(0, 0.008)) for _ in range(CUTS))
    assert killed == CUTS
    assert not (tmp_path / "cut" / "report" / "report.json").exists()
    audit.run(settings)
    assert (tmp_path / "cut" / "report" / "findings.jsonl").read_bytes() == whole
    asked = _lines(log)
    trials = asked_whole - queries
    # what is asked again is one query for each cut, and the few of the trial as long as that was cut
    assert queries <= asked <= asked_whole + CUTS * (1 + trials)


def _killed(settings: Path, log: Path, more: int, seconds: float) -> bool:
    """Start the audit in a child, kill it some milliseconds after it asked ``more`` queries; whether it still ran."""
    child = multiprocessing.get_context("fork").Process(target=_quiet, args=(settings,))
    goal = _lines(log) + more
    child.start()
    while child.is_alive() and _lines(log) < goal:
        time.sleep(0.001)
    time.sleep(seconds)
    child.kill()
    child.join()
    return child.exitcode == -signal.SIGKILL


def _lines(log: Path) -> int:
    return log.stat().st_size // 2 if log.exists() else 0


def _quiet(settings: Path) -> None:
    audit.run(settings, progress=_nothing)


class _nothing:  # noqa: N801 - stands where a function would
    def __init__(self, total: int, description: str) -> None:
        pass

    def __enter__(self) -> _nothing:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __call__(self, count: int) -> None:
        pass


def test_a_line_that_a_cut_left_unfinished_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "asked"
    settings = write(tmp_path / "a")
    monkeypatch.setattr(sys.modules[__name__], "found", Slow(log=log, stop_after=30), raising=False)
    with pytest.raises(KeyboardInterrupt):
        audit.run(settings)
    (journal,) = _journals(tmp_path)
    content = journal.read_bytes()
    journal.write_bytes(content[:-7])
    (journal.parent / "of other settings.jsonl").write_text("")
    monkeypatch.setattr(sys.modules[__name__], "found", Slow(log=log), raising=False)
    audit.run(settings)
    assert _lines(log) == 8 + len(load_probe_set().queries) + 1
    assert _journals(tmp_path) == []
    assert (tmp_path / "a" / "report" / "findings.jsonl").is_file()


def _journals(folder: Path) -> Sequence[Path]:
    return sorted(folder.rglob("answers/*.jsonl"))
