"""The commands that take too long for a notebook run at a small size and write what it reads."""

import json
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from helpers.evaluate import compare
from helpers.index import split_text
from helpers.judgements import load_judgements
from helpers.measure import quality, reading, sweep
from helpers.measure.command import printable
from helpers.profiles import DATA


def run(module, monkeypatch, *arguments, **small):
    monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, arguments)])
    module.main(**small)


@pytest.mark.slow
def test_sweep(tmp_path, monkeypatch, capsys):
    out = tmp_path / "sweep.json"
    run(sweep, monkeypatch, "--out", out, count=4, candidates=[5, 10], sizes=[500])
    result = json.loads(out.read_text())
    committed = json.loads((DATA / "results" / "sweep.json").read_text())
    assert result.keys() == committed.keys()
    for part in ("candidates", "chunk sizes"):
        assert result[part][0].keys() == committed[part][0].keys()
    assert [row["k"] for row in result["candidates"]] == [5, 10]
    assert [row["k"] for row in committed["candidates"]] == list(sweep.CANDIDATES)
    for row in result["candidates"] + committed["candidates"]:
        assert row["low"] <= row["nDCG@10"] <= min(row["high"], row["oracle"]) + 1e-3
        assert row["seconds"] > 0
    assert result["candidates"][0]["recall"] <= result["candidates"][1]["recall"]
    assert result["chunk sizes"][0]["chunks"] == 120


@pytest.mark.slow
def test_reading(tmp_path, monkeypatch, capsys):
    out = tmp_path / "reading.json"
    run(reading, monkeypatch, "--out", out, "--questions", 3, "--splits", "dev")
    result = json.loads(out.read_text())
    committed = json.loads((DATA / "results" / "reading.json").read_text())
    assert result.keys() == committed.keys()
    assert result["contrast"]["dev"].keys() == committed["contrast"]["dev"].keys()
    found, kept = (r["ranking"]["address, dev"] for r in (result, committed))
    assert {name: row.keys() for name, row in found.items()} == {
        name: row.keys() for name, row in kept.items()
    }
    assert all(0 <= row["nDCG@10"] <= 1 for row in found.values())
    areas = (r["answerable or not"]["address, dev"]["all"].keys() for r in (result, committed))
    assert next(areas) == next(areas)
    first = result["first passages"]["address, dev"]
    assert len(first) == 6  # three that the text answers, and three that it does not
    text = (DATA / "address.txt").read_text(encoding="utf-8")
    questions = load_judgements(DATA / "judgements.jsonl", text, "dev")
    was = zip(committed["first passages"]["address, dev"], questions, strict=True)
    was = [row for row, question in was if question.spans]
    for (score, right), (old, old_right) in zip(first[:3], was, strict=False):
        assert score == pytest.approx(old, abs=0.02)
        assert right == old_right


def test_with_attention_closed_words_of_the_question_reach_no_word_of_the_passage(model_dir, local):
    """Only [CLS] sees both: the passage's own states do not depend on the question."""
    closed, states = reading.ClosedCrossEncoder(model_dir), []
    layer = closed.client.model.bert.encoder.layer[-1]
    layer.register_forward_hook(lambda _, __, out: states.append(out))
    pairs = [("how deep is it", "nine metres"), ("who cut the ribbon", "nine metres")]
    scores = []
    for pair in pairs:
        scores += closed.score([pair])
    last = [state[0] if isinstance(state, tuple) else state for state in states]
    one, other = (torch.as_tensor(state).reshape(-1, 384)[-3:] for state in last)
    np.testing.assert_allclose(one, other, atol=1e-5)
    assert scores[0] != pytest.approx(scores[1], abs=1e-6)  # [CLS] does read both
    assert local.score(pairs)[0] != pytest.approx(scores[0], abs=1e-3)


def test_the_start_of_training_has_a_new_head_that_is_always_the_same():
    one, other = reading.untrained(), reading.untrained()
    pair = [("how deep is it", "nine metres")]
    assert one.score(pair) == other.score(pair)


def test_the_area_is_half_for_scores_that_say_nothing():
    found = reading.area([0.1, 0.5, 0.9], [0.1, 0.5, 0.9])
    assert found["AUC"] == 0.5
    assert reading.area([0.8, 0.9], [0.1, 0.2])["AUC"] == 1


