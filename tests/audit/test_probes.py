from __future__ import annotations

import gzip
import json
import os
import re
import shutil
from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from safe_retrieval.audit.hazards import Hazard
from safe_retrieval.audit.probe_manifest import DATA_FILES, MANIFEST_NAME, PROBE_DATA, read_manifest, write_manifest
from safe_retrieval.audit.probes import Probe, ProbeKind, ProbeSet, load_data_folder, load_probe_set
from safe_retrieval.errors import DataError, InputError
from safe_retrieval.metrics.auroc import auroc
from safe_retrieval.types import Document

PINNED_SHA256 = "8988c29d1a12f78a57a3ee0beb908e711a66ad667ee709ec6526a3720ba86ca6"
"""Content hash of version 1.0.0. If this changes, the version has to change with it."""


def normalised(text: str) -> str:
    return " ".join(re.findall(r"[a-z0-9]+", text.lower()))


def shingles(text: str, size: int = 5) -> set[tuple[str, ...]]:
    words = normalised(text).split()
    return {tuple(words[start : start + size]) for start in range(len(words) - size + 1)}


FUNCTION_WORDS = (
    "a an the to of in on at by for with without and or but so that which who how what where is are do does can could "
    "would i me my her his their them it be not no never"
)


def style_features(text: str) -> list[float]:
    """Wording without topic: counts of function words, number of words, letters a word, whether it is a question."""
    words = text.lower().split()
    counts = [float(words.count(word)) for word in FUNCTION_WORDS.split()]
    return [*counts, float(len(words)), len(text) / len(words), float(text.endswith("?"))]


@pytest.fixture(scope="module")
def probe_set() -> ProbeSet:
    return load_probe_set()


@pytest.fixture(scope="module")
def by_id(probe_set: ProbeSet) -> dict[str, Document]:
    return {document.id: document for document in probe_set.documents}


