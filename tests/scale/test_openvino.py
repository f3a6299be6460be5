"""The same scores from OpenVINO, or a refusal: any architecture, any padding, fewer bits."""

import pickle

import numpy as np
import pytest
import transformers as hf

from helpers.scale.openvino import OpenVINOCrossEncoder
from helpers.score import LocalCrossEncoder

pytestmark = pytest.mark.slow

PAIRS = [("How long?", "Three weeks."), ("How long?", "The harbour is deep. " * 150)]
PAIRS += [("How long?", "Books are lent for three weeks. " * 9)]
# What cannot be converted, with the reason; LocalCrossEncoder scores it all the same.
REFUSED = {"Longformer": "(cannot convert|differ from)", "XLNet": "cannot convert"}
REFUSED |= dict.fromkeys(["Qwen2, yes or no", "Qwen3, yes or no"], "not a .*ForCausalLM")


def test_scores_are_torchs_or_the_model_is_refused(architecture, tiny_model, odd_pairs):
    folder = tiny_model(architecture)
    if architecture in REFUSED:
        with pytest.raises(ValueError, match=f"{REFUSED[architecture]}.*LocalCrossEncoder takes"):
            OpenVINOCrossEncoder(folder)
        return
    pairs = [pair for pair in odd_pairs if any(pair)]
    model = OpenVINOCrossEncoder(folder, batch_tokens=300)
    expected = LocalCrossEncoder(folder, device="cpu").score(pairs)
    # The bound of loading; with AVX2 alone the tiny T5 differs by half of it.
    np.testing.assert_allclose(model.score(pairs), expected, atol=1e-3)


def test_a_pickled_model_is_converted_anew(tiny_model):
    model = OpenVINOCrossEncoder(tiny_model("BERT"), max_length=40)
    elsewhere = pickle.loads(pickle.dumps(model))
    np.testing.assert_allclose(elsewhere.score(PAIRS), model.score(PAIRS), atol=1e-5)


def test_a_conversion_that_computes_something_else_is_refused(tiny_model, monkeypatch):
    """With torch's fused attention, padding beyond the window becomes NaN."""
    monkeypatch.setattr(hf.ModernBertForSequenceClassification, "set_attn_implementation", print)
    with pytest.raises(ValueError, match="of a ModernBertFor.* differ from torch's by nan"):
        OpenVINOCrossEncoder(tiny_model("ModernBERT"))


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


def test_eight_bits_that_would_quantise_nothing_are_refused(tiny_model):
    """DistilBERT's layers lie in no module of the name that the quantiser looks for."""
    folder = tiny_model("DistilBERT")
    with pytest.raises(ValueError, match="Nothing in a DistilBert.* was quantised"):
        OpenVINOCrossEncoder(folder, precision="int8", calibration=PAIRS)
