from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from safe_retrieval.backbone import generate as generation
from safe_retrieval.backbone.generate import respond
from safe_retrieval.encoder.policy import ResponsePolicy
from safe_retrieval.errors import TrainingError
from safe_retrieval.training import responses
from safe_retrieval.training.lock import only_writer
from safe_retrieval.training.prefix_cache import PrefixCache
from safe_retrieval.training.queries import TrainingQuery
from safe_retrieval.training.responses import (
    Response,
    answered_responses,
    generate_responses,
    held_back,
    read_responses,
    sha256_of,
)
from tests.support.tiny_models import tiny_model
from tests.support.tiny_training import QUERIES

POLICY = ResponsePolicy("test", "You answer every harmless question directly.")
# Characters that end a line for str.splitlines but stand in JSON as they are.
ASKED = [TrainingQuery(text, "test") for text in [*QUERIES[:20], "a\u2028line\u0085end \U0001f319"]]


def generate(out: Path, queries: list[TrainingQuery] | None = None, **settings: Any) -> list[Response]:
    defaults: dict[str, Any] = {"max_new_tokens": 5, "batch_size": 4}
    return generate_responses(tiny_model(), queries or ASKED, POLICY, out, **{**defaults, **settings})


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[Response]:
    return generate(tmp_path_factory.mktemp("whole") / "responses.jsonl")


def test_rows_are_the_models_own_answers_in_the_order_asked(expected: list[Response]) -> None:
    assert [row.query for row in expected] == [query.text for query in ASKED]
    answers = respond(tiny_model(), [row.query for row in expected], POLICY.system_prompt, max_new_tokens=5)
    assert [row.response for row in expected] == answers
    assert {row.source for row in expected} == {"test"}


def test_the_file_says_what_they_depend_on(tmp_path: Path, expected: list[Response]) -> None:
    out = tmp_path / "new" / "responses.jsonl"
    generate(out)
    header, rows = read_responses(out)
    assert (header.backbone_fingerprint, header.system_prompt) == (tiny_model().fingerprint, POLICY.system_prompt)
    assert (header.max_new_tokens, header.decoding, header.version) == (5, "greedy", 1)
    assert sorted(rows) == sorted(expected)
    assert sorted(path.name for path in out.parent.iterdir()) in (
        ["responses.jsonl"],
        ["responses.jsonl", "responses.jsonl.lock"],
    )


def test_two_workers_say_the_same(tmp_path: Path, expected: list[Response]) -> None:
    assert generate(tmp_path / "two.jsonl", workers=2) == expected


def test_batch_size_seed_and_kept_prefixes_do_not_matter(tmp_path: Path, expected: list[Response]) -> None:
    prefixes = PrefixCache(tiny_model(), POLICY.system_prompt, tmp_path / "prefixes")
    assert generate(tmp_path / "other.jsonl", batch_size=100, seed=9, prefixes=prefixes) == expected
    assert all(prefixes.holds(row.query) for row in expected)