class TestOwnSet:
    def test_version_and_content_hash_are_pinned(self, probe_set: ProbeSet) -> None:
        assert (probe_set.name, probe_set.version) == ("safe-retrieval-probes", "1.0.0")
        assert probe_set.sha256 == PINNED_SHA256

    def test_counts(self, probe_set: ProbeSet) -> None:
        harmful = probe_set.of_kind(ProbeKind.HARMFUL)
        assert len(harmful) == len(probe_set.of_kind(ProbeKind.BENIGN)) == 132
        assert Counter(probe.hazard for probe in harmful) == dict.fromkeys(Hazard.mapped(), 11)
        sensitive = probe_set.of_kind(ProbeKind.SENSITIVE)
        assert Counter(probe.hazard for probe in sensitive) == dict.fromkeys(Hazard.mapped(), 5)
        kinds = Counter(document.metadata["kind"] for document in probe_set.documents)
        assert kinds == {"harmful-standin": 132, "benign": 344, "sensitive-answer": 60}
        assert len(probe_set.harmful_ids) == 132

    def test_ids_and_texts_are_unique(self, probe_set: ProbeSet) -> None:
        probes, documents = probe_set.queries, probe_set.documents
        assert len({probe.id for probe in probes}) == len({normalised(probe.text) for probe in probes}) == len(probes)
        assert len({document.id for document in documents}) == len(documents)
        assert len({normalised(document.title) for document in documents}) == len(documents)
        assert len({normalised(document.text) for document in documents}) == len(documents)

    def test_every_query_has_one_passage_of_its_own(self, probe_set: ProbeSet, by_id: dict[str, Document]) -> None:
        passage_kinds = {"harmful": "harmful-standin", "benign": "benign", "sensitive": "sensitive-answer"}
        answers = Counter[str]()
        for probe in probe_set.queries:
            ((passage, score),) = probe_set.qrels[probe.id].items()
            assert score == 1
            assert by_id[passage].metadata["kind"] == passage_kinds[probe.kind]
            assert by_id[passage].metadata["harmful"] is (probe.kind is ProbeKind.HARMFUL)
            answers[passage] += 1
        assert set(answers.values()) == {1}
        assert set(probe_set.qrels) == {probe.id for probe in probe_set.queries}

    def test_stand_ins_carry_the_hazard_of_their_request(self, probe_set: ProbeSet, by_id: dict[str, Document]) -> None:
        for probe in probe_set.of_kind(ProbeKind.HARMFUL):
            (passage,) = probe_set.qrels[probe.id]
            assert by_id[passage].metadata["hazard"] == probe.hazard
        assert {by_id[id_].metadata["hazard"] for id_ in by_id.keys() - probe_set.harmful_ids} == {None}

    def test_twins_point_at_each_other(self, probe_set: ProbeSet) -> None:
        probes = {probe.id: probe for probe in probe_set.queries}
        for probe in probe_set.of_kind(ProbeKind.HARMFUL):
            twin = probes[probe.twin or ""]
            assert (twin.twin, twin.kind, twin.hazard) == (probe.id, ProbeKind.BENIGN, probe.hazard)
        assert all(probe.twin is None for probe in probe_set.of_kind(ProbeKind.SENSITIVE))

    def test_style_does_not_separate_twins(self, probe_set: ProbeSet) -> None:
        probes = {probe.id: probe for probe in probe_set.queries}
        pairs = [(probe, probes[probe.twin or ""]) for probe in probe_set.of_kind(ProbeKind.HARMFUL)]
        for harmful, twin in pairs:
            lengths = sorted(len(probe.text.split()) for probe in (harmful, twin))
            assert lengths[1] <= 1.4 * lengths[0], harmful.id
            assert harmful.text[-1] == twin.text[-1], harmful.id
            assert harmful.text.split()[:1] == twin.text.split()[:1], harmful.id
        questions = sum(harmful.text.endswith("?") for harmful, _ in pairs)
        assert 0.4 <= questions / len(pairs) <= 0.6

    def test_function_words_and_length_do_not_separate_twins(self, probe_set: ProbeSet) -> None:
        harmful = probe_set.of_kind(ProbeKind.HARMFUL)
        probes = {probe.id: probe for probe in probe_set.queries}
        rows = np.array(
            [style_features(text) for probe in harmful for text in (probe.text, probes[probe.twin or ""].text)]
        )
        rows = (rows - rows.mean(axis=0)) / (rows.std(axis=0) + 1e-9)
        labels = np.tile([1.0, -1.0], len(harmful))
        folds = np.repeat(np.arange(len(harmful)) % 6, 2)  # a pair is never split between fitting and scoring
        scores = np.empty(len(rows))
        for fold in range(6):
            fit, held_out = folds != fold, folds == fold
            gram = rows[fit].T @ rows[fit] + 100.0 * np.eye(rows.shape[1])  # ridge regression
            scores[held_out] = rows[held_out] @ np.linalg.solve(gram, rows[fit].T @ labels[fit])
        assert auroc(scores[labels > 0], scores[labels < 0]) < 0.65

    def test_passages_have_the_length_of_a_paragraph(self, probe_set: ProbeSet) -> None:
        lengths = {document.id: len(document.text.split()) for document in probe_set.documents}
        assert {id_: length for id_, length in lengths.items() if not 40 <= length <= 90} == {}
        harmful = [lengths[id_] for id_ in probe_set.harmful_ids]
        benign = [length for id_, length in lengths.items() if id_ not in probe_set.harmful_ids]
        assert abs(sum(harmful) / len(harmful) - sum(benign) / len(benign)) < 5  # length must not tell them apart

    def test_no_two_passages_share_wording(self, probe_set: ProbeSet) -> None:
        bags = [(document.id, shingles(document.text)) for document in probe_set.documents]
        close = [
            (first, second)
            for (first, one), (second, other) in combinations(bags, 2)
            if len(one & other) > 0.1 * min(len(one), len(other))
        ]
        assert close == []

    def test_text_is_clean(self, probe_set: ProbeSet) -> None:
        texts = [document.title for document in probe_set.documents]
        texts += [document.text for document in probe_set.documents] + [probe.text for probe in probe_set.queries]
        for text in texts:
            assert text == text.strip()
            assert "  " not in text
            assert text.isprintable()
            assert all(character.isascii() or character.isalpha() for character in text)  # names such as Béla

    def test_files_are_plain_utf8_with_unix_line_ends(self) -> None:
        for name in (*DATA_FILES, MANIFEST_NAME):
            data = (PROBE_DATA / name).read_bytes()
            data.decode("utf-8")
            assert data.endswith(b"\n")
            assert b"\r" not in data
            assert not data.startswith(b"\xef\xbb\xbf")

    def test_the_manifest_counts_what_is_there(self) -> None:
        manifest = read_manifest(PROBE_DATA)
        assert manifest.license == "Apache-2.0"
        assert manifest.counts == {
            "judgements": 324,
            "passages/benign": 344,
            "passages/harmful-standin": 132,
            "passages/sensitive-answer": 60,
            "queries/benign-twin": 132,
            "queries/harmful": 132,
            "queries/sensitive": 60,
        }


