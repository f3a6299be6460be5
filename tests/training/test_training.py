"""Lists hold what they promise, the loss is ListNet's, and weights are calibrated and saved."""

import json
import random
from functools import partial

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder.losses import ListNetLoss

import helpers.training.__main__ as command
from helpers.judgements import read_jsonl
from helpers.profiles import find_embedding, verify_files
from helpers.training import lists as make
from helpers.training import publish, read
from helpers.training.__main__ import load, mix
from helpers.training.dev import DevEvaluator, candidates
from helpers.training.loss import PairListLoss

TEXT = (
    "The harbour of Oster was deepened to nine metres in 1911. A crane came from Leeds. "
    "The mayor cut a ribbon, and the band played until the rain began."
)


def span(text, part):
    return (text.index(part), text.index(part) + len(part))


@pytest.fixture
def paragraph():
    questions = (
        ("How deep is the harbour?", "fact", (span(TEXT, "nine metres"),)),
        ("Where did the crane come from?", "fact", (span(TEXT, "Leeds"),)),
        ("How deep is the lake?", "near miss", ()),
    )
    return read.Paragraph(TEXT, questions, "one", dev=False)


@pytest.fixture(scope="module")
def records():
    return read_jsonl(read.CONTRAST, "train")


def squad_file(folder, name, titles):
    articles = []
    for title in titles:
        context = f"{name} {title}. {TEXT}"
        asked = {
            "question": f" How deep is {title}? ",
            "answers": [{"text": "nine metres", "answer_start": context.index("nine metres")}],
        }
        articles.append(
            {"title": f"{name} {title}", "paragraphs": [{"context": context, "qas": [asked]}]}
        )
    (folder / read.FILES[name]).write_text(json.dumps({"data": articles}))
    return articles


def test_documents_are_in_training_or_in_dev_and_near_misses_have_no_answer(tmp_path, monkeypatch):
    for name in read.FILES:
        articles = squad_file(tmp_path, name, [str(n) for n in range(30)])
    context = articles[0]["paragraphs"][0]["context"]
    missed = {"question": "How deep is the lake?", "is_impossible": True, "answers": []}
    miss = {"data": [{"title": "x", "paragraphs": [{"context": context, "qas": [missed]}]}]}
    (tmp_path / read.NEAR_MISSES).write_text(json.dumps(miss))
    monkeypatch.setattr(read, "OWN_DOCUMENTS", tmp_path / "none.jsonl")
    read.OWN_DOCUMENTS.write_text("")
    paragraphs = read.read_paragraphs(tmp_path)
    assert len(paragraphs) == 30 * len(read.FILES)
    assert {p.dev for p in paragraphs} == {True, False}
    assert [p.questions[-1] for p in paragraphs if p.text == context] == [
        ("How deep is the lake?", "near miss", ())
    ]
    questions, chunks = read.chunk(paragraphs)
    assert not set(chunks[True]) & set(chunks[False])
    for question in questions:
        assert set(question.positives) <= set(chunks[question.dev])
        assert all("nine metres" not in text for text in question.without)


def test_a_sentence_list_has_the_answer_first_and_nowhere_else(paragraph):
    found = list(make.sentence_lists([paragraph], random.Random(0), idle=0))
    assert len(found) == 2
    for queries, documents, labels in found:
        answer = "nine metres" if "deep" in queries[0] else "Leeds"
        assert [answer in text for text in documents] == [True] + [False] * (len(documents) - 1)
        assert labels == [[1.0, 1.0]] + [[0.0, 0.0]] * (len(documents) - 1)
        assert len(set(queries)) == 1


def test_a_question_list_holds_near_misses_as_wrong(paragraph):
    found = list(make.question_lists([paragraph], random.Random(0)))
    assert any("How deep is the lake?" in queries[1:] for queries, _, _ in found)
    assert all(queries[0] != "How deep is the lake?" for queries, _, _ in found)
    assert all(len(set(documents)) == 1 for _, documents, _ in found)


def test_an_idle_text_has_the_questions_words():
    draw = random.Random(1)
    question = "What is the plan for the economy?"
    texts = {make.idle_text(question, draw, "Ships came in.") for _ in range(60)}
    assert "There is no plan for the economy." in texts
    assert question in texts
    assert f"{question} Ships came in." in texts
    assert all("economy" in text.lower() for text in texts)


