"""RerankAPICrossEncoder: groups by query, keeps order, counts, retries, names what failed."""

import json

import httpx
import numpy as np
import pytest

from helpers.endpoint import client as module
from helpers.endpoint.client import EndpointBadAnswer, EndpointRefused, EndpointUnavailable
from helpers.endpoint.rerank_api import RerankAPICrossEncoder
from helpers.fit import CutWarning

PAIRS = [(f"q{i % 3}", str(i)) for i in range(20)]


def encoder(trouble=lambda call, body: None, form="cohere", **options) -> RerankAPICrossEncoder:
    """One whose server scores a text with the number that it is; `trouble` may answer first."""
    made, asked = RerankAPICrossEncoder("http://server/rerank", form=form, **options), []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(json.loads(request.content))
        if (found := trouble(len(asked), asked[-1])) is not None:
            return found
        texts = asked[-1].get("texts") or asked[-1]["documents"]
        key = "score" if form == "tei" else "relevance_score"
        results = [{"index": i, key: float(text)} for i, text in enumerate(texts)][::-1]
        return httpx.Response(200, json=results if form == "tei" else {"results": results})

    headers = made.client.headers
    made.client = httpx.Client(transport=httpx.MockTransport(answer), headers=headers)
    made.asked = asked
    return made


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(module.random, "uniform", lambda low, high: 0.0)


@pytest.mark.parametrize("form", ["tei", "cohere"])
def test_the_texts_of_a_query_go_together_and_scores_come_back_in_order(form):
    cross_encoder = encoder(form=form, max_texts=4, model="m", api_key="k")
    assert cross_encoder.score(PAIRS) == [float(i) for i in range(20)]
    assert [body["query"] for body in cross_encoder.asked] == ["q0"] * 2 + ["q1"] * 2 + ["q2"] * 2
    assert cross_encoder.asked[0]["model"] == "m"
    assert form == "tei" or [body["top_n"] for body in cross_encoder.asked] == [4, 3] * 2 + [4, 2]
    assert cross_encoder.client.headers["Authorization"] == "Bearer k"
    assert cross_encoder.score([]) == []


@pytest.mark.parametrize("status", [424, 429, 503])
def test_what_may_pass_is_tried_again(status):
    passing = encoder(lambda call, body: httpx.Response(status) if call < 3 else None)
    assert passing.score(PAIRS[:1]) == [0.0]
    with pytest.raises(EndpointUnavailable, match=f"answered {status}") as failure:
        encoder(lambda call, body: httpx.Response(status), attempts=2).score(PAIRS)
    assert failure.value.pairs == [0, 3, 6, 9, 12, 15, 18]


def test_a_lost_connection_is_named_and_a_refusal_is_final():
    def lost(call, body):
        raise httpx.ConnectError("nobody there")

    with pytest.raises(EndpointUnavailable, match="nobody there"):
        encoder(lost).score(PAIRS)
    refused = encoder(lambda call, body: httpx.Response(422, json={"error": "too long"}))
    with pytest.raises(EndpointRefused, match="pairs 0 to 18: .*422.*too long"):
        refused.score(PAIRS)
    assert len(refused.asked) == 1


@pytest.mark.parametrize(
    ("results", "said"),
    [
        ([{"index": 0, "relevance_score": 1}], "expected one result for each of 2 texts, 1 came"),
        ([{"index": 0, "relevance_score": 1}] * 2, "or an index twice"),
        ([{"index": i, "relevance_score": float("nan")} for i in (0, 1)], "no finite|not a finite"),
        ([{"index": i, "relevance_score": "high"} for i in (0, 1)], "no cohere answer"),
        ({"detail": "?"}, "no cohere answer"),
    ],
)
def test_an_answer_that_is_not_one_score_a_text_is_an_error(results, said):
    content = json.dumps({"results": results})
    with pytest.raises(EndpointBadAnswer, match=said):
        encoder(lambda call, body: httpx.Response(200, content=content)).score([("q", "1")] * 2)


def test_what_a_server_says_of_cut_texts_is_passed_on_and_tei_may_be_told_to_refuse():
    result = {"results": [{"index": 0, "relevance_score": 1}], "meta": {"warnings": ["1 was cut"]}}
    with pytest.warns(CutWarning, match="the server says: 1 was cut"):
        encoder(lambda call, body: httpx.Response(200, json=result)).score(PAIRS[:1])
    for options, sent in (({}, True), ({"truncate": False}, False)):
        cross_encoder = encoder(form="tei", **options)
        cross_encoder.score(PAIRS[:1])
        assert cross_encoder.asked[0]["truncate"] is sent


@pytest.mark.parametrize("option", [{"form": "jina"}, {"max_texts": 0}, {"attempts": 0}])
def test_wrong_options_are_refused(option):
    with pytest.raises(ValueError, match=next(iter(option))):
        RerankAPICrossEncoder("http://server", **option)


@pytest.mark.slow
@pytest.mark.parametrize(("form", "path"), [("tei", "/rerank"), ("cohere", "/v2/rerank")])
def test_our_own_server_speaks_both(endpoint, reference, form, path):
    pairs = [(f"question {i % 2}", f"passage {i} about {'trade ' * i}") for i in range(40)]
    served = RerankAPICrossEncoder(endpoint.url + path, form=form)
    np.testing.assert_allclose(served.score(pairs), reference.score(pairs), atol=1e-5)
    with pytest.raises(EndpointRefused, match="lone surrogate"):
        served.score([("a", "b\ud800")])
