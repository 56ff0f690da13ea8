from __future__ import annotations

from pathlib import Path

from safe_retrieval.encoder.input import InputEncoder
from safe_retrieval.models.fetch import resolve
from safe_retrieval.training.teachers import fingerprint_of, load_teacher
from tests.encoder.test_input import save_tiny_model as save_sentence_encoder
from tests.support.encoders import HashEncoder
from tests.support.tiny_models import tiny_model


def test_the_hash_of_a_teachers_own_files(tmp_path: Path) -> None:
    folder = save_sentence_encoder(tmp_path / "document")
    teacher = load_teacher(str(folder), tiny_model(), offline=True)
    assert teacher.fingerprint == resolve(str(folder), offline=True).fingerprint
    assert load_teacher("self", tiny_model()).fingerprint == tiny_model().fingerprint


def test_no_hash_is_better_than_that_of_other_files(tmp_path: Path) -> None:
    folder = save_sentence_encoder(tmp_path / "document")
    other = InputEncoder(folder, name="other", fingerprint="sha256:other files")
    assert fingerprint_of(other, str(folder)) is None
    assert fingerprint_of(HashEncoder(), "hash-encoder") is None
