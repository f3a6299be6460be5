"""Pairs to scores in this process: equal to LangChain's, however a model was saved and is asked."""

import multiprocessing
import pickle
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_community.cross_encoders import HuggingFaceCrossEncoder
from langchain_core.cross_encoders import BaseCrossEncoder
from sentence_transformers import CrossEncoder

import helpers.score as score
from helpers.score import LocalCrossEncoder, auto_precision, bounded_batches, choose_dtype

QUERY = "How deep is the harbour?"
PAIRS = [
    (QUERY, "It was dredged to nine metres."),
    (QUERY, "The band played until it rained. " * 12),
    ("why", ""),
    ("", "Bees dance. " * 120),
    (QUERY, "The school opens at nine."),
]


@pytest.fixture(scope="module")
def folder(tiny_bert):
    return tiny_bert()


@pytest.fixture(scope="module")
def tiny(folder):
    return LocalCrossEncoder(folder)


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


def a_chat_template(tiny_bert, tmp_path):
    from transformers import AutoTokenizer, Qwen3Config, Qwen3ForSequenceClassification

    names = ["input_ids", "attention_mask"]
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert(), model_input_names=names)
    of = "{{{{ messages | selectattr('role', 'eq', '{}') | map(attribute='content') | first }}}}"
    query, document = of.format("query"), of.format("document")
    tokenizer.chat_template = f"Does the document answer? {query} : {document} answer"
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 8}
    sizes |= {"num_key_value_heads": 2, "intermediate_size": 64, "vocab_size": len(tokenizer)}
    torch.manual_seed(0)
    sizes |= {"num_labels": 1, "pad_token_id": tokenizer.pad_token_id, "initializer_range": 0.3}
    Qwen3ForSequenceClassification(Qwen3Config(**sizes)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)


@pytest.mark.parametrize("save", [prompt_length_and_two_labels, a_chat_template])
def test_a_model_scores_as_it_was_saved_to_in_bounded_batches(save, tiny_bert, tmp_path):
    save(tiny_bert, tmp_path)
    model = LocalCrossEncoder(tmp_path, batch_tokens=80)
    shapes = []
    model.client[0].register_forward_pre_hook(
        lambda module, given: shapes.append(given[0]["input_ids"].shape)
    )
    found = model.score(PAIRS)
    close(found, list(HuggingFaceCrossEncoder(model_name=str(tmp_path)).score(PAIRS)))
    assert np.ptp(found) > 0.01, "scores that are all alike show nothing"
    assert all(texts == 1 or texts * tokens <= 80 for texts, tokens in shapes)
    model.score(PAIRS[:1])
    tokens = shapes[-1][1]
    for bound, texts in ((2 * tokens, 2), (2 * tokens - 1, 1)):  # counted to the token
        model.batch_tokens = bound
        model.score(PAIRS[:1] * 2)
        assert shapes[-1] == (texts, tokens)


# Bounds


@given(st.lists(st.integers(1, 512), max_size=60), st.integers(1, 4096))
def test_batches_hold_every_position_once_and_stay_below_the_bound(lengths, bound):
    batches = bounded_batches(lengths, bound)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= bound
    flat = [lengths[i] for batch in batches for i in batch]
    assert flat == sorted(flat, reverse=True)


def test_neither_the_bound_nor_the_number_of_pairs_changes_a_score(folder, tiny):
    expected = tiny.score(PAIRS)
    close(LocalCrossEncoder(folder, batch_tokens=1).score(PAIRS), expected)
    short = [(QUERY, f"nine and {n}") for n in range(7)]
    many = np.array(tiny.score(short * 600 + PAIRS))  # more than are tokenized at once
    close(many[-len(PAIRS) :], expected)
    close(many[: -len(PAIRS)].reshape(600, 7), np.tile(tiny.score(short), (600, 1)))


