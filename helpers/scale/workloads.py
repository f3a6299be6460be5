"""What is scored: pairs of text, seeded, and a model of bge-reranker-base's shape."""

import random
import re
from functools import cache
from pathlib import Path

from helpers.index import build_index, read_text
from helpers.judgements import read_jsonl
from helpers.profiles import DATA, load_profile

Pairs = list[tuple[str, str]]
BIG = "12 x 768"  # the name of `make_bge_shape`'s model


def workloads(most: int | None = None) -> dict[str, Pairs]:
    """Make the four workloads: one query, a hundred pairs twice, a table; `most` cuts each.

    The twenty are chunks as the tutorial makes them; the 2,000 are half as long.
    """
    made = {"20 chunks": nearest_pairs(1, 20), "100 real": real_pairs()}
    made |= {"100 random": mixed_pairs()}
    made |= {"2,000 pairs": nearest_pairs(most or 80, 25, chunk_size=250)}
    return {name: pairs[:most] for name, pairs in made.items()}


def nearest_pairs(questions: int, k: int, chunk_size: int = 500) -> Pairs:
    """Pair each of the first training questions with the `k` chunks of the address nearest to it.

    They are about other texts, so this is no measure of quality; scores spread as in real use.
    """
    return [
        (question, doc.page_content)
        for question in training_questions()[:questions]
        for doc in _store(chunk_size).similarity_search(question, k=k)
    ]


def calibration_pairs() -> Pairs:
    """64 pairs of the same kind that are in no workload, to calibrate int8 with."""
    return [
        (question, _store(500).similarity_search(question, k=20)[i % 20].page_content)
        for i, question in enumerate(training_questions()[1000:1064])
    ]


def training_questions() -> list[str]:
    return [row["question"] for row in read_jsonl(DATA / "training_questions.jsonl")]


@cache
def _store(chunk_size: int):
    from langchain_huggingface import HuggingFaceEmbeddings

    profile = load_profile()
    embeddings = HuggingFaceEmbeddings(
        model_name=profile.embedding_model, **profile.embedding_settings
    )
    return build_index(profile.corpus, embeddings, chunk_size=chunk_size, show_progress=False)


def real_pairs(count: int = 100) -> Pairs:
    """Pair questions with passages of their own, as long as they were written, cut nowhere.

    Half are the paragraphs of a question's document, half its answer and decoys.
    """
    documents = read_jsonl(DATA / "training_documents.jsonl")
    contrasts = read_jsonl(DATA / "contrast_questions.jsonl")[:: 2000 // count]
    written = [(row["questions"][0]["question"], paragraphs(row["text"])) for row in documents]
    decoys = [(r["question"], [r["answer"], *(d["text"] for d in r["decoys"])]) for r in contrasts]
    halves = ([(q, text) for q, texts in half for text in texts] for half in (written, decoys))
    return [pair for half in halves for pair in half[: count // 2]]


def paragraphs(text: str) -> list[str]:
    return [part.strip() for part in re.split(r"\n\s*\n", text) if part.strip()]


def mixed_pairs(count: int = 100, shortest: int = 10, longest: int = 512) -> Pairs:
    """Pair one query with passages so that the pairs have `shortest` to `longest` tokens.

    The passages are words of the address that are one token each, in random order.
    """
    from transformers import AutoTokenizer

    profile = load_profile()
    tokenizer = AutoTokenizer.from_pretrained(profile.reranker_model)
    words = sorted(set(re.findall("[a-z]+", read_text(profile.corpus).lower())))
    words = [word for word in words if len(tokenizer.tokenize(word)) == 1]
    draw = random.Random(0)
    query = "what will be built"
    room = len(tokenizer(query, words[0])["input_ids"]) - 1
    lengths = [draw.randint(shortest, longest) for _ in range(count)]
    return [(query, " ".join(draw.choices(words, k=length - room))) for length in lengths]


def make_bge_shape(folder: Path, **smaller) -> Path:
    """Save a model of bge-reranker-base's architecture with random weights to `folder`.

    https://huggingface.co/BAAI/bge-reranker-base/blob/2cfc18c9415c912f9d8155881c133215df768a70/config.json
    A processor takes as long whatever the weights are. The tokenizer is the embedded model's, so
    that both read the same tokens, and so are the words: 250,002 would take memory and no time.
    """
    import torch
    from transformers import AutoTokenizer, XLMRobertaConfig, XLMRobertaForSequenceClassification

    torch.manual_seed(0)
    # What is not named is bge-reranker-base's by default; the padding is that of the tokenizer.
    tokenizer = AutoTokenizer.from_pretrained(load_profile().reranker_model)
    shape = {"vocab_size": len(tokenizer), "max_position_embeddings": 514, "pad_token_id": 0}
    config = XLMRobertaConfig(**shape | {"num_labels": 1} | smaller)
    XLMRobertaForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
