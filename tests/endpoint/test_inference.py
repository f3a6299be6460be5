"""The container's code, in this process: what it scores and answers."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from helpers.endpoint import inference
from helpers.endpoint.scorer import load_model

WORDS = ["retrieval", "of", "passages", "is", "a", "matter", "of", "vectors", "and", "of"]
WORDS += ["questions", "about", "trade"]
JSON = inference.JSON


def pairs_of(count: int, longest: int = 60) -> list[tuple[str, str]]:
    random = np.random.default_rng(0)

    def text(words: int) -> str:
        return " ".join(random.choice(WORDS, words))

    return [(text(8), text(int(random.integers(1, longest)))) for _ in range(count)]


@pytest.fixture
def reranker():
    """Stands for the line to the process with the model."""
    return SimpleNamespace(max_length=512, ask=None)


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
    CrossEncoder(modules=[encoder, Pooling(16), head]).save_pretrained(str(folder / "model"))
    return folder / "model"


def test_scores_are_those_of_langchains_local_class(model_dir, reference):
    pairs = [*pairs_of(40), (" ".join(WORDS), " ".join(WORDS * 80)), ("", "")]
    found = load_model(str(model_dir)).score(pairs)
    np.testing.assert_allclose(found, reference.score(pairs), atol=1e-5)


@pytest.mark.parametrize(("precision", "atol"), [("fp32", 1e-5), ("bf16", 0.02)])
@pytest.mark.parametrize("kind", ["model_dir", "modular_dir"])
def test_a_model_of_any_make_stays_within_its_tolerance(
    request, monkeypatch, kind, precision, atol
):
    from langchain_community.cross_encoders import HuggingFaceCrossEncoder

    folder = str(request.getfixturevalue(kind))
    monkeypatch.setenv("RERANKER_PRECISION", precision)
    expected = HuggingFaceCrossEncoder(model_name=folder).score(pairs_of(20))
    np.testing.assert_allclose(load_model(folder).score(pairs_of(20)), expected, atol=atol)
    assert np.std(expected) > 0


def broken(pairs, count):
    raise RuntimeError("/secret/path")


@pytest.mark.parametrize(
    "ask", [broken, lambda *_, **__: {"scores": [float("nan")], "raw": [0.0], "cut": []}]
)
def test_a_failure_of_the_model_is_a_500_that_only_the_log_explains(
    reranker, monkeypatch, capfd, ask
):
    monkeypatch.setattr(reranker, "ask", ask)
    with pytest.raises(inference.RequestError, match="the log says why") as error:
        inference.transform_fn(reranker, '{"pairs": [["a", "b"]]}', JSON, "*/*")
    assert error.value.status == 500
    assert "secret" not in str(error.value)
    assert "Traceback" in capfd.readouterr().err


def test_a_toolkit_without_context_still_answers_with_json(reranker):
    """The older Hugging Face toolkit answers 400 with the text of whatever was raised."""
    with pytest.raises(inference.RequestError) as error:
        inference.transform_fn(reranker, '{"pairs": [[1, 2]]}', JSON, "*/*")
    said = {"error": "pair 0: the query must be a string, not a number.", "pair": 0}
    assert json.loads(str(error.value)) == said
