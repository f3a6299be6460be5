"""A folder becomes a cross-encoder, or the reason why its scores would mean nothing is said."""

import json
import shutil

import pytest
from sentence_transformers import SentenceTransformer
from transformers import BertForMaskedLM, BertModel, ByT5Tokenizer

from helpers.hub import ModelError
from helpers.load import load_model


def test_a_head_for_three_labels_is_refused(tiny_bert):
    with pytest.raises(ValueError, match="gives 3 labels and no score: expected one or two. Three"):
        load_model(tiny_bert(num_labels=3))


def test_an_embedding_or_a_language_model_without_a_head_is_refused(
    tiny_bert, tiny_model, tmp_path
):
    """sentence-transformers would give it a head of random weights, and say so in the log alone."""
    SentenceTransformer(str(tiny_bert(BertModel))).save(str(tmp_path))
    SentenceTransformer(str(tiny_model("Qwen3, yes or no"))).save(str(tmp_path / "decoder"))
    config = json.loads((tmp_path / "decoder" / "config.json").read_text())
    config |= {"architectures": ["Qwen3ForCausalLM"]}  # as Qwen3-Embedding says of itself
    (tmp_path / "decoder" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="was saved as an embedding model"):
        load_model(tmp_path / "decoder")
    for folder, name in ((tmp_path, "BertModel"), (tiny_bert(BertForMaskedLM), "BertForMaskedLM")):
        with pytest.raises(ValueError, match=f"is a {name} without a head for scores"):
            load_model(folder)


def test_a_model_without_a_fast_tokenizer_is_refused(tiny_bert):
    slow = tiny_bert()
    (slow / "tokenizer.json").unlink()
    ByT5Tokenizer().save_pretrained(slow)
    with pytest.raises(ValueError, match="no fast tokenizer: expected a tokenizer.json"):
        load_model(slow)


def test_code_of_a_models_own_is_not_run(tiny_bert, tmp_path):
    folder = shutil.copytree(tiny_bert(), tmp_path / "own")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Mine"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "mine.py").write_text("raise SystemExit('it ran')")
    with pytest.raises(ValueError, match="needs Python code of its own, which is not run"):
        load_model(folder)


def test_pickled_weights_are_refused(tiny_bert, tmp_path):
    folder = shutil.copytree(tiny_bert(), tmp_path / "pickled")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"expected weights as \*.safetensors. Pickled ones"):
        load_model(folder)


def test_a_language_model_without_a_template_is_reported(tiny_model):
    with pytest.warns(UserWarning, match="a language model that has no chat template"):
        load_model(tiny_model("Qwen3, yes or no", template=None))
    chat = "{% for m in messages %}{{ m.role }}: {{ m.content }} {% endfor %}"
    with pytest.warns(UserWarning, match="is it a reranker"):
        load_model(tiny_model("Qwen3, yes or no", template=chat))
