"""The real model server behind its front: right scores, and bad input answered as the client's.

BAD_INPUTS is the table in helpers/endpoint/README.md; the last test compares the two.
"""

import json
from pathlib import Path

import httpx
import numpy as np
import pytest
from botocore.exceptions import ClientError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.endpoint.wire import FORMS, JSON

pytestmark = pytest.mark.slow

README = Path(__file__).parents[2] / "helpers" / "endpoint" / "README.md"
GOOD = ["a query", "a passage"]
PAIRS = [(f"question {i}", "about trade and vectors " * (i + 1)) for i in range(12)]


LONG = "word " * 20_000


def body(*pairs, key="text_pairs") -> bytes:
    return json.dumps({key: pairs}).encode()


def texts(*items, key="texts", query="a query", **more) -> bytes:
    return json.dumps({"query": query, key: items} | more).encode()


def documents(*items, **more) -> bytes:
    return texts(*items, key="documents", **more)


def scores_of(said) -> list:
    """The scores or results of an answer, in whatever form."""
    return said if isinstance(said, list) else said.get("scores", said.get("results"))


# what is sent, the body, headers that differ, the status, and how many scores or the error
BAD_INPUTS = [
    ("not JSON", b"{", {}, 400, "not valid JSON"),
    ("not UTF-8", b'{"pairs": [["\xff", "b"]]}', {}, 400, "not valid JSON in UTF-8"),
    ("an empty body", b"", {}, 400, "not valid JSON"),
    ("brackets 100,000 deep", b"[" * 100_000, {}, 400, "not valid JSON"),
    ("no object", b"[[1]]", {}, 400, "must be an object"),
    ("wrong content type", body(GOOD), {"content-type": "text/csv"}, 415, "Content-Type"),
    ("a form", b"a=1", {"content-type": "application/x-www-form-urlencoded"}, 415, "Content-Type"),
    ("wrong Accept", body(GOOD), {"accept": "text/html"}, 406, "Accept"),
    ("missing key", b"{}", {}, 400, "expected one of"),
    ("both keys", b'{"text_pairs": [], "pairs": []}', {}, 400, "got text_pairs and pairs"),
    ("an extra key", b'{"text_pairs": [], "top_n": 3}', {}, 400, "unknown key \"top_n\""),
    ("no list", b'{"text_pairs": "ab"}', {}, 400, "must be a list, not a string"),
    ("no pairs", body(), {}, 200, 0),
    ("a flat list", body("a", "b"), {}, 400, "pair 0: expected [query, passage], got a string"),
    ("a pair of one", body(GOOD, GOOD, GOOD, ["a"]), {}, 400, "pair 3: expected"),
    ("a pair of three", body(GOOD, ["a", "b", "c"]), {}, 400, "pair 1: expected"),
    ("null in a pair", body(GOOD, ["a", None]), {}, 400, "pair 1: the passage must be"),
    ("a number in a pair", body([1, "b"]), {}, 400, "pair 0: the query must be"),
    ("empty strings", body(["", ""], ["", "b"], ["a", ""]), {}, 200, 3),
    ("a lone surrogate", b'{"pairs": [["a", "b\\ud800"]]}', {}, 400, "surrogate at character 1"),
    ("a passage of 100,000 characters", body(["a", LONG]), {}, 200, 1),
    ("a query of 100,000 characters", body(["x" * 100_000, "b"]), {}, 200, 1),
    ("10,000 pairs", body(*[GOOD] * 10_000), {}, 413, "10000 pairs; a request may hold 2000"),
    ("no texts", texts(), {}, 400, "\"texts\" is empty"),
    ("texts without a query", b'{"texts": ["a"]}', {}, 400, "\"query\" must be a string, not null"),
    ("a number among texts", texts("a", 1), {}, 400, "text 1 must be a string, not a number"),
    ("an object among texts", texts({"text": "a"}), {}, 400, "must be a string, not an object"),
    ("a document with a title", documents({"text": "a", "title": "b"}), {}, 400, "document 0 must"),
    ("a lone surrogate in a text", texts("a\ud800"), {}, 400, "text 0 has a lone surrogate"),
    ("10,000 texts", texts(*["a"] * 10_000), {}, 413, "10000 texts; a request may hold 2000"),
    ("a query too long for so many", texts(*"ab" * 50, query=LONG), {}, 413, "shorten it"),
    ("top_n of 0", texts("a", top_n=0), {}, 400, "\"top_n\" must be 1 or more"),
    ("top_n of 1.5", documents("a", top_n=1.5), {}, 400, "\"top_n\" must be whole"),
    ("top_n of 9 for two", documents("a", "b", top_n=9), {}, 200, 2),
    ("null for an option", documents("a", top_n=None, rank_fields=None), {}, 200, 1),
    ("an option as text", texts("a", raw_scores="yes"), {}, 400, "must be a boolean, not a string"),
    ("an unknown option", texts("a", chunk=1), {}, 400, "unknown key \"chunk\" beside \"texts\""),
    ("rank_fields", documents("a", rank_fields=["text"]), {}, 400, "cannot be had"),
    ("a smaller limit", documents("a", max_tokens_per_doc=9), {}, 400, "reads 512 tokens"),
    ("cut from the left", texts("a", truncation_direction="Left"), {}, 400, "the end is cut"),
    ("too long, and not to be cut", texts("a", LONG, truncate=False), {}, 422, "1 of 2 texts"),
    ("too long, and cut", texts("a", LONG), {}, 200, 2),
]  # fmt: skip


