"""Fixtures of more than one folder: the repository's own model, and the scores it should give."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def model_dir() -> Path:
    """The repository's own reranker."""
    return ROOT / "data" / "reranker"


@pytest.fixture(scope="session")
def reference(model_dir):
    """LangChain's own cross-encoder in this process: the scores to be equal to."""
    from langchain_community.cross_encoders import HuggingFaceCrossEncoder

    return HuggingFaceCrossEncoder(model_name=str(model_dir))


@pytest.fixture(scope="session")
def local(model_dir):
    """The repository's own reranker as the notebooks load it."""
    from helpers.score import LocalCrossEncoder

    return LocalCrossEncoder(model_dir)


@pytest.fixture(scope="session")
def embeddings():
    """The embedding model of the profile `embedded`."""
    from langchain_huggingface import HuggingFaceEmbeddings

    from helpers.profiles import find_embedding

    return HuggingFaceEmbeddings(model_name=str(find_embedding()))


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory, model_dir):
    """Makes small random BERTs with the repository's tokenizer: settings in, a folder out."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 64, "vocab_size": len(tokenizer), "num_labels": 1}

    def make(kind=BertForSequenceClassification, **settings):
        torch.manual_seed(0)
        folder = tmp_path_factory.mktemp("tiny")
        # A wide range, so that scores differ.
        kind(BertConfig(**sizes | {"initializer_range": 0.3} | settings)).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return make
