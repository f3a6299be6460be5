"""EndpointCrossEncoder: splits, keeps order, counts, retries, names what failed."""

import io
import json
import random
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import boto3
import numpy as np
import psutil
import pytest
from botocore.exceptions import ClientError
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.endpoint import client as module
from helpers.endpoint.client import (
    BaseOrderWarning,
    EndpointBadAnswer,
    EndpointCrossEncoder,
    EndpointRefused,
    EndpointUnavailable,
)

pytestmark = pytest.mark.slow

PAIRS = [(f"q{i}", str(i)) for i in range(50)]


class FakeClient:
    """Scores a pair with the number that is its passage; `trouble` may raise or answer first."""

    def __init__(self, trouble=lambda call, pairs: None):
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
    response["ResponseMetadata"] = {"HTTPStatusCode": status}
    return ClientError(response, "InvokeEndpoint")


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
    running, most, lock = 0, 0, threading.Lock()

    def count(call, pairs):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.01)
        with lock:
            running -= 1

    encoder(count, max_pairs=2, max_concurrency=3).score(PAIRS)
    assert most == 3


@pytest.mark.parametrize("trouble", [model_error(500), model_error(503), model_error(0)])
def test_the_containers_trouble_is_tried_again(trouble):
    def twice(call, pairs):
        if call <= 2:
            raise trouble

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
    cross_encoder = encoder(lambda call, pairs: answer, max_pairs=10)
    with pytest.raises(EndpointBadAnswer, match=said):
        cross_encoder.score(PAIRS)


def test_the_base_order_is_kept_on_request():
    def fail(call, pairs):
        raise model_error(500)

    with pytest.warns(BaseOrderWarning, match="keep the base order"):
        scores = encoder(fail, on_error="base_order").score(PAIRS)
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) == len(PAIRS)


@pytest.mark.parametrize("pair", ["ab", ("a",), ("a", None), ("a", b"b")])
def test_what_is_no_pair_is_the_callers_error(pair):
    with pytest.raises(TypeError, match="pair 1 is"):
        encoder(on_error="base_order").score([("a", "1"), pair])


def test_wrong_options_are_refused():
    with pytest.raises(ValueError, match="on_error"):
        encoder(on_error="ignore")
    with pytest.raises(ValueError, match="max_pairs"):
        encoder(max_pairs=0)


def test_botocore_retries_throttling_and_5xx(monkeypatch):
    """Its standard mode serves; with it an overloaded front costs no code of ours."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    answers = [(503, b"{}", ""), (400, b"{}", "ThrottlingException"), (200, b'{"scores": [7]}', "")]

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["content-length"]))
            status, answer, code = answers.pop(0)
            self.send_response(status)
            self.send_header("content-length", str(len(answer)))
            self.send_header("x-amzn-ErrorType", code)
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME", url)
        session = boto3.Session("key", "secret", region_name="us-east-1")
        assert EndpointCrossEncoder("reranker", session=session).score([("a", "b")]) == [7.0]
        server.shutdown()


def workers(endpoint) -> list[psutil.Process]:
    """The server's Python processes, largest last: that one holds the model."""
    family = psutil.Process(endpoint.server).children(recursive=True)
    python = [each for each in family if "model_service_worker" in " ".join(each.cmdline())]
    return sorted(python, key=lambda each: each.memory_info().rss)


def peak_memory(endpoint) -> int:
    """The largest resident size, in kB, that the model's process ever had."""
    status = Path(f"/proc/{workers(endpoint)[-1].pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])


def many_pairs(count: int) -> list[tuple[str, str]]:
    """Short ones, that repeat with a period no part's size divides: 499 are scored to compare."""
    return [(f"question {i % 499}", f"trade {i % 499}") for i in range(count)]


@pytest.fixture(scope="module")
def own_endpoint(model_dir):
    """A server whose memory nobody else has used and whose worker may be killed."""
    from helpers.endpoint.local import local_endpoint

    with local_endpoint(model_dir) as running:
        yield running


@pytest.fixture(scope="module")
def expected(reference):
    return np.resize(reference.score(many_pairs(499)), 10_000)


def test_ten_thousand_pairs_in_order_in_bounded_memory(own_endpoint, expected, record_property):
    cross_encoder = EndpointCrossEncoder(own_endpoint.name, client=own_endpoint.client())
    few = cross_encoder.score(many_pairs(200))
    memory_of_200 = peak_memory(own_endpoint)
    scores = cross_encoder.score(many_pairs(10_000))
    ratio = peak_memory(own_endpoint) / memory_of_200
    print(f"peak memory, 10,000 pairs against 200: {ratio:.3f} ({memory_of_200} kB)")
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    np.testing.assert_allclose(few, expected[:200], atol=1e-5)
    assert ratio < 1.3


def test_a_worker_killed_in_the_middle_costs_no_score(own_endpoint, expected):
    boto_client = own_endpoint.client()
    cross_encoder = EndpointCrossEncoder(own_endpoint.name, client=boto_client, attempts=6)
    answered = threading.Event()
    boto_client.meta.events.register("after-call", lambda **_: answered.set())
    victim = workers(own_endpoint)[-1]
    killer = threading.Thread(target=lambda: answered.wait(60) and victim.kill())
    killer.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.random, "uniform", lambda low, high: 1.0)
        scores = cross_encoder.score(many_pairs(10_000))
    killer.join()
    assert not victim.is_running()
    np.testing.assert_allclose(scores, expected, atol=1e-5)


def test_it_drops_into_langchains_retriever(endpoint, reference):
    from langchain_classic.retrievers import ContextualCompressionRetriever
    from langchain_classic.retrievers.document_compressors import CrossEncoderReranker
    from langchain_core.documents import Document
    from langchain_core.retrievers import BaseRetriever

    class Fixed(BaseRetriever):
        def _get_relevant_documents(self, query, *, run_manager):
            return [Document(f"passage {i} about {'trade ' * i}") for i in range(20)]

    with endpoint.environment():
        served = EndpointCrossEncoder(endpoint.name, region_name=endpoint.region, max_pairs=7)
    ranked = [
        ContextualCompressionRetriever(
            base_compressor=CrossEncoderReranker(model=model, top_n=5), base_retriever=Fixed()
        ).invoke("what about trade?")
        for model in (served, reference)
    ]
    assert ranked[0] == ranked[1]
    assert len(ranked[0]) == 5