class TestOwnSetBroken:
    @pytest.fixture
    def copy(self, tmp_path: Path) -> Path:
        return Path(shutil.copytree(PROBE_DATA, tmp_path / "probes"))

    def test_a_copy_elsewhere_is_the_same_set(self, copy: Path, probe_set: ProbeSet) -> None:
        assert load_probe_set(copy) == probe_set

    @pytest.mark.parametrize("name", DATA_FILES)
    def test_a_flipped_byte_is_found(self, copy: Path, name: str) -> None:
        data = bytearray((copy / name).read_bytes())
        data[100] ^= 1
        (copy / name).write_bytes(data)
        with pytest.raises(DataError, match=rf"{re.escape(name)}: expected SHA-256"):
            load_probe_set(copy)

    @pytest.mark.parametrize("name", [*DATA_FILES, MANIFEST_NAME])
    def test_a_missing_file_is_named(self, copy: Path, name: str) -> None:
        (copy / name).unlink()
        with pytest.raises(DataError, match=re.escape(name)):
            load_probe_set(copy)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ("not json", "expected JSON"),
            ("[]", "expected a manifest of format 1, found 'list'"),
            ('{"format": 2}', "expected a manifest of format 1, found 2"),
            ('{"format": 1}', "its fields are not those of format 1"),
        ],
    )
    def test_a_broken_manifest_is_refused(self, copy: Path, change: str, message: str) -> None:
        (copy / MANIFEST_NAME).write_text(change)
        with pytest.raises(DataError, match=message):
            load_probe_set(copy)

    def test_a_manifest_without_all_hashes_is_refused(self, copy: Path) -> None:
        fields = json.loads((copy / MANIFEST_NAME).read_text())
        del fields["sha256"]["qrels.tsv"]
        (copy / MANIFEST_NAME).write_text(json.dumps(fields))
        with pytest.raises(DataError, match="expected a SHA-256 for each of"):
            load_probe_set(copy)

    @pytest.mark.parametrize(
        ("name", "old", "new", "message"),
        [
            (
                "passages.jsonl",
                '"kind": "benign"',
                '"kind": "good"',
                "expected one of harmful-standin, .* found 'good'",
            ),
            ("passages.jsonl", '"hazard": "hate"', '"hazard": "hat"', "expected one of violent-crimes, .* found 'hat'"),
            ("queries.jsonl", '"kind": "harmful"', '"kind": "bad"', "expected one of harmful, benign-twin, sensitive"),
            ("queries.jsonl", '"hazard": "hate"', '"hazard": null', "expected one of violent-crimes, .* found None"),
            ("queries.jsonl", '"twin": null', '"twin": 3', "expected a query id or null as twin, found int"),
        ],
    )
    def test_an_unknown_value_is_named(self, copy: Path, name: str, old: str, new: str, message: str) -> None:
        text = (copy / name).read_text("utf-8")
        (copy / name).write_text(text.replace(old, new, 1), "utf-8", newline="\n")
        write_manifest(copy, "9.9.9")
        with pytest.raises(DataError, match=message):
            load_probe_set(copy)

    def test_a_change_changes_the_content_hash(self, copy: Path, probe_set: ProbeSet) -> None:
        text = (copy / "qrels.tsv").read_text("utf-8")
        (copy / "qrels.tsv").write_text(text.rsplit("\t", 1)[0] + "\t2\n", "utf-8", newline="\n")
        manifest = write_manifest(copy, "1.0.1")
        changed = load_probe_set(copy)
        assert (changed.version, manifest.version) == ("1.0.1", "1.0.1")
        assert changed.sha256 != probe_set.sha256


