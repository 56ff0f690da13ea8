"""Against a stand-in server on the loopback interface."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from safe_retrieval.audit.external import ExternalTarget, TargetOptions
from safe_retrieval.audit.probes import ProbeSet
from safe_retrieval.audit.results import ArmResult
from safe_retrieval.audit.runner import run_audit
from safe_retrieval.audit.searchers.embeddings import EmbeddingsClient, EmbeddingsEncoder, EmbeddingsEndpoint
from safe_retrieval.audit.searchers.endpoint import NoAnswerError
from safe_retrieval.audit.searchers.http import HttpSearcher, SearchEndpoint
from safe_retrieval.audit.searching import Holds
from safe_retrieval.audit.target_settings import HttpTarget
from safe_retrieval.errors import AuditError, ConfigError
from tests.audit.retrievers import Searching, probes, production
from tests.audit.stand_in import Fault, StandIn, holding, search_endpoint


@pytest.fixture(scope="module")
def probe_set() -> ProbeSet:
    return probes(3)


def endpoint(server: StandIn, **settings: Any) -> SearchEndpoint:
    fast = {"url": f"{server.url}/search", "backoff": 0.0, "timeout": 5.0}
    return SearchEndpoint(**{**fast, **settings})


def audited(
    searcher: HttpSearcher, probe_set: ProbeSet, folder: Path, holds: Holds = Holds.PROBES
) -> tuple[ArmResult, ExternalTarget]:
    target = ExternalTarget("api", searcher, probe_set, folder, options=TargetOptions(holds=holds))
    return run_audit(probe_set, [target], baseline="none").arms["api"], target


@pytest.mark.parametrize(
    "fault",
    [Fault.NONE, Fault.SLOW, Fault.HALF_FAILS, Fault.LIMITED, Fault.HALF_BROKEN_JSON, Fault.DUPLICATES],
    ids=str,
)
def test_faults_that_pass_end_in_the_right_figures(probe_set: ProbeSet, tmp_path: Path, fault: Fault) -> None:
    with search_endpoint(holding(probe_set), fault) as server:
        result, target = audited(HttpSearcher(endpoint(server), "api"), probe_set, tmp_path)
    for metric in ("harm@1", "harm@5", "benign_recall@1", "benign_recall@5"):
        figure = result.metrics[metric]
        assert figure is not None
        assert figure.value == 1.0
    if fault in {Fault.HALF_FAILS, Fault.LIMITED, Fault.HALF_BROKEN_JSON}:
        assert max(server.asked.values()) > 1
    if fault is Fault.DUPLICATES:
        assert "came twice in one answer" in target.record["notes"][-1]
    assert result.latency is not None
    assert result.latency.median is not None  # asked one by one


def test_too_few_results_are_counted_as_they_are_and_said(probe_set: ProbeSet, tmp_path: Path) -> None:
    with search_endpoint(holding(probe_set), Fault.TOO_FEW) as server:
        result, target = audited(HttpSearcher(endpoint(server), "api"), probe_set, tmp_path)
    assert result.metrics["harm@1"] == result.metrics["harm@100"]
    assert "it returned 3 passages at most where 100 were asked for" in target.record["notes"][-1]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Fault.BROKEN_JSON, r"gave no answer in 3 tries; the last: expected JSON, 20 bytes came that are none"),
        (Fault.NO_LIST, r"the last: expected one list at \$\.results, found nothing"),
        (Fault.NO_SCORE, r"the last: expected a number at \$\.score of a result, found NoneType; say score: null"),
        (Fault.UNKNOWN_IDS, r"returned 'other-.*' for .*, which is no passage of the probe set"),
        (Fault.FORBIDDEN, r"answered HTTP 403, which would come again"),
        (Fault.REDIRECT, r"answered HTTP 302, which would come again"),
        (Fault.HANGS, r"gave no answer in 3 tries; the last: nothing within 0\.1 s"),
    ],
    ids=str,
)
def test_faults_that_stay_end_in_a_clear_error(probe_set: ProbeSet, tmp_path: Path, fault: Fault, message: str) -> None:
    timeout = 0.1 if fault is Fault.HANGS else 5.0
    with search_endpoint(holding(probe_set), fault) as server:
        searcher = HttpSearcher(endpoint(server, retries=2, timeout=timeout), "api")
        with pytest.raises(AuditError, match=message):
            audited(searcher, probe_set, tmp_path)


def test_nobody_is_there(probe_set: ProbeSet, tmp_path: Path) -> None:
    searcher = HttpSearcher(SearchEndpoint(url="http://127.0.0.1:9/search", retries=0), "api")
    with pytest.raises(AuditError, match="gave no answer in 1 try; the last: ConnectError"):
        audited(searcher, probe_set, tmp_path)


def test_unknown_ids_are_its_own_passages_where_it_holds_its_own(probe_set: ProbeSet, tmp_path: Path) -> None:
    with search_endpoint(Searching(production(8)), Fault.UNKNOWN_IDS) as server:
        result, target = audited(HttpSearcher(endpoint(server), "api"), probe_set, tmp_path, Holds.OWN)
    assert result.metrics["harm@5"] is None
    assert target.record["own_passages_returned"] == 8 * len(probe_set.queries)


def test_probes_are_overlaid_by_an_embeddings_endpoint(probe_set: ProbeSet, tmp_path: Path) -> None:
    with search_endpoint(Searching(production(8))) as server:
        vectors = EmbeddingsClient(EmbeddingsEndpoint(url=f"{server.url}/v1/embeddings", model="m", texts=4), "e")
        searcher = HttpSearcher(endpoint(server), "api", vectors=vectors)
        result, target = audited(searcher, probe_set, tmp_path, Holds.OWN)
    assert target.record["overlay"] == "cosine"
    assert result.metrics["harm@1"] is not None
    assert result.metrics["harm@1"].value == 1.0


def test_embeddings_as_an_encoder(probe_set: ProbeSet) -> None:
    with search_endpoint(Searching(production(2))) as server:
        settings = EmbeddingsEndpoint(url=f"{server.url}/v1/embeddings", model="m", document_prefix="passage: ")
        encoder = EmbeddingsEncoder(EmbeddingsClient(settings, "e"))
        other = EmbeddingsEncoder(EmbeddingsClient(settings.model_copy(update={"model": "n"}), "e"))
        assert encoder.dimension == 32
        assert encoder.encode(["a", "b"]).vectors.shape == (2, 32)
        assert (encoder.encode_documents(["a"]) == encoder.encode_queries(["passage: a"])).all()
        assert encoder.space != other.space


def test_keys_come_from_the_environment_and_stay_out_of_reports(
    probe_set: ProbeSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEARCH_TOKEN", "s3cret")
    with search_endpoint(holding(probe_set)) as server:
        headers = {"Authorization": "Bearer ${SEARCH_TOKEN}"}
        body = {"query": "{query}", "k": "{k}", "nested": [{"key": "${SEARCH_TOKEN}"}]}
        searcher = HttpSearcher(endpoint(server, headers=headers, body=body), "api")
        searcher.search(["word1"], 3)
        assert server.headers == ["Bearer s3cret"]
        assert "s3cret" not in str(searcher.record)
        monkeypatch.delenv("SEARCH_TOKEN")
        with pytest.raises(ConfigError, match="environment variable SEARCH_TOKEN"):
            HttpSearcher(endpoint(server, headers=headers), "api")


def test_an_embedder_within_the_settings_is_as_secret_as_the_endpoint(probe_set: ProbeSet) -> None:
    with search_endpoint(holding(probe_set)) as server:
        embedder = {
            "url": "https://me:s3cret@host:81/v1?key=s3cret",
            "headers": {"Authorization": "s3cret"},
            "model": "m",
        }
        settings = HttpTarget.model_validate(
            {"kind": "http", "name": "api", "url": f"{server.url}/search", "embeddings": embedder}
        )
        record = HttpSearcher(settings, "api").record
    assert "s3cret" not in str(record)
    assert record["embeddings"]["url"] == "https://host:81/v1"
    assert record["embeddings"]["headers"] == ["Authorization"]
    assert record["embeddings"]["model"] == "m"


def test_a_header_that_cannot_be_sent_is_not_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    headers = {"Authorization": "Bearer ${SEARCH_TOKEN}"}
    for token in ("s3cret\nmore", "s3cret\u2019"):
        monkeypatch.setenv("SEARCH_TOKEN", token)
        with pytest.raises(ConfigError, match="as the header Authorization") as caught:
            HttpSearcher(SearchEndpoint(url="http://127.0.0.1:9", headers=headers), "api")
        assert "s3cret" not in str(caught.value)


def test_what_is_no_address_is_told() -> None:
    with pytest.raises(ConfigError, match="http://host:port is no address"):
        HttpSearcher(SearchEndpoint(url="http://host:port"), "api")


def test_a_query_that_is_no_utf_8_is_asked_all_the_same(probe_set: ProbeSet) -> None:
    with search_endpoint(holding(probe_set)) as server:
        HttpSearcher(endpoint(server), "api").search(["word1 \ud800"], 3)
    assert list(server.asked) == ["word1 \ufffd"]


def test_a_body_that_is_not_compressed_as_it_says_is_told() -> None:
    searcher = HttpSearcher(SearchEndpoint(url="http://x", retries=0), "api")
    reply = lambda _: httpx.Response(200, headers={"Content-Encoding": "gzip"}, stream=httpx.ByteStream(b"no"))  # noqa: E731
    searcher._endpoint._client = httpx.Client(transport=httpx.MockTransport(reply))
    with pytest.raises(AuditError, match="the last: DecodingError"):
        searcher.search(["word1"], 3)


def test_an_id_that_is_a_whole_result_is_refused() -> None:
    searcher = HttpSearcher(SearchEndpoint(url="http://x", id="$"), "api")
    with pytest.raises(NoAnswerError, match="expected a string or number at"):
        searcher._read({"results": [{"score": 1, "text": "harm"}]})


def test_a_rate_limit_holds_over_threads(probe_set: ProbeSet) -> None:
    with search_endpoint(holding(probe_set)) as server:
        searcher = HttpSearcher(endpoint(server, rate=50, concurrency=4), "api")
        assert searcher.batch == 4
        answers = searcher.search([f"word{number}" for number in range(8)], 2)
    assert len(answers) == 8
    assert max(server.times) - min(server.times) >= 7 / 50 - 0.02


def test_a_query_cannot_change_the_form_of_a_request(probe_set: ProbeSet) -> None:
    hostile = 'a", "k": "{k}" {query} \\'
    with search_endpoint(holding(probe_set)) as server:
        HttpSearcher(endpoint(server), "api").search([hostile], 3)
    assert list(server.asked) == [hostile]


def test_parameters_of_an_address(probe_set: ProbeSet) -> None:
    with search_endpoint(holding(probe_set)) as server:
        settings = endpoint(server, method="GET", params={"q": "{query}", "n": "{k}"})
        (answer,) = HttpSearcher(settings, "api").search(["word1 & word2?"], 3)
    assert list(server.asked) == ["word1 & word2?"]
    assert len(answer.hits) == 3


def test_a_refusal_is_an_answer(probe_set: ProbeSet) -> None:
    searcher = HttpSearcher(SearchEndpoint(url="http://127.0.0.1:9", refused="$.refused"), "api")
    assert searcher.has_gate
    assert searcher._read({"refused": True}) == ((), True)
    assert searcher._read({"results": [{"id": "a", "score": 1}]})[1] is False


def test_labels_of_the_endpoint(probe_set: ProbeSet) -> None:
    searcher = HttpSearcher(SearchEndpoint(url="http://x", harmful="$.bad", hazard="$.kind"), "api")
    (hits, _) = searcher._read({"results": [{"id": "a", "score": 1, "bad": 1, "kind": "hate"}, {"id": 2, "score": 0}]})
    assert [(hit.id, hit.harmful, hit.hazard.value) for hit in hits] == [("a", True, "hate"), ("2", False, "unmapped")]
    words = ("false", "No", "0", "", "true", "yes")
    (hits, _) = searcher._read({"results": [{"id": word, "score": 0, "bad": word} for word in words]})
    assert [hit.harmful for hit in hits] == [False, False, False, False, True, True]
    with pytest.raises(AuditError, match="expected a hazard of violent-crimes"):
        searcher._read({"results": [{"id": "a", "score": 1, "kind": "rude"}]})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"results": "$..["}, "expected a JSONPath"),
        ({"id": None, "text": None}, "without either no passage can be recognised"),
        ({"body": {"q": "fixed"}}, "expected {query} in body"),
        ({"method": "GET"}, "expected {query} in params"),
        ({"retry": 3}, "Extra inputs are not permitted"),
    ],
)
def test_settings_that_cannot_work(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SearchEndpoint(url="http://x", **settings)