def test_contrast_lists_go_both_ways(records):
    found = list(make.contrast_lists(records[:1], random.Random(0)))
    record = records[0]
    right = {(q[0], d[0]) for q, d, labels in found if labels[0] == [1.0, 1.0]}
    assert (record["question"], record["answer"]) in right
    for decoy in record["decoys"]:
        if "answers" in decoy:
            assert (decoy["answers"], decoy["text"]) in right
    over_documents = [q for q, _, labels in found if len(set(q)) == 1 and sum(map(sum, labels))]
    over_questions = [d for q, d, labels in found if len(set(q)) > 1 and sum(map(sum, labels))]
    assert len(over_documents) == len(over_questions) == len(right)


def test_a_chunk_target_sums_to_one_and_spares_what_the_teacher_likes():
    question = read.ChunkQuestion("How deep?", "fact", ("nine metres",), ("x" * 200,), False)
    teacher = (question, ["nine metres", "no", "perhaps"], [1.0, -3.0, 2.0])
    for _ in range(8):
        draw = random.Random(_)
        [(queries, documents, labels)] = make.chunk_lists([teacher], draw)
        labels = dict(zip(documents, labels, strict=True))
        assert sum(target for target, _ in labels.values()) == pytest.approx(1)
        assert labels["nine metres"][1] == 1
        assert labels["no"][1] == 0
        assert labels["perhaps"][1] == -1  # nobody judged it
        assert len(queries) == len(documents)


@pytest.fixture(scope="module")
def model():
    return load(find_embedding())


def test_without_its_second_term_the_loss_is_listnet(model):
    queries = [["how deep is it?"] * 3, ["where is the crane from?"] * 2]
    documents = [["nine metres", "from Leeds", "a band"], ["from Leeds", "nine metres"]]
    targets = [[0.8, 0.15, 0.05], [0.9, 0.1]]
    labels = [torch.tensor([[t, -1.0] for t in row]) for row in targets]
    labels[0][0, 1] = 1.0  # one judged pair; its weight is 0
    with torch.no_grad():
        ours = PairListLoss(model, pointwise=0.0)([queries, documents], labels)
        asked = [[row[0] for row in queries], documents]
        theirs = ListNetLoss(model)(asked, [torch.tensor(row).log() for row in targets])
    assert float(ours) == pytest.approx(float(theirs), abs=1e-4)


def test_the_second_term_is_the_log_loss_of_judged_pairs(model):
    queries, documents = [["how deep?"] * 2], [["nine metres", "a band"]]
    labels = [torch.tensor([[0.0, 0.0], [0.0, -1.0]])]
    with torch.no_grad():
        loss = PairListLoss(model, pointwise=1.0)([queries, documents], labels)
        logit = model.predict([("how deep?", "nine metres")], activation_fn=torch.nn.Identity())
    assert float(loss) == pytest.approx(float(np.logaddexp(0, logit[0])), abs=1e-4)


class OnMeta(torch.nn.Module):
    """Scores by words alone, on the device without values: it refuses to meet a processor's."""

    def __init__(self, model):
        super().__init__()
        self.preprocess, self.device = model.preprocess, torch.device("meta")
        self.table = torch.nn.Embedding(len(model.tokenizer), 1, device="meta")

    def forward(self, features):
        assert {tensor.device.type for tensor in features.values()} == {"meta"}
        return {"scores": self.table(features["input_ids"]).sum(1)}


def test_batches_and_labels_go_to_the_device_of_the_model(model):
    queries, documents = [["how deep?"] * 2, ["how?"]], [["nine metres", "a band " * 9], ["nine"]]
    labels = [torch.tensor([[1.0, 1.0], [0.0, -1.0]]), torch.tensor([[1.0, 1.0]])]
    value = PairListLoss(OnMeta(model), batch_tokens=32)([queries, documents], labels)
    assert value.device.type == "meta" and value.shape == ()
    value.backward()


class Encoder:
    """Texts in, vectors out: one direction for each first letter."""

    def encode(self, texts, **_):
        return np.array([np.eye(26)[ord(text[0]) - 97] for text in texts])