def post(endpoint, content: bytes, headers: dict) -> httpx.Response:
    headers = {"content-type": "application/json", "accept": "application/json"} | headers
    return httpx.post(
        f"{endpoint.container_url}/invocations", content=content, headers=headers, timeout=600
    )


def assert_still_serving(endpoint, reference) -> None:
    answer = post(endpoint, body(*PAIRS[:2]), {})
    assert answer.status_code == 200
    np.testing.assert_allclose(answer.json()["scores"], reference.score(PAIRS[:2]), atol=1e-5)


def assert_says_no_secrets(answer: httpx.Response) -> None:
    secrets = ("Traceback", ".py", "/tmp", "site-packages")
    assert not [each for each in secrets if each in answer.text]


def test_every_rerank_path_has_the_containers_status_and_an_error_for_each_client(endpoint):
    for path, content in [("/rerank", texts()), ("/v1/rerank", b"{"), ("/v2/rerank", b"{}")]:
        answer = httpx.post(endpoint.url + path, content=content, headers={"content-type": JSON})
        said = answer.json()
        assert answer.status_code == 400
        assert said["error"] == said["message"] == said["detail"]
        assert said["error_type"] == ("Empty" if path == "/rerank" else "Validation")
    headers = {"content-type": JSON, "authorization": "Bearer any"}
    content = texts(*[passage for _, passage in PAIRS])
    answer = httpx.post(f"{endpoint.url}/rerank", content=content, headers=headers)
    assert answer.json() == post(endpoint, content, {}).json()
    large = httpx.post(f"{endpoint.url}/rerank", content=b" " * 6_291_457, headers=headers)
    assert large.status_code == 413 and large.json()["error_type"] == "Validation"
    assert httpx.get(f"{endpoint.url}/health").status_code == 200


@pytest.mark.parametrize("key", ["text_pairs", "pairs"])
def test_langchains_form_and_the_pages_form_score_the_same(endpoint, reference, key):
    scores = post(endpoint, body(*PAIRS, key=key), {}).json()["scores"]
    np.testing.assert_allclose(scores, reference.score(PAIRS), atol=1e-5)


@pytest.mark.parametrize("case", BAD_INPUTS, ids=lambda case: case[0])
def test_bad_input(endpoint, reference, case):
    _, content, headers, status, expected = case
    answer = post(endpoint, content, headers)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert_says_no_secrets(answer)
    if status == 200:
        assert len(scores_of(answer.json())) == expected
    else:
        assert expected in answer.json()["error"]
    assert_still_serving(endpoint, reference)


SURROGATES = st.text(st.characters(), max_size=8)  # with Cs: lone surrogates too
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | SURROGATES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(SURROGATES, inner, max_size=3),
    max_leaves=6,
)
NEARLY = st.fixed_dictionaries(
    {"text_pairs": st.lists(st.lists(SURROGATES, min_size=2, max_size=2) | VALUES, max_size=5)}
)
NEARLY |= st.fixed_dictionaries(
    {"query": SURROGATES, "texts": st.lists(SURROGATES | VALUES, max_size=5)},
    optional={"truncate": VALUES, "return_text": VALUES, "top_n": st.integers(-1, 3) | VALUES},
)
NEARLY |= st.fixed_dictionaries(
    {"query": SURROGATES, "documents": st.lists(SURROGATES | VALUES, max_size=5)},
    optional={"model": VALUES, "top_n": st.integers(-1, 3) | VALUES, "rank_fields": VALUES},
)


@settings(
    max_examples=120, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
@given(payload=st.binary(max_size=50) | (NEARLY | VALUES).map(lambda v: json.dumps(v).encode()))
def test_whatever_is_sent_gets_scores_or_a_4xx(endpoint, payload):
    answer = post(endpoint, payload, {})
    assert_says_no_secrets(answer)
    if answer.status_code == 200:
        sent = json.loads(payload)
        (items,) = [sent[key] for key in FORMS if sent.get(key) is not None]
        most = sent.get("top_n") or len(items)
        assert len(scores_of(answer.json())) == min(most, len(items))
    else:
        assert 400 <= answer.status_code < 500
        assert answer.json()["error"]


def test_boto3_raises_what_aws_would_raise(endpoint):
    client = endpoint.client()

    def error_of(**request) -> dict:
        with pytest.raises(ClientError) as error:
            client.invoke_endpoint(ContentType="application/json", **request)
        return error.value.response

    bad_pair = error_of(EndpointName=endpoint.name, Body=body(["a"]))
    assert bad_pair["Error"]["Code"] == "ModelError"
    assert bad_pair["ResponseMetadata"]["HTTPStatusCode"] == 424
    assert bad_pair["OriginalStatusCode"] == 400
    assert json.loads(bad_pair["OriginalMessage"])["pair"] == 0
    assert error_of(EndpointName="other", Body=b"{}")["Error"]["Code"] == "ValidationError"
    too_large = error_of(EndpointName=endpoint.name, Body=b" " * 6_291_457)
    assert too_large["ResponseMetadata"]["HTTPStatusCode"] == 413
    largest = {"EndpointName": endpoint.name, "Body": body(GOOD) + b" " * 6_200_000}
    answer = client.invoke_endpoint(ContentType="application/json", **largest)
    assert len(json.load(answer["Body"])["scores"]) == 1


def test_the_readme_has_the_same_table(endpoint):
    rows = [line for line in README.read_text().splitlines() if line.startswith("|")]
    for label, _, _, status, _ in BAD_INPUTS:
        assert any(row.startswith(f"| {label} | {status} ") for row in rows), label


def test_the_server_survived_all_of_it(endpoint, reference):
    assert_still_serving(endpoint, reference)
    assert "worker died" not in endpoint.log().lower()
