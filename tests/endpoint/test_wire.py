"""What a request's bytes are read as, and what is written for its scores."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.endpoint.wire import RequestError, read, sigmoid, write

RAW = [-1.0, 3.0, 0.0, 3.0, -800.0]
TEXTS = [f"text {i}" for i in range(5)]


def ask(key="texts", items=TEXTS, max_length=512, **more):
    query = {} if key.endswith("pairs") else {"query": "what?"}
    body = json.dumps(query | {key: items} | more).encode()
    return read(body, max_pairs=2000, max_length=max_length)


def answered(key="texts", cut=(), tokens=None, **more):
    scores = [sigmoid(logit) for logit in RAW]
    found = {"scores": scores, "raw": RAW, "cut": list(cut)}
    return json.loads(write(ask(key, **more), found | ({"tokens": tokens} if tokens else {})))


def test_texts_come_back_by_score_and_those_of_equal_score_in_their_order():
    said = answered()
    assert [each["index"] for each in said] == [1, 3, 2, 0, 4]
    assert [each["score"] for each in said] == [sigmoid(3), sigmoid(3), 0.5, sigmoid(-1), 0.0]
    assert {*said[0]} == {"index", "score"}
    assert [each["score"] for each in answered(raw_scores=True, top_n=2)] == [3.0, 3.0]
    assert answered(return_text=True)[2] == {"index": 2, "score": 0.5, "text": "text 2"}


def test_documents_are_answered_as_cohere_and_jina_do():
    documents = [{"text": text} for text in TEXTS]
    how = {"model": "rerank-v3.5", "top_n": 3, "return_documents": True}
    said = answered("documents", items=documents, cut=[4], tokens=99, **how)
    shown = [(each["index"], each["document"]["text"]) for each in said["results"]]
    assert shown == [(1, "text 1"), (3, "text 3"), (2, "text 2")]
    assert said["results"][2]["relevance_score"] == 0.5
    assert said["model"] == "rerank-v3.5" and said["id"]
    assert said["usage"] == {"total_tokens": 99}
    assert "cut: [4]" in said["meta"]["warnings"][0]
    plain = answered("documents")
    assert "usage" not in plain and plain["meta"] == {} and "document" not in plain["results"][0]


def test_pairs_say_what_was_cut_only_where_something_was():
    pairs = [["what?", text] for text in TEXTS]
    assert {*answered("pairs", items=pairs)} == {"scores"}
    assert answered("text_pairs", items=pairs, cut=[1, 3])["cut"] == [1, 3]


def test_a_text_that_must_not_be_cut_is_refused_with_the_number_of_such():
    assert len(answered(cut=[1], truncate=True)) == len(answered(cut=[1])) == 5
    with pytest.raises(RequestError, match="2 of 5 texts are longer") as error:
        answered(cut=[1, 2], truncate=False)
    assert error.value.status == 422


def test_a_limit_that_the_models_own_is_within_is_no_wish():
    assert ask("documents", max_tokens_per_doc=4096).options == {
        "query": "what?",
        "max_tokens_per_doc": 4096,
    }
    for tokens, length in ((100, 512), (4096, None)):
        with pytest.raises(RequestError, match=f"reads {length or 'all'} tokens"):
            ask("documents", max_length=length, max_tokens_per_doc=tokens)


def test_a_long_query_counts_for_each_text():
    """Else six megabytes would be thousands of times as many to the tokenizer."""
    with pytest.raises(RequestError, match="together they may be 6291456") as error:
        ask(items=["a"] * 2000, query="q" * 4000)
    assert error.value.status == 413


JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
KEYS = "text_pairs pairs texts documents query top_n model raw_scores return_text truncate"
KEYS += " return_documents truncation_direction max_tokens_per_doc rank_fields other"


@settings(max_examples=400, deadline=None, derandomize=True)
@given(st.dictionaries(st.sampled_from(KEYS.split()), JSONS) | JSONS)
def test_whatever_is_sent_is_read_or_refused(payload):
    try:
        request = read(json.dumps(payload), 3, 512)
    except RequestError as error:
        assert 400 <= error.status < 500 and json.loads(str(error))["error"]
    else:
        logits = [0.0] * len(request.pairs)
        json.loads(write(request, {"scores": logits, "raw": logits, "cut": []}))