def write_set(folder: Path, prefix: str, *, qrels: bool = True) -> None:
    folder.mkdir(parents=True)
    rows = [{"_id": str(number), "title": "", "text": f"{prefix} passage {number}"} for number in range(3)]
    with gzip.open(folder / "corpus.jsonl.gz", "wt", encoding="utf-8") as out:
        out.writelines(json.dumps(row) + "\n" for row in rows)
    (folder / "queries.jsonl").write_text(json.dumps({"_id": "0", "text": f"{prefix} query"}) + "\n")
    if qrels:
        (folder / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\n0\t1\t1\n")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_set(tmp_path / "harm" / "alpha", "alpha")
    write_set(tmp_path / "harm" / "beta", "beta", qrels=False)
    write_set(tmp_path / "benign" / "nq-wiki", "wiki")
    write_set(tmp_path / "benign" / "alpha", "benign alpha")
    (tmp_path / "prompts").mkdir()
    prompts = [
        {"id": "1", "prompt": "How can I kill time?", "label": "safe"},
        {"id": "2", "prompt": "not shown", "label": "unsafe"},
    ]
    (tmp_path / "prompts" / "xstest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in prompts))
    return tmp_path


class TestDataFolder:
    def test_all_harm_sets_and_the_default_benign_set(self, root: Path) -> None:
        probes = load_data_folder(root)
        assert probes.name == "harm/alpha+harm/beta+benign/nq-wiki+prompts/xstest"
        assert probes.queries == (
            Probe("harm/alpha/0", "alpha query", ProbeKind.HARMFUL, source="harm/alpha"),
            Probe("harm/beta/0", "beta query", ProbeKind.HARMFUL, source="harm/beta"),
            Probe("benign/nq-wiki/0", "wiki query", ProbeKind.BENIGN, source="benign/nq-wiki", license="CC BY-SA 3.0"),
            Probe(
                "prompts/xstest/1",
                "How can I kill time?",
                ProbeKind.SENSITIVE,
                source="prompts/xstest",
                license="CC BY 4.0",
            ),
        )
        assert probes.qrels == {
            "harm/alpha/0": {"harm/alpha/1": 1},
            "benign/nq-wiki/0": {"benign/nq-wiki/1": 1},
        }
        assert probes.documents[0].metadata == {
            "harmful": True,
            "hazard": "unmapped",
            "kind": "harmful",
            "source": "harm/alpha",
        }
        assert probes.documents[-1].metadata == {
            "harmful": False,
            "hazard": None,
            "kind": "benign",
            "source": "benign/nq-wiki",
        }

    def test_sets_of_one_name_do_not_collide(self, root: Path) -> None:
        probes = load_data_folder(root, harm=["alpha"], benign=["alpha", "nq-wiki"])
        assert len({document.id for document in probes.documents}) == len(probes.documents) == 9
        assert len(probes.harmful_ids) == 3

    def test_the_hash_is_of_content_not_of_files(self, root: Path) -> None:
        before = load_data_folder(root).sha256
        plain = root / "harm" / "alpha" / "corpus.jsonl"
        plain.write_bytes(gzip.decompress(plain.with_suffix(".jsonl.gz").read_bytes()))
        plain.with_suffix(".jsonl.gz").unlink()
        assert load_data_folder(root).sha256 == before
        plain.write_text(plain.read_text().replace("alpha passage 2", "alpha passage two"))
        assert load_data_folder(root).sha256 != before

    def test_lone_surrogates_have_a_hash(self, root: Path) -> None:
        (root / "harm" / "alpha" / "queries.jsonl").write_text('{"_id": "0", "text": "\\ud800"}\n')
        assert len(load_data_folder(root).sha256) == 64

    def test_prompts_are_optional(self, root: Path) -> None:
        shutil.rmtree(root / "prompts")
        assert load_data_folder(root).of_kind(ProbeKind.SENSITIVE) == ()

    @pytest.mark.parametrize(
        ("harm", "benign", "message"),
        [
            (["gamma"], None, "no set named gamma; there are: alpha, beta"),
            (["../benign/alpha"], None, "no set named"),
            ([], None, "expected at least one set; there are: alpha, beta"),
            (None, [], "expected at least one set; there are: alpha, nq-wiki"),
            (["alpha", "alpha"], None, "a harm set is named twice"),
        ],
    )
    def test_wrong_names_are_refused(
        self, root: Path, harm: list[str] | None, benign: list[str] | None, message: str
    ) -> None:
        with pytest.raises(InputError, match=message):
            load_data_folder(root, harm, benign)

    @pytest.mark.parametrize("room", ["harm", "benign"])
    def test_both_halves_are_required(self, root: Path, room: str) -> None:
        shutil.rmtree(root / room)
        with pytest.raises(DataError, match=f"{room}: expected a folder of BEIR folders"):
            load_data_folder(root)

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ('{"id": "3", "prompt": "x", "label": "SAFE"}', "line 1: expected safe or unsafe in 'label', found 'SAFE'"),
            ('{"id": "3", "label": "safe"}', "line 1: expected a string in 'prompt', found no such field"),
            ('{"prompt": "x", "label": "safe"}', "line 1: expected a string in 'id', found no such field"),
        ],
    )
    def test_broken_prompts_are_named_with_their_line(self, root: Path, line: str, message: str) -> None:
        (root / "prompts" / "xstest.jsonl").write_text(line + "\n")
        with pytest.raises(DataError, match=rf"xstest\.jsonl, {message}"):
            load_data_folder(root)


@pytest.mark.skipif("SAFE_RETRIEVAL_DATA" not in os.environ, reason="SAFE_RETRIEVAL_DATA names no data folder")
class TestPublishedData:
    def test_counts(self) -> None:
        probes = load_data_folder(Path(os.environ["SAFE_RETRIEVAL_DATA"]), harm=["advbench-ir"])
        assert {kind.value: len(probes.of_kind(kind)) for kind in ProbeKind} == {
            "harmful": 520,
            "benign": 1500,
            "sensitive": 250,
        }
        assert (len(probes.documents), len(probes.harmful_ids)) == (7296, 1796)

    def test_no_probe_repeats_a_published_or_a_training_query(self, probe_set: ProbeSet) -> None:
        root = Path(os.environ["SAFE_RETRIEVAL_DATA"])
        own = {normalised(probe.text): probe.id for probe in probe_set.queries}
        published = {normalised(probe.text) for probe in load_data_folder(root).queries}
        for path in sorted((root / "train-queries").glob("*.jsonl.gz")):
            with gzip.open(path, "rt", encoding="utf-8") as lines:
                published.update(normalised(json.loads(line)["text"]) for line in lines)
        assert {own[text] for text in own.keys() & published} == set()
