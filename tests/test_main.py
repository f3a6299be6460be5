"""One question on the command line: what cannot be done is said at once, in one line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import helpers.__main__ as command
import helpers.profiles as profiles

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["plan", "-k", "0"], "-k and --top-n: expected whole numbers of at least 1"),
        (["plan", "-k", "two"], "argument -k: invalid int value: 'two'"),
        (["plan", "--top-n", "-1"], "-k and --top-n: expected whole numbers of at least 1"),
        (["  "], "the question is blank or not UTF-8: expected words"),
        ([os.fsdecode(b"plan \xff")], "the question is blank or not UTF-8: expected words"),
        (["plan", "--plot", "x.unknown"], "--plot x.unknown: expected a name that ends in .svg,"),
    ],
)
def test_a_wrong_argument_is_named_before_any_model_is_loaded(arguments, said, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["helpers", *arguments])
    monkeypatch.setattr(profiles, "load_profile", lambda name: pytest.fail("it went on"))
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 2
    shown = capsys.readouterr()
    assert shown.err.splitlines()[-1].startswith(f"python -m helpers: error: {said}")
    assert shown.err.startswith("usage:") and shown.out == ""


def fails(arguments, monkeypatch, capsys):
    """Run the command, and return the one line in which it says why it cannot go on."""
    monkeypatch.setattr(sys, "argv", ["helpers", "plan", *arguments])
    with pytest.raises(SystemExit) as ended:
        command.main()
    shown = capsys.readouterr()
    assert ended.value.code == 1 and shown.out == ""
    return shown.err.splitlines()[-1]


def test_an_unknown_profile_is_one_line(monkeypatch, capsys):
    said = fails(["--profile", "hubb"], monkeypatch, capsys)
    assert said.startswith("unknown profile 'hubb'")


def test_a_model_that_cannot_rerank_is_one_line(tiny_bert, monkeypatch, capsys):
    for model, said in (
        ("none", "none is no folder"),
        (tiny_bert(num_labels=3), "3 labels and no"),
    ):
        monkeypatch.setenv("RERANKER_MODEL", str(model))
        assert said in fails([], monkeypatch, capsys)


def test_models_of_yours_answer_by_the_distance_they_were_trained_for(
    tiny_bert, tmp_path, monkeypatch, capsys
):
    from sentence_transformers import SentenceTransformer
    from transformers import BertModel

    embedding = SentenceTransformer(str(tiny_bert(BertModel)), similarity_fn_name="euclidean")
    embedding.save(str(tmp_path))
    monkeypatch.setenv("EMBEDDING_MODEL", str(tmp_path))
    monkeypatch.setenv("RERANKER_MODEL", str(tiny_bert()))
    monkeypatch.setattr(sys, "argv", ["helpers", "plan", "-k", "4", "--top-n", "1"])
    command.main()
    assert "The cross-encoder reads all 4, and these come first:" in capsys.readouterr().out


@pytest.mark.slow
def test_the_command_prints_the_reranked_answer_and_draws_it(tmp_path):
    arguments = ["-m", "helpers", "--top-n", "2", "-k", "10", "--plot", str(tmp_path / "plot.svg")]
    whole = [sys.executable, *arguments, "What is the plan for the economy?"]
    done = subprocess.run(whole, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("Loading the models and indexing the text ...")
    before, after = done.stdout.split("The cross-encoder reads all 10, and these come first:")
    assert "Question: What is the plan for the economy?" in before
    assert "Vector search puts these 2 of 10 candidates first:" in before
    assert "1. (score 0." in after and "2. (score 0." in after and "3. " not in after
    assert "Traceback" not in done.stderr
    svg = (tmp_path / "plot.svg").read_text(encoding="utf-8")
    assert "<svg" in svg and "<dc:date>" not in svg
