"""A file in SQuAD's form becomes a text and questions, in any language; another is refused."""

import json
import sys

import pytest

from helpers.index import read_text
from helpers.judgements import JudgementError, load_judgements
from helpers.measure import quality
from helpers.measure.squad import lay_out

PARTS = {
    "El puerto se hizo más hondo. Los libros se prestan tres semanas.": (
        "¿Qué se prestan?",
        "Los libros",
    ),
    "बंदरगाह को गहरा किया गया। किताबें तीन हफ़्ते के लिए मिलती हैं।": (
        "किताबें कितने समय के लिए मिलती हैं?",
        "तीन हफ़्ते",
    ),
    "港は二度深くされた。本は三週間借りられる。": ("本はどれだけ借りられるか。", "三週間"),
    "港口挖深了两次。图书可借三周。": ("图书可以借多久？", "三周"),
}


def squad(parts=PARTS, **changed):
    paragraphs = [
        {
            "context": context,
            "qas": [
                {
                    "id": f"q{number}",
                    "question": question,
                    "answers": [{"text": answer, "answer_start": context.index(answer)} | changed]
                    * 2,
                }
            ],
        }
        for number, (context, (question, answer)) in enumerate(parts.items())
    ]
    return {"version": "1.1", "data": [{"title": "t", "paragraphs": paragraphs}]}


def written(folder, content):
    path = folder / "xquad.es.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_answers_stand_where_the_spans_say(tmp_path):
    content, again = squad(), squad()  # a paragraph that comes again is one passage
    content["data"] += again["data"]
    for part in content["data"][1]["paragraphs"]:
        part["qas"][0]["id"] += "again"
    content["data"][1]["paragraphs"][0]["qas"][0]["answers"] = []  # as SQuAD 2.0's
    corpus, questions = lay_out(written(tmp_path, content), tmp_path)
    text = read_text(corpus)
    assert text == "\n\n".join(PARTS)
    found = {question.id: question for question in load_judgements(questions, text)}
    for number, (question, answer) in enumerate(PARTS.values()):
        for id in (f"q{number}", f"q{number}again"):
            assert found[id].question == question
            spans = [text[start:end] for start, end, grade in found[id].spans if grade == 2]
            assert spans == ([] if id == "q0again" else [answer])


def test_marks_and_line_ends_move_nothing(tmp_path):
    parts = {"\ufeffUn puerto.\r\nHondo.": ("a?", "Hondo"), "\ufeffDos libros.": ("b?", "libros")}
    corpus, questions = lay_out(written(tmp_path, squad(parts)), tmp_path)
    text = read_text(corpus)
    for question, answer in zip(load_judgements(questions, text), ("Hondo", "libros"), strict=True):
        [(start, end, _)] = question.spans
        assert text[start:end] == answer


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ([], "list indices"),
        ({"data": [{"paragraphs": [{"context": "a"}]}]}, "lacks 'qas'"),
        (squad(answer_start=3), "q0: 'Los libros' is not at 3 of its paragraph"),
        (squad(text=""), "q0: '' is not at"),
        ({"data": squad()["data"] * 2}, "q0 comes twice"),
        ({"data": [{"paragraphs": [{"context": None, "qas": []}]}]}, "no attribute 'replace'"),
    ],
)
def test_another_form_is_refused(tmp_path, content, why):
    with pytest.raises(JudgementError, match="is not in SQuAD's form: ") as error:
        lay_out(written(tmp_path, content), tmp_path)
    assert why in str(error.value)


@pytest.mark.slow
def test_evaluate_takes_such_a_file_and_a_multilingual_model(
    tmp_path, monkeypatch, tiny_model, capsys
):
    path = written(tmp_path, squad())
    monkeypatch.setenv("RERANKER_MODEL", str(tiny_model("XLM-R")))
    monkeypatch.setattr(sys, "argv", ["quality", "--questions", str(path)])
    quality.main()
    said = capsys.readouterr().out
    assert "xquad.es.json, all questions, nDCG@10" in said and "questions: all 4" in said
    assert "reranked" in said and "NaN" not in said and "fused" not in said


@pytest.mark.parametrize(
    ("name", "more", "error"),
    [
        ("x.json", ["--split", "test"], "has no splits: expected no --split"),
        ("x.jsonl", [], "--questions and --corpus go together"),
        ("x.json", [], "x.json"),
    ],
)
def test_what_does_not_go_together_is_one_line(tmp_path, monkeypatch, capsys, name, more, error):
    monkeypatch.setattr(sys, "argv", ["quality", "--questions", str(tmp_path / name), *more])
    with pytest.raises(SystemExit):
        quality.main()
    assert error in capsys.readouterr().err.strip().splitlines()[-1]
