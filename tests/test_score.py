"""Pairs to scores in this process: equal to LangChain's, however a model was saved and is asked."""

import multiprocessing
import pickle
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_community.cross_encoders import HuggingFaceCrossEncoder
from langchain_core.cross_encoders import BaseCrossEncoder
from sentence_transformers import CrossEncoder

from helpers.score import LocalCrossEncoder

QUERY = "How deep is the harbour?"
CUTS = pytest.mark.filterwarnings("ignore::helpers.fit.CutWarning")
PAIRS = [
    (QUERY, "It was dredged to nine metres."),
    (QUERY, "The band played until it rained. " * 12),
    ("why", ""),
    ("", "Bees dance. " * 120),
    (QUERY, "The school opens at nine."),
]


def close(scores, expected):
    np.testing.assert_allclose(scores, expected, atol=1e-5, rtol=0)


# The scores of LangChain's class


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.text(max_size=80), st.text(max_size=400)), max_size=8))
def test_any_text_scores_as_langchains_class_scores_it(local, reference, pairs):
    found = local.score(pairs)
    close(found, reference.score(pairs) if pairs else [])
    assert {type(score) for score in found} <= {float}
    assert isinstance(local, BaseCrossEncoder)


def prompt_length_and_two_labels(tiny_bert, tmp_path):
    model = CrossEncoder(
        str(tiny_bert(num_labels=2)), max_length=24, prompts={"asking": "Which passage answers? "}
    )
    model.default_prompt_name = "asking"
    model.save(tmp_path)


@CUTS
@pytest.mark.parametrize("saved", ["prompt, length and two labels", "template"])
def test_a_model_scores_as_it_was_saved_to_in_bounded_batches(
    saved, tiny_bert, tiny_model, tmp_path
):
    folder = tmp_path if "prompt" in saved else tiny_model("Qwen3, template")
    if "prompt" in saved:
        prompt_length_and_two_labels(tiny_bert, tmp_path)
    model = LocalCrossEncoder(folder, batch_tokens=80)
    shapes = []
    model.client[0].register_forward_pre_hook(
        lambda module, given: shapes.append(given[0]["input_ids"].shape)
    )
    found = model.score(PAIRS)
    close(found, list(HuggingFaceCrossEncoder(model_name=str(folder)).score(PAIRS)))
    assert np.ptp(found) > 0.01, "scores that are all alike show nothing"
    assert all(texts == 1 or texts * tokens <= 80 for texts, tokens in shapes)
    model.score(PAIRS[:1])
    tokens = shapes[-1][1]
    for bound, texts in ((2 * tokens, 2), (2 * tokens - 1, 1)):  # counted to the token
        model.batch_tokens = bound
        model.score(PAIRS[:1] * 2)
        assert shapes[-1] == (texts, tokens)


# Bounds


def test_neither_the_bound_nor_the_number_of_pairs_changes_a_score(folder, tiny):
    expected = tiny.score(PAIRS)
    close(LocalCrossEncoder(folder, batch_tokens=1).score(PAIRS), expected)
    short = [(QUERY, f"nine and {n}") for n in range(7)]
    many = np.array(tiny.score(short * 600 + PAIRS))  # more than are tokenized at once
    close(many[-len(PAIRS) :], expected)
    close(many[: -len(PAIRS)].reshape(600, 7), np.tile(tiny.score(short), (600, 1)))


# Refused


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"precision": "int4"}, "precision is 'int4': expected one of fp32, bf16, fp16, auto"),
        ({"batch_tokens": 0}, "batch_tokens is 0"),
        ({"max_length": 4}, "max_length is 4: expected 5 to 512"),
        ({"max_length": 513}, "max_length is 513: expected 5 to 512"),
    ],
)
def test_a_wrong_setting_is_named(folder, settings, said):
    with pytest.raises(ValueError, match=said):
        LocalCrossEncoder(folder, **settings)


def test_what_is_no_text_and_a_score_that_is_no_number_are_refused(tiny, folder, tmp_path):
    for pair in (("why\ud800", "so"), ("why", "so\udfff")):
        with pytest.raises(ValueError, match="lone surrogate"):
            tiny.score([*PAIRS, pair])
    broken = CrossEncoder(str(folder))
    torch.nn.init.constant_(broken.transformers_model.classifier.bias, float("nan"))
    broken.save(tmp_path)
    with pytest.raises(ValueError, match="a score is no finite number"):
        LocalCrossEncoder(tmp_path).score(PAIRS)


def test_a_prompt_takes_the_place_of_the_one_that_was_saved(tiny_bert, tmp_path):
    prompt_length_and_two_labels(tiny_bert, tmp_path)
    pairs, model = PAIRS[::2], CrossEncoder(str(tmp_path))
    saved = LocalCrossEncoder(tmp_path).score(pairs)
    for prompt in ("Judge: ", ""):
        found = LocalCrossEncoder(tmp_path, prompt=prompt).score(pairs)
        close(found, model.predict(pairs, prompt=prompt)[:, 1])
        assert np.abs(np.subtract(found, saved)).max() > 1e-3


def test_progress_is_shown_when_asked_for(folder, capfd):
    for shown in (False, True):
        LocalCrossEncoder(folder, show_progress=shown).score(PAIRS[:1])
        assert ("Batches: 100%" in capfd.readouterr().err) == shown


# Threads and processes


def test_on_mps_threads_are_served_in_turn_and_told_so(folder):
    model, inside, most = LocalCrossEncoder(folder), [], []

    def predict(pairs, **how):
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.05)
        inside.pop()
        return np.zeros(len(pairs))

    spared = {n: getattr(model.client, n) for n in ("max_seq_length", "tokenizer", "lock")}
    model._fitter.client = model.client = SimpleNamespace(
        device=torch.device("mps"), predict=predict, num_labels=1, **spared
    )
    with ThreadPoolExecutor(3) as pool, pytest.warns(UserWarning, match="on MPS the calls of"):
        list(pool.map(model.logits, [PAIRS[:1]] * 3))
    assert max(most) == 1


def test_eight_threads_get_the_scores_of_one(tiny):
    """Long queries beside long passages: each changes how the tokenizer truncates."""
    kinds = [[("harbour?", "The harbour lies north of the town. " * 100)]]
    kinds += [[("Please tell me about the harbour. " * 9, "It lies north.")] * 4]
    alone = [tiny.score(pairs) for pairs in kinds]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # a race shows sooner
    try:
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda n: tiny.score(kinds[n % 2]), range(200)))
    finally:
        sys.setswitchinterval(before)
    for n, scores in enumerate(found):
        close(scores, alone[n % 2])


def test_a_pickled_model_is_small_and_scores_the_same(folder):
    model = LocalCrossEncoder(folder, max_length=20, batch_tokens=100)
    pickled = pickle.dumps(model)
    again = pickle.loads(pickled)
    assert len(pickled) < 1000 and again.settings == model.settings
    close(again.score(PAIRS), model.score(PAIRS))


@pytest.mark.slow
def test_another_process_scores_the_same(tiny):
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        close(pool.submit(tiny.score, PAIRS).result(), tiny.score(PAIRS))


# Precisions


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16", "fp16", "auto"])
def test_16_bits_score_nearly_the_same(model_dir, local, precision):
    found = LocalCrossEncoder(model_dir, precision=precision).score(PAIRS)
    np.testing.assert_allclose(found, local.score(PAIRS), atol=0.02)
