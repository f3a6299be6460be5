"""The architecture starts as the bi-encoder, and the recipe reads, mines, trains and goes on."""

import hashlib
import json

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer
from torch.nn.functional import normalize

from helpers import load_profile, split_text
from helpers.profiles import find_embedding
from helpers.train import (
    DEV_SHARE,
    FILES,
    LOSSES,
    Example,
    calibrate,
    dev_evaluator,
    fit,
    from_bi_encoder,
    mine_lists,
    read_examples,
    save,
    soften,
)

QUESTION = "What is the plan for the economy?"


@pytest.fixture(scope="module")
def bi_encoder():
    return SentenceTransformer(str(find_embedding()))


@pytest.fixture(scope="module")
def corpus():
    return [chunk.page_content for chunk in split_text(load_profile().corpus)]


@pytest.fixture(scope="module")
def examples(corpus):
    """Twelve sentences of the address, each as the question that its own chunk answers."""
    return [Example(text.split(". ")[0], (text,), "fact", dev=False) for text in corpus[:96:8]]


@pytest.fixture(scope="module")
def lists(examples, corpus, bi_encoder):
    return mine_lists(examples, corpus, bi_encoder)


def test_with_closed_layers_the_score_is_the_bi_encoders_own_token_vectors(
    tmp_path, bi_encoder, corpus
):
    model = from_bi_encoder(find_embedding(), tmp_path, open_bias=-1e4)
    passages = [corpus[3], "Short.", corpus[60]]
    scores = model.predict([(QUESTION, p) for p in passages], activation_fn=torch.nn.Identity())
    question, *tokens = bi_encoder.encode(
        [QUESTION, *passages], output_value="token_embeddings", convert_to_numpy=False
    )
    for score, passage in zip(scores, tokens, strict=True):
        best = (normalize(question, dim=1) @ normalize(passage, dim=1).T).max(1).values.mean()
        cosine = normalize(question.mean(0), dim=0) @ normalize(passage.mean(0), dim=0)
        assert score == pytest.approx(float(25 * (best + 0.25 * cosine - 0.7)), abs=2e-3)


def test_a_pair_scores_the_same_alone_and_beside_longer_ones(model_dir, corpus):
    model = CrossEncoder(str(model_dir))
    pairs = [(QUESTION, "Short."), (QUESTION, corpus[0]), ("Why?", corpus[1])]
    together = model.predict(pairs)
    np.testing.assert_allclose(together, [model.predict([p])[0] for p in pairs], atol=1e-5)


def squad_files(folder, titles=("One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight")):
    for name, file in FILES.items():
        articles = []
        for title in titles:
            context = f"{name} {title}: the harbour of {title} was deepened to nine metres in 1911."
            answer = "nine metres"
            asked = {
                "question": f" How deep is {title}? ",
                "answers": [{"text": answer, "answer_start": context.index(answer)}],
            }
            articles.append(
                {"title": f"{name} {title}", "paragraphs": [{"context": context, "qas": [asked]}]}
            )
        (folder / file).write_text(json.dumps({"data": articles}))
    return "new_wiki One: the harbour of One was deepened to nine metres in 1911."


def test_examples_are_split_by_document_and_own_questions_find_their_passage(tmp_path):
    context = squad_files(tmp_path)
    start, name = context.index("nine"), hashlib.sha1(context.encode()).hexdigest()[:10]
    own = {"set": "new_wiki", "kind": "how", "question": "Can big ships call?"}
    own["answers"] = [[name, start, start + 4]]
    (tmp_path / "own.jsonl").write_text(json.dumps(own) + "\n")
    examples, chunks, dev_chunks = read_examples(tmp_path, tmp_path / "own.jsonl")
    assert len(examples) == 4 * 8 + 1
    assert [e.positives for e in examples if e.kind == "how"] == [(context,)]
    assert not set(chunks) & set(dev_chunks)
    assert all(set(e.positives) <= set(dev_chunks if e.dev else chunks) for e in examples)
    assert DEV_SHARE == 7


@pytest.mark.slow
def test_lists_hold_the_answer_first_and_no_other_answer(examples, corpus, lists):
    answers = {e.question: set(e.positives) for e in examples}
    assert len(lists) == len(examples)
    for row in lists:
        assert row["docs"][0] in answers[row["query"]]
        assert row["labels"] == [1.0] + [0.0] * (len(row["docs"]) - 1)
        assert not answers[row["query"]] & set(row["docs"][1:-1])
        assert set(row["docs"]) <= set(corpus)


@pytest.mark.slow
def test_the_same_lists_are_mined_again(examples, corpus, lists, bi_encoder):
    assert mine_lists(examples, corpus, bi_encoder).to_list() == lists.to_list()


def test_targets_sum_to_one_and_keep_the_answer_on_top(lists, bi_encoder):
    for row in soften(lists, bi_encoder, share=0.3, temperature=0.04):
        target = np.exp(row["labels"])
        assert target.sum() == pytest.approx(1, abs=1e-3)
        assert target.argmax() == 0
        assert target[0] >= 0.7


@pytest.mark.slow
@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_training_goes_on_where_it_was_cut_off(tmp_path, lists, bi_encoder, loss):
    if loss == "listnet":
        lists = soften(lists, bi_encoder, share=0.3, temperature=0.04)
    model = from_bi_encoder(find_embedding(), tmp_path / "start")
    options = {"loss": loss, "questions_per_step": 4, "evaluate_every": 2}
    log = fit(model, lists, tmp_path / "run", steps=2, **options)
    assert [entry["step"] for entry in log if "loss" in entry][-1] == 2

    again = from_bi_encoder(find_embedding(), tmp_path / "start")
    log = fit(again, lists, tmp_path / "run", steps=4, **options)
    steps = [entry["step"] for entry in log if "loss" in entry]
    assert steps == [2, 4]  # the first two are the first run's, not run again
    assert all(np.isfinite(entry["loss"]) for entry in log if "loss" in entry)


@pytest.mark.slow
def test_calibrate_and_save(tmp_path, examples, corpus, bi_encoder):
    model = from_bi_encoder(find_embedding(), tmp_path / "start")
    evaluator = dev_evaluator(examples[:6], corpus, bi_encoder, k=10)
    pairs = [(s["query"], d) for s in evaluator.samples for d in s["documents"]]
    before = model.predict(pairs, activation_fn=torch.nn.Identity())
    factor, offset = calibrate(model, evaluator)
    after = model.predict(pairs, activation_fn=torch.nn.Identity())
    np.testing.assert_allclose(after, factor * before + offset, atol=2e-2)
    positive = np.mean([d in s["positive"] for s in evaluator.samples for d in s["documents"]])
    assert model.predict(pairs).mean() == pytest.approx(positive, abs=0.01)

    save(model, tmp_path / "out", "# card\n", {"base": "x"})
    loaded = CrossEncoder(str(tmp_path / "out"))
    assert loaded.model.dtype == torch.float32
    np.testing.assert_allclose(loaded.predict(pairs), model.predict(pairs), atol=5e-3)
    record = json.loads((tmp_path / "out" / "revision.json").read_text())
    weights = (tmp_path / "out" / "model.safetensors").read_bytes()
    assert record["sha256"]["model.safetensors"] == hashlib.sha256(weights).hexdigest()
    assert len(weights) < 50_000_000
