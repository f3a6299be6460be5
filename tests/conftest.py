"""Fixtures of more than one folder: the repository's own model, and the scores it should give."""

from functools import cache
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


@pytest.fixture(scope="session")
def folder(tiny_bert):
    """A small random BERT of one label, with the repository's tokenizer."""
    return tiny_bert()


@pytest.fixture(scope="session")
def tiny(folder):
    """The same, loaded; for tests that leave it as it is."""
    from helpers.score import LocalCrossEncoder

    return LocalCrossEncoder(folder)


# Architectures: a line each. The transformers class, its configuration, the kind of tokenizer.
SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
SMALL |= {"num_attention_heads": 4, "initializer_range": 0.3}
DECODER = SMALL | {"num_key_value_heads": 2, "head_dim": 8}
DEBERTA = {"relative_attention": True, "position_buckets": 32, "pos_att_type": ["p2c", "c2p"]}
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
XLNET = {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64, "initializer_range": 0.3}
DISTIL = {"dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 4, "initializer_range": 0.3}
# Most of the padding sees no word.
WINDOWS = {"local_attention": 16, "classifier_pooling": "mean", "num_hidden_layers": 4}
ARCHITECTURES = {
    "BERT": ("BertForSequenceClassification", SMALL, "WordPiece"),
    "BERT, two labels": ("BertForSequenceClassification", SMALL | {"num_labels": 2}, "WordPiece"),
    "DistilBERT": ("DistilBertForSequenceClassification", DISTIL, "WordPiece"),
    "ELECTRA": ("ElectraForSequenceClassification", SMALL, "WordPiece"),
    "RoBERTa": ("RobertaForSequenceClassification", SMALL, "BPE"),
    "XLM-R": ("XLMRobertaForSequenceClassification", SMALL, "Unigram"),
    "DeBERTa-v2": ("DebertaV2ForSequenceClassification", SMALL | DEBERTA, "Unigram"),
    "ModernBERT": ("ModernBertForSequenceClassification", SMALL | WINDOWS, "BPE"),
    "Longformer": ("LongformerForSequenceClassification", SMALL | {"attention_window": 16}, "BPE"),
    "T5": ("T5ForSequenceClassification", T5 | {"initializer_factor": 3.0}, "Unigram, end"),
    "XLNet": ("XLNetForSequenceClassification", XLNET, "Unigram, left"),
    "Qwen2": ("Qwen2ForSequenceClassification", DECODER, "BPE, bare"),
    "Qwen3, template": ("Qwen3ForSequenceClassification", DECODER, "BPE, template"),
    "Qwen3, yes or no": ("Qwen3ForCausalLM", DECODER, "BPE, template"),
    "Qwen2, yes or no": ("Qwen2ForCausalLM", DECODER, "BPE, template"),
}
ROLE = "{{{{ messages | selectattr('role', 'eq', '{}') | map(attribute='content') | first }}}}"
TEMPLATE = f"Query: {ROLE.format('query')} Document: {ROLE.format('document')} Answer:"
SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "<mask>"]
FRAMES = {
    "end": "$A </s> $B </s>",
    "left": "$A </s> $B </s> <s>",
    "bare": "$A $B",
    "template": "$A $B",
}


def pytest_generate_tests(metafunc):
    if "architecture" in metafunc.fixturenames:
        metafunc.parametrize("architecture", ARCHITECTURES, scope="session")


@cache
def small_tokenizer(kind):
    """A tokenizer of one of three algorithms, trained on the address."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    algorithm, _, frame = kind.partition(", ")
    tokenizer = Tokenizer({"BPE": models.BPE, "Unigram": models.Unigram}[algorithm]())
    if algorithm == "BPE":
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        letters = pre_tokenizers.ByteLevel.alphabet()
        how = {"initial_alphabet": letters, "special_tokens": SPECIAL, "show_progress": False}
        trainer = trainers.BpeTrainer(vocab_size=1500, **how)
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        how = {"unk_token": "<unk>", "special_tokens": SPECIAL, "show_progress": False}
        trainer = trainers.UnigramTrainer(vocab_size=1500, **how)
    tokenizer.train([str(ROOT / "data" / "address.txt")], trainer)
    tokenizer.add_tokens(["yes", "no"])
    pair = FRAMES.get(frame, "<s> $A </s> </s> $B </s>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=pair.partition(" $B")[0], pair=pair, special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return tokenizer


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory, model_dir):
    """Makes a small random cross-encoder of any of ARCHITECTURES: its name in, a folder out."""
    import torch
    import transformers as hf

    @cache
    def make(name, template=TEMPLATE):
        kind, settings, kind_of_tokenizer = ARCHITECTURES[name]
        names = ["input_ids", "attention_mask"]
        side = "left" if "left" in kind_of_tokenizer or "yes or no" in name else "right"
        if kind_of_tokenizer == "WordPiece":
            tokenizer = hf.AutoTokenizer.from_pretrained(model_dir)
        else:
            named = {
                f"{n}_token": t
                for n, t in zip(("pad", "bos", "eos", "unk", "mask"), SPECIAL, strict=True)
            }
            how = {"model_max_length": 128, "model_input_names": names, "padding_side": side}
            how |= {"tokenizer_object": small_tokenizer(kind_of_tokenizer)} | named
            tokenizer = hf.PreTrainedTokenizerFast(sep_token="</s>", cls_token="<s>", **how)
        if "template" in kind_of_tokenizer:
            tokenizer.chat_template = template
        torch.manual_seed(0)
        known = {"vocab_size": len(tokenizer), "num_labels": 1}
        known |= {"max_position_embeddings": 600} if name not in ("T5", "XLNet") else {}
        known |= {f"{n}_token_id": getattr(tokenizer, f"{n}_token_id") for n in ("pad", "eos")}
        if name == "T5":
            known |= {"decoder_start_token_id": tokenizer.pad_token_id}
        config = getattr(hf, kind.partition("For")[0] + "Config")(**known | settings)
        folder = tmp_path_factory.mktemp("architecture")
        getattr(hf, kind)(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def odd_pairs():
    """Pairs of every length and several scripts."""
    query = "How deep is the harbour?"
    passages = ["It was dredged to nine metres.", "The band played until it rained. " * 90, ""]
    pairs = [(query, passage) for passage in passages] + [("", ""), ("", "Bees dance. " * 9)]
    pairs += [("😀 ok?", "港は深い。"), ("كم عمق الميناء؟", "עברית נכתבת מימין לשמאל")]
    return [*pairs, ("नमस्ते?", "Nine."), (query, "A short one."), (query, "Nine metres, yes. " * 6)]


def pytest_collection_modifyitems(items):
    """What takes longest, all the notebooks, comes first: the other process does the rest."""
    items.sort(key=lambda item: item.path.name != "test_outputs.py" or "slow" not in item.keywords)
