"""EndpointCrossEncoder: splits, keeps order, counts, retries, names what failed."""

import io
import json
import random
import threading
import time
from pathlib import Path

import boto3
import numpy as np
import psutil
import pytest
from botocore.awsrequest import AWSResponse
from botocore.exceptions import ClientError
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_classic.retrievers.document_compressors import CrossEncoderReranker
from langchain_core.documents import Document

from helpers.endpoint import client as module
from helpers.endpoint.client import (
    BaseOrderWarning,
    EndpointBadAnswer,
    EndpointCrossEncoder,
    EndpointRefused,
    EndpointUnavailable,
)
from helpers.endpoint.local import local_endpoint
from helpers.fit import CutWarning
from helpers.rerank import ScoringReranker

pytestmark = pytest.mark.slow

PAIRS = [(f"q{i}", str(i)) for i in range(50)]


class FakeClient:
    """Scores a pair with the number that is its passage; `trouble` may raise or answer first."""

    def __init__(self, trouble):
        self.trouble, self.bodies, self.lock = trouble, [], threading.Lock()

    def invoke_endpoint(self, Body, **request):
        with self.lock:
            self.bodies.append(Body)
            call = len(self.bodies)
        pairs = json.loads(Body)["text_pairs"]
        time.sleep(random.uniform(0, 0.003))
        answer = self.trouble(call, pairs)
        if answer is None:
            answer = {"scores": [float(passage) for _, passage in pairs]}
        return {"Body": io.BytesIO(json.dumps(answer).encode())}


def error(code: str, status: int, **fields) -> ClientError:
    response = {"Error": {"Code": code, "Message": "no"}, **fields}
    return ClientError(response | {"ResponseMetadata": {"HTTPStatusCode": status}}, "Invoke")


def model_error(status: int) -> ClientError:
    return error("ModelError", 424, OriginalStatusCode=status, OriginalMessage='{"error": "x"}')


def encoder(trouble=lambda call, pairs: None, **options) -> EndpointCrossEncoder:
    return EndpointCrossEncoder("reranker", client=FakeClient(trouble), **options)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(module.random, "uniform", lambda low, high: 0.0)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    passages=st.lists(st.integers(0, 10**40), max_size=60),
    max_pairs=st.integers(1, 20),
    max_bytes=st.integers(80, 600),
)
def test_parts_respect_both_limits_and_lose_nothing(passages, max_pairs, max_bytes):
    cross_encoder = encoder(max_pairs=max_pairs, max_bytes=max_bytes)
    pairs = [("é", str(passage)) for passage in passages]
    assert cross_encoder.score(pairs) == [float(passage) for passage in passages]
    sent = cross_encoder.client.bodies
    assert all(len(body) <= max_bytes for body in sent)
    counts = [len(json.loads(body)["text_pairs"]) for body in sent]
    assert sum(counts) == len(pairs)
    assert all(0 < count <= max_pairs for count in counts)


def test_a_pair_larger_than_a_request_is_named():
    with pytest.raises(EndpointRefused, match="pairs 1 to 1: .* bytes of JSON") as failure:
        encoder().score([("a", "1"), ("b", "2" * 6_000_001)])
    assert failure.value.pairs == range(1, 2)


def test_no_more_calls_at_once_than_allowed():
    running, most = [], []

    def count(call, pairs):
        running.append(call)
        most.append(len(running))
        time.sleep(0.01)
        running.remove(call)

    encoder(count, max_pairs=2, max_concurrency=3).score(PAIRS)
    assert max(most) == 3


@pytest.mark.parametrize("status", [500, 503, 0])
def test_the_containers_trouble_is_tried_again(status):
    def twice(call, pairs):
        if call <= 2:
            raise model_error(status)

    assert encoder(twice).score(PAIRS) == [float(i) for i in range(50)]


@pytest.mark.parametrize(
    ("trouble", "kind", "calls"),
    [
        (model_error(500), EndpointUnavailable, 4),
        (error("ModelNotReadyException", 429), EndpointUnavailable, 4),
        (model_error(400), EndpointRefused, 1),
        (error("ThrottlingException", 400), EndpointUnavailable, 1),  # botocore has retried it
        (error("ValidationError", 400), EndpointRefused, 1),
    ],
)
def test_an_error_has_a_type_and_the_part_that_failed(trouble, kind, calls):
    def fail(call, pairs):
        if pairs[0][1] == "20":
            raise trouble

    cross_encoder = encoder(fail, max_pairs=10, max_concurrency=1)
    with pytest.raises(kind, match="pairs 20 to 29") as failure:
        cross_encoder.score(PAIRS)
    assert failure.value.pairs == range(20, 30)
    assert failure.value.__cause__ is trouble
    assert sum(b'"20"' in body for body in cross_encoder.client.bodies) == calls


def test_the_first_failure_in_time_stops_what_has_not_begun():
    def fail(call, pairs):
        if pairs[0][1] == "1":
            raise model_error(400)
        time.sleep(0.2)

    cross_encoder = encoder(fail, max_pairs=1, max_concurrency=2)
    with pytest.raises(EndpointRefused, match="pairs 1 to 1"):
        cross_encoder.score(PAIRS)
    assert len(cross_encoder.client.bodies) < 6


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"scores": [0.5] * 9}, "9 scores came for 10 pairs"),
        ({"scores": [0.5] * 9 + [float("nan")]}, "not a finite number"),
        ({"scores": ["high"] * 10}, "no JSON"),
        ({"results": []}, "no JSON"),
    ],
)
def test_an_answer_that_is_not_one_score_a_pair_is_an_error(answer, said):
    with pytest.raises(EndpointBadAnswer, match=said):
        encoder(lambda call, pairs: answer, max_pairs=10).score(PAIRS)