def test_nothing_is_answered_twice(tmp_path: Path, expected: list[Response], monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "responses.jsonl"
    assert generate(out, [*ASKED[:5], *ASKED[:5], ASKED[2]]) == [*expected[:5], *expected[:5], expected[2]]
    assert len(read_responses(out)[1]) == 5
    assert generate(out) == expected
    monkeypatch.setattr(responses, "_answer", None)
    content = out.read_bytes()
    assert generate(out) == expected
    assert out.read_bytes() == content


def test_a_cut_at_any_byte_of_the_last_line_is_mended(tmp_path: Path, expected: list[Response]) -> None:
    out = tmp_path / "responses.jsonl"
    generate(out)
    lines = out.read_bytes().splitlines(keepends=True)
    moon = next(place for place, line in enumerate(lines) if "\U0001f319".encode() in line)
    ordered = [*lines[:moon], *lines[moon + 1 :], lines[moon]]
    last = ordered[-1]
    inside = last.index("\U0001f319".encode()) + 2  # in the middle of a character
    for cut in (1, 10, inside, len(last) - 2):
        out.write_bytes(b"".join(ordered[:-1]) + last[:cut])
        assert len(read_responses(out)[1]) == len(ASKED) - 1
        assert generate(out) == expected
        assert sorted(read_responses(out)[1]) == sorted(expected)
    out.write_bytes(b"".join(ordered)[:-1])  # whole, but for the line's end
    assert len(read_responses(out)[1]) == len(ASKED)
    assert generate(out) == expected


def test_an_exception_leaves_whole_batches(
    tmp_path: Path, expected: list[Response], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "responses.jsonl"
    calls = 0
    answer = responses._answer

    def stops(*arguments: Any) -> list[Response]:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return answer(*arguments)

    monkeypatch.setattr(responses, "_answer", stops)
    with pytest.raises(KeyboardInterrupt):
        generate(out)
    assert len(read_responses(out)[1]) == 8
    assert generate(out) == expected


@pytest.mark.parametrize("line", [b"", b"5", b'{"query": "x"}', b'{"query": "x", "source"', b"\xff\xfe", b"[]"])
def test_a_damaged_line_is_named(tmp_path: Path, line: bytes) -> None:
    out = tmp_path / "responses.jsonl"
    generate(out, ASKED[:4])
    lines = out.read_bytes().split(b"\n")
    lines[2] = line
    out.write_bytes(b"\n".join(lines))
    with pytest.raises(TrainingError, match=r"responses\.jsonl, line 3: .* delete the line"):
        generate(out)


def test_a_verdict_is_true_or_false(tmp_path: Path) -> None:
    out = tmp_path / "responses.jsonl"
    generate(out, ASKED[:4])
    lines = out.read_text().split("\n")
    lines[1] = json.dumps({**json.loads(lines[1]), "refused": "false"})
    out.write_text("\n".join(lines))
    with pytest.raises(TrainingError, match=r"line 2: .*boolean"):
        read_responses(out)


@pytest.mark.parametrize("content", ["", "{}\n", '{"query": "x"}\n', "\n"])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, content: str) -> None:
    out = tmp_path / "responses.jsonl"
    out.write_text(content)
    with pytest.raises(TrainingError, match="line 1: expected the header"):
        generate(out)
    assert out.read_text() == content


@pytest.mark.parametrize(
    ("settings", "field"), [({"max_new_tokens": 6}, "max_new_tokens"), ({"policy": "other"}, "policy, system_prompt")]
)
def test_other_settings_are_refused_and_named(tmp_path: Path, settings: dict[str, Any], field: str) -> None:
    out = tmp_path / "responses.jsonl"
    generate(out, ASKED[:4])
    policy = ResponsePolicy("other", "Answer in French.") if "policy" in settings else POLICY
    longest = settings.get("max_new_tokens", 5)
    with pytest.raises(TrainingError, match=f"another {field}"):
        generate_responses(tiny_model(), ASKED, policy, out, max_new_tokens=longest)
    with pytest.raises(TrainingError, match=f"another {field}"):
        answered_responses(tiny_model(), ASKED, policy, out, max_new_tokens=longest)


def test_what_is_answered_already_is_read_and_nothing_written(tmp_path: Path, expected: list[Response]) -> None:
    out = tmp_path / "responses.jsonl"
    generate(out, ASKED[:9])
    with out.open("ab") as file:
        file.write(b'{"query": "half')  # another process is writing
    content = out.read_bytes()
    assert answered_responses(tiny_model(), ASKED, POLICY, out, max_new_tokens=5) == expected[:9]
    assert out.read_bytes() == content
    with pytest.raises(TrainingError, match=r"missing\.jsonl"):
        answered_responses(tiny_model(), ASKED, POLICY, tmp_path / "missing.jsonl", max_new_tokens=5)


def test_one_process_writes_at_a_time(tmp_path: Path) -> None:
    out = tmp_path / "responses.jsonl"
    with (
        only_writer(tmp_path / "responses.jsonl.lock", "it"),
        pytest.raises(TrainingError, match="another process is writing"),
    ):
        generate(out)
    assert generate(out, ASKED[:2])


def test_a_row_says_whether_its_answer_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = tiny_model().tokenizer.encode_text(["the moon pulls on the water of the sea"], max_tokens=5)[0]
    written = [ids, ids[:4], [], ids]
    monkeypatch.setattr(generation, "generate", lambda *_, **__: written)
    out = tmp_path / "responses.jsonl"
    rows = generate(out, ASKED[:4])
    assert sorted(row.ended for row in rows if row.ended is not None) == [False, False, True, True]
    assert {row.ended: len(row.response) > 0 for row in rows if not row.ended} == {False: True}
    assert sorted(read_responses(out)[1]) == sorted(rows)
    assert sha256_of(rows) != sha256_of([row._replace(ended=None) for row in rows])


def _without_end(line: str) -> dict[str, Any]:
    return {name: value for name, value in json.loads(line).items() if name != "ended"}


def test_a_file_that_does_not_say_what_ended_is_continued(tmp_path: Path, expected: list[Response]) -> None:
    out = tmp_path / "responses.jsonl"
    generate(out, ASKED[:4])
    header, *lines = out.read_text().splitlines(keepends=True)
    older = [json.dumps(_without_end(line), ensure_ascii=False) + "\n" for line in lines]
    out.write_text("".join((header, *older)))
    rows = generate(out)
    assert [row._replace(ended=None) for row in rows[:4]] == rows[:4]
    assert rows[4:] == expected[4:]
    assert [row[:4] for row in rows] == [row[:4] for row in expected]
    assert out.read_text().startswith("".join((header, *older)))
    assert sha256_of(rows) != sha256_of(expected)


def test_the_hash_is_of_the_rows_and_not_of_their_order() -> None:
    rows = [Response("b", "s", "2", refused=True), Response("a", "s", "1\u2028", refused=False)]
    shuffled = random.Random(0).sample(rows, 2)
    assert sha256_of(rows) == sha256_of(shuffled) == sha256_of(rows[::-1])
    assert sha256_of(rows) != sha256_of(rows[:1])
    # Adapters store it.
    assert sha256_of(rows) == "sha256:89b6766e2050f36e356bb8923707bc61f749e466e8f747c0dca208bba52dea07"


def test_what_is_held_back_of_more_was_held_back_of_less() -> None:
    rows = [Response(f"query {n}", "somewhere", f"answer {n}", refused=False) for n in range(200)]
    back, trained = held_back(rows, 20)
    assert len(back) == 20
    assert sorted([*back, *trained]) == sorted(rows)
    assert [row for row in rows if row in set(back)] == back  # in their order
    assert [row for row in rows if row in set(trained)] == trained
    for part in (rows[:120], rows[70:], rows[::3]):
        assert not set(back) & set(held_back(part, 20)[1])
    assert set(held_back(rows[::-1], 20)[0]) == set(back)
    assert held_back(rows, 0) == ([], rows)
