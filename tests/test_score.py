"""Pairs to scores in this process: equal to LangChain's, bounded in memory, in any precision."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.scale.openvino import OpenVINOCrossEncoder
from helpers.rerank import ScoringReranker
from helpers.score import LocalCrossEncoder, bounded_batches


@pytest.fixture(scope="module")
def local(model_dir):
    return LocalCrossEncoder(model_dir)


@given(st.lists(st.integers(1, 512), max_size=60), st.integers(1, 4096))
def test_batches_hold_every_position_once_and_stay_below_the_bound(lengths, bound):
    batches = bounded_batches(lengths, bound)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= bound
    flat = [lengths[i] for batch in batches for i in batch]
    assert flat == sorted(flat, reverse=True)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.text(max_size=80), st.text(max_size=400)), max_size=8))
def test_any_text_scores_as_langchains_class_scores_it(local, reference, pairs):
    expected = reference.score(pairs) if pairs else []
    np.testing.assert_allclose(local.score(pairs), expected, atol=1e-5)


def test_the_bound_changes_no_score(model_dir, local):
    pairs = [("which passage?", "words " * n) for n in (1, 200, 3, 90, 450, 2)]
    narrow = LocalCrossEncoder(model_dir, batch_tokens=1)
    np.testing.assert_allclose(narrow.score(pairs), local.score(pairs), atol=1e-5)


def test_it_stands_where_a_langchain_cross_encoder_stands(local):
    from langchain_core.cross_encoders import BaseCrossEncoder
    from langchain_core.documents import Document

    assert isinstance(local, BaseCrossEncoder)
    docs = [Document("Bees dance."), Document("The harbour is deep.")]
    best = ScoringReranker(model=local, top_n=1).compress_documents(docs, "How deep is the port?")
    assert best[0].page_content == "The harbour is deep."


def test_a_shorter_limit_cuts_the_passage(model_dir):
    short = LocalCrossEncoder(model_dir, max_length=16)
    one, other = short.score([("where is it?", "word " * 9), ("where is it?", "word " * 300)])
    assert one == pytest.approx(other, abs=1e-5)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"precision": "int4"}, "precision .* 'int4': expected one of fp32, bf16, fp16, auto"),
        ({"precision": "int8"}, "expected one of fp32"),
        ({"batch_tokens": 0}, "batch_tokens is 0"),
        ({"max_length": -1}, "max_length is -1: expected 5 to 512"),
        ({"max_length": 4}, "max_length is 4: expected 5 to 512"),
        ({"max_length": 513}, "max_length is 513: expected 5 to 512"),
    ],
)
def test_a_wrong_setting_is_named(model_dir, settings, said):
    with pytest.raises(ValueError, match=said):
        LocalCrossEncoder(model_dir, **settings)


def test_openvino_names_its_own_precisions(model_dir):
    with pytest.raises(ValueError, match="'int4': expected one of fp32, bf16, fp16, auto, int8"):
        OpenVINOCrossEncoder(model_dir, precision="int4")


def test_eight_bits_that_would_quantise_nothing_are_refused(model_dir, tmp_path):
    """DistilBERT's layers lie in no module of the name that the quantiser looks for."""
    from transformers import AutoTokenizer, DistilBertConfig, DistilBertForSequenceClassification

    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    config = DistilBertConfig(
        vocab_size=len(tokenizer), dim=32, hidden_dim=32, n_layers=1, n_heads=2, num_labels=1
    )
    DistilBertForSequenceClassification(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    pairs = [("a question", "an answer")]
    with pytest.raises(ValueError, match="Nothing in a DistilBert.* was quantised"):
        OpenVINOCrossEncoder(tmp_path, precision="int8", calibration=pairs)


def test_eight_bits_need_pairs_to_calibrate_with(model_dir):
    with pytest.raises(ValueError, match="needs calibration pairs"):
        OpenVINOCrossEncoder(model_dir, precision="int8")
