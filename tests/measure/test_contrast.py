"""Contrast questions: what counts as right, what the interval draws, and what the controls see."""

import pandas as pd
import pytest

from helpers.judgements import read_jsonl
from helpers.measure.contrast import (
    CONTRAST,
    contrast_table,
    few_shared_words,
    judged,
    passage_alone,
    share,
)

RECORD = {
    "id": "w1",
    "question": "When does it open?",
    "answer": "At nine.",
    "decoys": [
        {"kind": "attribute", "text": "It is free.", "answers": "What does it cost?"},
        {"kind": "heading", "text": "When does it open?"},
    ],
}


def scorer(**known):
    """Scores by the passage's first word, or by (question's first word, passage's)."""
    return lambda pairs: [
        known.get(f"{q.split()[0]}_{p.split()[0]}", known.get(p.split()[0], 0.0)) for q, p in pairs
    ]


@pytest.mark.parametrize(
    ("score", "both", "first", "beaten"),
    [
        (scorer(When_At=2, When_It=1, What_It=1, When_When=1), 1, 1, 1),
        (scorer(At=2, It=1, When=3), 0, 1, 0),  # the passage alone wins both times
        (scorer(), 0, 0, 0),  # ties are wrong
    ],
)
def test_a_pair_is_right_when_both_questions_prefer_their_own(score, both, first, beaten):
    table = contrast_table(judged([RECORD], score))["right"]
    assert table["pairs right both ways", "attribute"] == both
    assert table["their first question alone", "all"] == first
    assert table["decoys beaten", "heading"] == beaten


def test_the_interval_draws_questions_and_not_comparisons():
    right = [1] * 10 + [0] * 10
    alike = pd.DataFrame({"id": ["a"] * 10 + ["b"] * 10, "right": right})
    apart = pd.DataFrame({"id": [str(n) for n in range(20)], "right": right})
    assert share(alike)[1:] == (0, 1)
    assert 0.2 < share(apart)[1] < share(apart)[2] < 0.8


def test_controls_see_what_they_say():
    assert few_shared_words([("a b", "a b c"), ("a b", "a d"), ("a b", "e")]) == [-1, -0.5, 0]
    asked = []
    passage_alone(lambda pairs: asked.extend(pairs) or [0.0])([("a question", "a passage")])
    assert asked == [("", "a passage")]


def test_contrast_questions_are_split_by_subject():
    subjects = [
        {r["subject"].split(",")[0].split(":")[0].strip().lower() for r in read_jsonl(CONTRAST, s)}
        for s in ("train", "dev", "test")
    ]
    assert all(subjects)
    assert len(set.union(*subjects)) == sum(map(len, subjects))
