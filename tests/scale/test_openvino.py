"""The same scores from OpenVINO, or a refusal: any architecture, any padding, fewer bits."""

import pickle

import numpy as np
import pytest
import torch
import transformers as hf
from langchain_community.cross_encoders import HuggingFaceCrossEncoder

from helpers.scale.openvino import OpenVINOCrossEncoder

pytestmark = pytest.mark.slow

PAIRS = [("How long?", "Three weeks."), ("How long?", "The harbour is deep. " * 150)]
PAIRS += [("How long?", "Books are lent for three weeks. " * 9)]
HEADS = {"num_hidden_layers": 2, "num_attention_heads": 4}
SMALL = {"hidden_size": 32, "intermediate_size": 64, "initializer_range": 0.3} | HEADS
ROLE = "{{{{ messages | selectattr('role', 'eq', '{}') | map(attribute='content') | first }}}}"
TEMPLATE = f"Does {ROLE.format('document')} answer {ROLE.format('query')}?"


@pytest.fixture
def save(model_dir, tmp_path):
    """Save a small model of another architecture, with random weights."""

    def save(kind, config, template=None, **shape):
        torch.manual_seed(0)
        tokenizer = hf.AutoTokenizer.from_pretrained(
            model_dir, model_input_names=["input_ids", "attention_mask"]
        )
        tokenizer.chat_template = template
        known = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
        kind(config(num_labels=1, **known, **shape)).save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
        return tmp_path

    return save


def modern_bert(save):
    """Windows of 16 tokens: most of the padding sees no word."""
    shape = {"local_attention": 16, "classifier_pooling": "mean"} | SMALL | {"num_hidden_layers": 4}
    return save(hf.ModernBertForSequenceClassification, hf.ModernBertConfig, **shape)


def qwen(save):
    """What its chat template adds is no part of `tokenizer(query, passage)`."""
    shape = SMALL | {"num_key_value_heads": 2, "head_dim": 8}
    return save(hf.Qwen3ForSequenceClassification, hf.Qwen3Config, TEMPLATE, **shape)


@pytest.mark.parametrize("make", [modern_bert, qwen])
def test_scores_are_those_of_langchains_class_whatever_the_architecture(make, save):
    folder = make(save)
    model = OpenVINOCrossEncoder(folder)
    expected = HuggingFaceCrossEncoder(model_name=str(folder)).score(PAIRS)
    assert np.ptp(expected) > 0.01
    np.testing.assert_allclose(model.score(PAIRS), expected, atol=1e-5)
    elsewhere = pickle.loads(pickle.dumps(model))
    np.testing.assert_allclose(elsewhere.score(PAIRS), expected, atol=1e-5)


def test_a_conversion_that_computes_something_else_is_refused(save, monkeypatch):
    """With torch's fused attention, padding beyond the window becomes NaN."""
    monkeypatch.setattr(hf.ModernBertForSequenceClassification, "set_attn_implementation", print)
    with pytest.raises(ValueError, match="of a ModernBertFor.* differ from torch's by nan"):
        OpenVINOCrossEncoder(modern_bert(save))


def test_a_language_model_is_refused(save):
    shape = SMALL | {"num_key_value_heads": 2, "head_dim": 8}
    with pytest.raises(ValueError, match="not a Qwen3ForCausalLM; LocalCrossEncoder takes any"):
        OpenVINOCrossEncoder(save(hf.Qwen3ForCausalLM, hf.Qwen3Config, TEMPLATE, **shape))


def test_what_cannot_be_traced_is_refused(model_dir, monkeypatch):
    def fails(*args, **settings):
        raise RuntimeError("an operation that nobody knows")

    monkeypatch.setattr("openvino.convert_model", fails)
    with pytest.raises(ValueError, match="OpenVINO cannot convert a BertFor"):
        OpenVINOCrossEncoder(model_dir)


@pytest.mark.parametrize(
    ("precision", "said"),
    [
        ("int4", "'int4': expected one of fp32, bf16, fp16, auto, int8"),
        ("int8", "needs calibration pairs"),
    ],
)
def test_a_wrong_precision_is_named(model_dir, precision, said):
    with pytest.raises(ValueError, match=said):
        OpenVINOCrossEncoder(model_dir, precision=precision)


def test_eight_bits_that_would_quantise_nothing_are_refused(save):
    """DistilBERT's layers lie in no module of the name that the quantiser looks for."""
    shape = {"dim": 32, "hidden_dim": 32, "n_layers": 1, "n_heads": 2}
    folder = save(hf.DistilBertForSequenceClassification, hf.DistilBertConfig, **shape)
    with pytest.raises(ValueError, match="Nothing in a DistilBert.* was quantised"):
        OpenVINOCrossEncoder(folder, precision="int8", calibration=PAIRS)