def test_a_checkpoint_is_chosen_by_ranking_and_by_pairs_right_both_ways(tiny_bert, records):
    samples = candidates([("a?", {"a1": 2}), ("b?", {"c1": 1})], ["a1", "b1", "c1"], Encoder(), k=2)
    assert [(q, dict(zip(t, g, strict=True))["a1"]) for q, t, g in samples] == [("a?", 2)]
    model = CrossEncoder(str(tiny_bert()), device="cpu")
    found = DevEvaluator({"one": samples}, records[:8], bf16=False)(model)
    ask = partial(model.predict, activation_fn=torch.nn.Identity())
    pairs = read.both_ways(records[:8])
    right = [
        ask([(q, a)]) > ask([(q, b)]) and ask([(other, b)]) > ask([(other, a)])
        for q, a, other, b, _ in pairs
    ]
    assert found["dev_both"] == pytest.approx(np.mean(right))
    assert found["dev_both_and_ranking"] == (found["dev_both"] + found["dev_ndcg_one"]) / 2
    of_kind = [r for r, pair in zip(right, pairs, strict=True) if pair[-1] == "entity"]
    assert found["dev_both_entity"] == pytest.approx(np.mean(of_kind))


def test_lists_are_drawn_by_their_shares():
    streams = {
        name: iter([([name], ["d"], [[1.0, 1.0]])] * 1000) for name in ("often", "seldom", "never")
    }
    dataset = mix(streams, {"often": 0.8, "seldom": 0.2}, 500, seed=0)
    counts = {name: sum(row == [name] for row in dataset["queries"]) for name in streams}
    assert counts["never"] == 0
    assert 350 < counts["often"] < 450


def test_calibration_is_worked_into_the_classifier(model, tmp_path):
    logits = np.array([-2.0, -1.0, 0.0, 1.0, 2.0, 3.0])
    marks = np.array([0, 0, 1, 0, 1, 1])
    pairs = [("how deep?", "nine metres"), ("how deep?", "a band played")]
    before = model.predict(pairs, activation_fn=torch.nn.Identity())
    factor, offset = publish.calibrate(model, logits, marks)
    after = model.predict(pairs, activation_fn=torch.nn.Identity())
    np.testing.assert_allclose(after, factor * before + offset, atol=1e-4)
    chances = 1 / (1 + np.exp(-(factor * logits + offset)))
    assert chances.mean() == pytest.approx(marks.mean(), abs=1e-3)  # what Platt scaling promises

    publish.save(model, tmp_path / "out", "# card\n", {"base": "x"})
    loaded = CrossEncoder(str(tmp_path / "out"))
    assert loaded.model.dtype == torch.float32
    np.testing.assert_allclose(loaded.predict(pairs), model.predict(pairs), atol=5e-3)
    verify_files(tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").stat().st_size < 50_000_000


@pytest.mark.slow
def test_training_goes_on_where_it_was_cut_off(tmp_path, monkeypatch):
    """The command itself, on sources of a few paragraphs and two dev questions."""
    for name in read.FILES:
        squad_file(tmp_path, name, [str(n) for n in range(30)])
    (tmp_path / read.NEAR_MISSES).write_text(json.dumps({"data": []}))
    monkeypatch.setitem(command.STAGES, "words", {"contrast": 1.0})
    records = read_jsonl(read.CONTRAST, "train")[:3]
    monkeypatch.setattr(command, "read_jsonl", lambda *_: records)
    lists = list(make.contrast_lists(records, random.Random(0))) * 9
    monkeypatch.setattr(command, "sources", lambda *_: {"contrast": iter(lists)})
    sample = ("how deep?", ["nine metres", "a band"], [1, 0])
    monkeypatch.setattr(command, "dev_sets", lambda *_: {"one": [sample]})

    def train(steps):
        arguments = ["--data", tmp_path, "--stage", "words", "--work", tmp_path / "work"]
        arguments += ["--steps", steps, "--lists", 2, "--evaluate-every", 2]
        monkeypatch.setattr("sys.argv", ["helpers.training", *map(str, arguments)])
        command.main()
        log = json.loads((tmp_path / "work" / "words" / "log.json").read_text())["log"]
        return [entry["step"] for entry in log if "eval_dev_both" in entry]

    assert train(2) == [2]
    assert train(4) == [2, 4]  # the first two are the first run's, not run again
    assert (tmp_path / "work" / "words" / "best" / "model.safetensors").is_file()