def test_the_base_order_is_kept_on_request():
    def fail(call, pairs):
        raise model_error(500)

    with pytest.warns(BaseOrderWarning, match="keep the base order"):
        scores = encoder(fail, on_error="base_order").score(PAIRS)
    assert scores == [-float(i) for i in range(1, 51)]


@pytest.mark.parametrize("pair", ["ab", ("a",), ("a", None), ("a", b"b")])
def test_what_is_no_pair_is_the_callers_error(pair):
    with pytest.raises(TypeError, match="pair 1 is"):
        encoder(on_error="base_order").score([("a", "1"), pair])


@pytest.mark.parametrize("option", [{"on_error": "ignore"}, {"max_pairs": 0}])
def test_wrong_options_are_refused(option):
    with pytest.raises(ValueError, match=next(iter(option))):
        encoder(**option)


def test_botocore_retries_throttling_and_5xx(monkeypatch):
    """Its standard mode serves; with it an overloaded endpoint costs no code of ours."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    answers = [(503, b"{}", ""), (400, b"{}", "ThrottlingException"), (200, b'{"scores": [7]}', "")]

    class Raw(io.BytesIO):
        def stream(self, **how):
            yield self.read()

    def send(request, **_):
        status, body, code = answers.pop(0)
        return AWSResponse(request.url, status, {"x-amzn-ErrorType": code}, Raw(body))

    session = boto3.Session("key", "secret", region_name="us-east-1")
    cross_encoder = EndpointCrossEncoder("reranker", session=session)
    cross_encoder.client.meta.events.register("before-send", send)
    assert cross_encoder.score([("a", "b")]) == [7.0]
    assert not answers


def processes(endpoint, word: str) -> list[psutil.Process]:
    """The server's Python processes with the word on their command line."""
    family = psutil.Process(endpoint.server).children(recursive=True)
    return [each for each in family if word in " ".join(each.cmdline())]


def peak_memory(endpoint) -> int:
    """The largest resident size, in kB, that the model's process ever had."""
    (scorer,) = processes(endpoint, "endpoint.scorer")
    status = Path(f"/proc/{scorer.pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])


def many_pairs(count: int) -> list[tuple[str, str]]:
    """Short ones, that repeat with a period no part's size divides: 499 are scored to compare."""
    return [(f"question {i % 499}", f"trade {i % 499}") for i in range(count)]


def test_ten_thousand_pairs_in_order_in_bounded_memory_and_though_processes_are_killed(
    model_dir, reference
):
    """On a server whose memory nobody else has used."""
    expected = np.resize(reference.score(many_pairs(499)), 10_000)
    with local_endpoint(model_dir) as endpoint:
        boto_client, answered = endpoint.client(), threading.Event()
        cross_encoder = EndpointCrossEncoder(endpoint.name, client=boto_client, attempts=6)
        few, memory_of_200 = cross_encoder.score(many_pairs(200)), peak_memory(endpoint)
        scores, memory = cross_encoder.score(many_pairs(10_000)), peak_memory(endpoint)
        print(f"peak memory, 10,000 pairs against 200: {memory / memory_of_200:.3f}")
        assert memory < 1.3 * memory_of_200
        boto_client.meta.events.register("after-call", lambda **_: answered.set())
        # A worker (the last is no parent of others) at the first answer, then the model's process.
        victims = [processes(endpoint, "model_service_worker")[-1]]
        victims += processes(endpoint, "endpoint.scorer")

        def kill() -> None:
            for victim in victims:
                answered.wait(60)
                victim.kill()
                answered.clear()

        killer = threading.Thread(target=kill)
        killer.start()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module.random, "uniform", lambda low, high: 1.0)
            again = cross_encoder.score(many_pairs(10_000))
        killer.join()
        assert not any(victim.is_running() for victim in victims)
    np.testing.assert_allclose(few, expected[:200], atol=1e-5)
    np.testing.assert_allclose([scores, again], [expected, expected], atol=1e-5)


def test_what_was_cut_is_reported_once(endpoint, local):
    served = EndpointCrossEncoder(endpoint.name, client=endpoint.client(), max_pairs=1)
    pairs = [("how long?", "three weeks " * 400), ("how long?", "a day"), ("so?", "it is " * 600)]
    with pytest.warns(CutWarning, match="^2 of 3 pairs are longer than the endpoint's") as caught:
        scores = served.score(pairs)
    assert len(caught) == 1
    np.testing.assert_allclose(scores, local.activate(local.logits(pairs)[0]), atol=1e-5)


def test_a_template_reaches_the_endpoint(endpoint, local):
    served = EndpointCrossEncoder(endpoint.name, client=endpoint.client())
    docs = [Document("It opens at nine.", metadata={"title": t}) for t in ("The pool", "The hall")]
    ranked, expected = (
        ScoringReranker(model=model, template="{title}: {page_content}").compress_documents(
            docs, "When does the hall open?"
        )
        for model in (served, local)
    )
    assert [doc.metadata["title"] for doc in ranked] == [d.metadata["title"] for d in expected]
    found, wanted = ([d.metadata["relevance_score"] for d in docs] for docs in (ranked, expected))
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_it_drops_into_langchains_reranker(endpoint, reference):
    served = EndpointCrossEncoder(endpoint.name, client=endpoint.client(), max_pairs=7)
    docs = [Document(f"passage {i} about {'trade ' * i}") for i in range(20)]
    ranked, expected = (
        CrossEncoderReranker(model=model, top_n=5).compress_documents(docs, "what about trade?")
        for model in (served, reference)
    )
    assert ranked == expected
    assert len(ranked) == 5