def test_of_a_pair_that_is_too_long_the_passage_is_cut_first(folder, tiny):
    """The tokenizer alone would cut the longer text, the query with it."""
    known = sorted(tiny.client.tokenizer.get_vocab())
    words = [word for word in known if word.isalpha() and word.isascii()][:600]  # a token each
    model, room = CrossEncoder(str(folder)), 512 - 3
    queries = [" ".join(words[:n]) for n in (3, 300, 400, room, room + 60)]
    passage = " ".join(words[::-1])
    kept = [(q, " ".join(words[::-1][: room - len(q.split())])) for q in queries[:-1]]
    kept += [(" ".join(words[:room]), "")]
    close(tiny.score([(query, passage) for query in queries]), model.predict(kept))
    short = LocalCrossEncoder(folder, max_length=16)
    cut = [(" ".join(words[:6]), " ".join(words[10:n])) for n in (17, 99, 16)]
    one, other, less = short.score(cut)
    assert one == pytest.approx(other, abs=1e-5) != less


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


def test_a_model_that_cannot_be_used_is_refused(tiny_bert):
    from transformers import ByT5Tokenizer

    with pytest.raises(ValueError, match="gives 3 labels and no score: expected one or two"):
        LocalCrossEncoder(tiny_bert(num_labels=3))
    slow = tiny_bert()
    (slow / "tokenizer.json").unlink()
    ByT5Tokenizer().save_pretrained(slow)
    with pytest.raises(ValueError, match="no fast tokenizer: expected a tokenizer.json"):
        LocalCrossEncoder(slow)


def test_what_is_no_text_and_a_score_that_is_no_number_are_refused(tiny, folder, tmp_path):
    for pair in (("why\ud800", "so"), ("why", "so\udfff")):
        with pytest.raises(ValueError, match="lone surrogate"):
            tiny.score([*PAIRS, pair])
    broken = CrossEncoder(str(folder))
    torch.nn.init.constant_(broken.transformers_model.classifier.bias, float("nan"))
    broken.save(tmp_path)
    with pytest.raises(ValueError, match="a score is no finite number"):
        LocalCrossEncoder(tmp_path).score(PAIRS)


# Threads and processes


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


AUTO = [("cpu", "fpu avx2", "fp32"), ("cpu", "fpu avx512_bf16", "bf16"), ("cpu", None, "fp32")]
AUTO += [("mps", "bf16", "fp32"), ("cuda", (7, 5), "fp16"), ("cuda", (8, 0), "bf16")]


@pytest.mark.parametrize(("device", "flags", "expected"), AUTO)
def test_auto_takes_16_bits_where_it_can(device, flags, expected, tmp_path, monkeypatch):
    if isinstance(flags, str):
        (tmp_path / "cpuinfo").write_text(f"flags\t\t: {flags}\n")
    monkeypatch.setattr(score, "Path", lambda _: tmp_path / "cpuinfo")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: flags)
    assert auto_precision(device) == expected
    assert choose_dtype("auto", device) == score.PRECISIONS[expected]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16", "fp16", "auto"])
def test_16_bits_score_nearly_the_same(model_dir, local, precision):
    found = LocalCrossEncoder(model_dir, precision=precision).score(PAIRS)
    np.testing.assert_allclose(found, local.score(PAIRS), atol=0.02)


@pytest.mark.parametrize("gone", [False, True], ids=["switched off", "not there"])
def test_without_onednn_the_scores_are_the_same(folder, tiny, gone, monkeypatch):
    layer = lambda: type(score.as_onednn(torch.nn.Linear(2, 2)))  # noqa: E731
    if torch.backends.mkldnn.is_available():
        for words, used in ({"avx2"}, False), ({"avx2", "avx512f"}, True):
            monkeypatch.setattr(score, "instructions", lambda words=words: words)
            assert (layer() is not torch.nn.Linear) == used
        close(LocalCrossEncoder(folder).score(PAIRS), tiny.score(PAIRS))
    if gone:
        monkeypatch.setattr(score, "mkldnn", None)
    with torch.backends.mkldnn.flags(enabled=gone):
        assert layer() is torch.nn.Linear
        close(LocalCrossEncoder(folder).score(PAIRS), tiny.score(PAIRS))
