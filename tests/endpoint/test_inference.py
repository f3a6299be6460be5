"""The container's code, in this process: what it scores, cuts, refuses and reads."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from helpers import score
from helpers.endpoint import inference

WORDS = [
    "retrieval",
    "of",
    "passages",
    "is",
    "a",
    "matter",
    "of",
    "vectors",
    "and",
    "of",
    "questions",
    "about",
    "trade",
]


def pairs_of(count: int, longest: int = 60) -> list[tuple[str, str]]:
    random = np.random.default_rng(0)

    def text(words: int) -> str:
        return " ".join(random.choice(WORDS, words))

    return [(text(8), text(int(random.integers(1, longest)))) for _ in range(count)]


@pytest.fixture(scope="module")
def reranker(model_dir):
    return inference.model_fn(str(model_dir))


@pytest.fixture(scope="module")
def modular_dir(tmp_path_factory):
    """A cross-encoder made of sentence-transformers' modules: encoder, pooling, dense head."""
    from sentence_transformers import CrossEncoder
    from sentence_transformers.base.modules import Dense, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling
    from transformers import BertConfig, BertModel, BertTokenizerFast

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("modular")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted(set(WORDS))]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BertConfig(vocab_size=len(vocabulary), intermediate_size=16, **sizes)
    BertModel(config).save_pretrained(folder / "encoder")
    tokenizer = BertTokenizerFast(vocab=str(folder / "vocab.txt"), model_max_length=64)
    tokenizer.save_pretrained(folder / "encoder")
    encoder = Transformer(str(folder / "encoder"))
    head = Dense(16, 1, activation_function=torch.nn.Identity(), module_output_name="scores")
    model = CrossEncoder(modules=[encoder, Pooling(16), head])
    model.save_pretrained(str(folder / "model"))
    return folder / "model"


def test_scores_are_those_of_langchains_local_class(reranker, reference):
    pairs = [*pairs_of(40), (" ".join(WORDS), " ".join(WORDS * 60)), ("", "")]
    np.testing.assert_allclose(reranker.score(pairs), reference.score(pairs), atol=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_model_of_modules_is_scored_too(modular_dir, monkeypatch, precision):
    from langchain_community.cross_encoders import HuggingFaceCrossEncoder

    monkeypatch.setenv("RERANKER_PRECISION", precision)
    expected = HuggingFaceCrossEncoder(model_name=str(modular_dir)).score(pairs_of(20))
    scores = inference.model_fn(str(modular_dir)).score(pairs_of(20))
    np.testing.assert_allclose(scores, expected, atol=1e-5 if precision == "fp32" else 0.02)
    assert np.std(expected) > 0


def test_a_16_bit_model_stays_within_its_tolerance(model_dir, reference, monkeypatch):
    monkeypatch.setenv("RERANKER_PRECISION", "bf16")
    scores = inference.model_fn(str(model_dir)).score(pairs_of(20))
    np.testing.assert_allclose(scores, reference.score(pairs_of(20)), atol=0.02)


def test_the_passage_is_cut_before_the_query(reranker):
    """With a query of 300 and a passage of 400 tokens the library would cut both to 254."""
    query, passage = " ".join(WORDS[:4] * 75), " ".join(WORDS[4:8] * 100)
    tokenizer = reranker.client.tokenizer
    limits = {"truncation": "only_second", "max_length": reranker.client.max_seq_length}
    expected = tokenizer(query, passage, **limits)["input_ids"]
    fitted = tokenizer(*reranker.fit(query, passage), truncation="longest_first")["input_ids"]
    assert fitted == expected
    assert tokenizer.decode(fitted, skip_special_tokens=True).count(WORDS[3]) == 75


def test_a_query_longer_than_the_model_is_cut_to_fit(reranker):
    query, passage = reranker.fit("word " * 900, "passage")
    assert len(reranker.client.tokenizer(query, passage)["input_ids"]) <= 512
    assert len(query.split()) == 509
    assert passage == ""


def test_auto_takes_what_the_processor_computes_natively(monkeypatch):
    for flags, expected in [("avx2 avx512_bf16", torch.bfloat16), ("avx2 avx512f", torch.float32)]:
        fake = SimpleNamespace(
            exists=lambda: True, read_text=lambda flags=flags: f"flags : {flags}"
        )
        monkeypatch.setattr(score, "Path", lambda path, fake=fake: fake)
        assert score.choose_dtype("auto", "cpu") == expected


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("RERANKER_PRECISION", "int8", "expected one of fp32"),
        ("RERANKER_BATCH_TOKENS", "0", "whole number of at least 1"),
        ("RERANKER_MAX_PAIRS", "many", "whole number of at least 1"),
        ("RERANKER_MODEL", "BAAI/bge-reranker-base", "RERANKER_REVISION"),
    ],
)
def test_a_wrong_setting_is_named_when_the_model_loads(model_dir, monkeypatch, name, value, said):
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=name) as error:
        inference.model_fn(str(model_dir))
    assert said in str(error.value)


def test_pickled_weights_are_refused(model_dir, tmp_path):
    shutil.copytree(model_dir, tmp_path / "model")
    (tmp_path / "model" / "pytorch_model.bin").write_bytes(b"anything")
    with pytest.raises(ValueError, match="pytorch_model.bin"):
        inference.model_fn(str(tmp_path / "model"))


def test_a_hub_model_is_pinned_and_its_pickles_stay_there(model_dir, monkeypatch):
    import huggingface_hub

    asked = {}

    def snapshot_download(name, **how):
        asked.update(how, name=name)
        return str(model_dir)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setenv("RERANKER_MODEL", "BAAI/bge-reranker-base")
    monkeypatch.setenv("RERANKER_REVISION", "0123456789abcdef0123456789abcdef01234567")
    assert inference.find_model("/nowhere") == str(model_dir)
    assert asked["revision"].startswith("0123")
    assert "*.bin" not in asked["allow_patterns"]


def test_a_model_that_answers_nan_is_a_500_and_not_a_score(reranker, monkeypatch):
    monkeypatch.setattr(reranker, "score", lambda pairs: [0.5, float("nan")])
    body = json.dumps({"pairs": [["a", "b"]] * 2})
    with pytest.raises(inference.RequestError, match="pair 1") as error:
        inference.transform_fn(reranker, body, "application/json", "*/*")
    assert error.value.status == 500


def test_an_unexpected_failure_is_a_500_without_its_traceback(reranker, monkeypatch, capfd):
    def fail(pairs):
        raise RuntimeError("/secret/path")

    monkeypatch.setattr(reranker, "score", fail)
    with pytest.raises(inference.RequestError) as error:
        inference.transform_fn(reranker, '{"pairs": []}', "application/json", "*/*")
    assert error.value.status == 500
    assert "secret" not in error.value.body()
    assert "/secret/path" in capfd.readouterr().err


def test_a_toolkit_without_context_still_answers_with_json(reranker):
    """The older Hugging Face toolkit answers 400 with the text of whatever was raised."""
    with pytest.raises(inference.RequestError) as error:
        inference.transform_fn(reranker, '{"pairs": [[1, 2]]}', "application/json", "*/*")
    assert json.loads(str(error.value)) == {
        "error": "pair 0: the query must be a string, not a number.",
        "pair": 0,
    }