# The table for a reader's own text

TEXT = "The harbour was deepened twice.\n\nBooks are lent for three weeks.\n"
ANSWERED = {"id": "yes", "question": "How long are books lent?", "spans": [[33, 64, 2]]}
IDLE = {"id": "no", "question": "Who won the cup?", "spans": []}
BETWEEN = {"id": "between", "question": "What is white?", "spans": [[31, 33, 2]]}


@pytest.fixture
def evaluate(tmp_path, monkeypatch, capsys):
    """Runs `make evaluate` on questions: what it printed, its error and its exit code come back."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.txt").write_text(TEXT, encoding="utf-8")

    def evaluate(*questions, more=(), text="my.txt"):
        lines = "\n".join(q if isinstance(q, str) else json.dumps(q) for q in questions)
        (tmp_path / "my.jsonl").write_text(lines, encoding="utf-8")
        code = 0
        try:
            run(quality, monkeypatch, "--corpus", text, "--questions", "my.jsonl", *more)
        except SystemExit as stopped:
            code = stopped.code
        printed = capsys.readouterr()
        return printed.out, printed.err.strip().splitlines()[-1:], code

    return evaluate


@pytest.mark.parametrize(
    ("questions", "reason"),
    [
        ([IDLE], "the text does not answer them (no spans): 1 (no)"),
        ([BETWEEN], "no chunk holds their spans: 1 (between)"),
        ([IDLE, BETWEEN], "no spans): 1 (no); no chunk holds their spans: 1 (between)"),
    ],
)
def test_questions_that_nothing_answers_are_no_table(evaluate, monkeypatch, questions, reason):
    chunks = split_text("my.txt", chunk_size=32, chunk_overlap=0)  # parted at the blank line
    assert len(chunks) == 2
    monkeypatch.setattr(quality, "split_text", lambda _: chunks)
    out, [error], code = evaluate(*questions)
    assert (out, code) == ("", 1)
    assert "my.jsonl: no question can be measured: " in error and error.endswith(reason)


def test_some_questions_that_nothing_answers_are_named(evaluate):
    many = [IDLE | {"id": f"n{number:02}"} for number in range(12)]
    out, _, code = evaluate(ANSWERED, *many)
    assert code == 0
    names = ", ".join(q["id"] for q in many[:10])
    assert f"not measured, the text does not answer them (no spans): 12 ({names}, ...)" in out
    assert "questions: all 1\n" in out
    assert "candidates: the top 20 of 1 chunks" in out
    assert "NaN" not in out and "base (vectors)" in out


@pytest.mark.parametrize(
    ("questions", "more", "text", "error", "code"),
    [
        ([ANSWERED], ("-k", 0), "my.txt", "argument -k: expected a whole number of at least 1", 2),
        ([ANSWERED], ("-k", "x"), "my.txt", "argument -k: expected a whole number", 2),
        ([ANSWERED, "{"], (), "my.txt", "my.jsonl, line 2: ", 1),
        ([ANSWERED], (), "none.txt", "none.txt", 1),
        ([ANSWERED], (), "latin.txt", "latin.txt is not UTF-8 text", 1),
        ([ANSWERED], ("--profile", "x"), "my.txt", "unknown profile 'x'", 1),
        (['{"id": "q", "question": "\\ud800?", "spans": []}'], (), "my.txt", "my.jsonl, line 1", 1),
    ],
)
def test_what_cannot_be_measured_is_one_line(
    evaluate, tmp_path, questions, more, text, error, code
):
    (tmp_path / "latin.txt").write_bytes("caf\xe9".encode("latin-1"))
    out, [found], stopped = evaluate(*questions, more=more, text=text)
    assert (out, stopped) == ("", code)
    assert error in found


def test_the_printed_interval_is_one_column():
    qrels = pd.DataFrame([("q", "a", 1)], columns=["query_id", "doc_id", "relevance"])
    run = pd.DataFrame([("q", "a", 1.0)], columns=["query_id", "doc_id", "score"])
    table = printable(compare(qrels, {"base": run}, base="base"))
    assert list(table.columns) == ["nDCG@10", "gain", "95 % interval", "gap closed"]
    assert table.loc["base", "95 % interval"] == "[+0.000, +0.000]"
