"""From records to lists: what one training step compares.

A list is (queries, documents, labels): pair i is queries[i] with documents[i]. Its labels are rows
of [target, relevant]: the share of the list's probability that the pair should get, and whether it
is relevant (1, 0, or -1 where nobody judged). Lists over documents teach which passage answers a
question, lists over questions which question a passage answers.
"""

import random
import re
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from helpers.training.read import ChunkQuestion, Paragraph

List = tuple[list[str], list[str], list[list[float]]]
Nearest = Callable[[int], tuple[np.ndarray, np.ndarray]]

# What a text says that has the question's words and no answer.
_ASKED = re.compile(r"^(what|which|who|when|where|why|how)\b(.*?)\??$", re.IGNORECASE | re.DOTALL)
_ABSENCE = (
    "Nobody can say {question}.",
    "It is not known {question}.",
    "Asked {question}, the speaker gave no answer.",
    "The question of {question} was left open.",
    "There is no information on {question}.",
    "Nothing has been decided about {question} so far.",
)
_IS = re.compile(r"^(?:what|which|who) (?:is|are|was|were) (?:the |an? )?(.*?)\??$", re.IGNORECASE)


def idle_text(question: str, draw: random.Random, filler: str = "") -> str:
    """Return a passage that has the question's words and does not answer it.

    The question itself, its words as a heading, a sentence which says that the answer is missing,
    or the question in front of `filler`, a passage about something else.
    """
    bare = question.strip().rstrip("?")
    form = draw.randrange(5 if filler else 4)
    if form == 0:
        return question
    if form == 1:
        asked = _ASKED.match(bare)
        words = (asked.group(2) if asked else bare).strip()
        return (words or bare).title()
    plain = _IS.match(bare)
    if form == 2 and plain:
        return draw.choice(("There is no {}.", "The {} is unknown.", "We have no {}.")).format(
            plain.group(1)
        )
    if form < 4:
        lower = bare[:1].lower() + bare[1:]
        return draw.choice(_ABSENCE).format(question=lower)
    return f"{question} {filler}"


def sentence_lists(
    paragraphs: Sequence[Paragraph], draw: random.Random, idle: float = 0.4
) -> Iterator[List]:
    """Yield a question, the sentence that answers it, its neighbours, and perhaps an idle text."""
    order = [(p, q) for p in paragraphs for q in p.questions if len(q[2]) == 1]
    draw.shuffle(order)
    for paragraph, (question, _, spans) in order:
        sentences = paragraph.sentences()
        answer = [s for s in sentences if s[0] < spans[0][1] and spans[0][0] < s[1]]
        others = [s for s in sentences if s not in answer and s[1] - s[0] > 20]
        if len(answer) != 1 or not others:
            continue
        answers = paragraph.text[spans[0][0] : spans[0][1]]
        texts = [paragraph.text[a:b].strip() for a, b in draw.sample(others, min(5, len(others)))]
        texts = [text for text in texts if answers not in text]
        if draw.random() < idle:
            texts.append(idle_text(question, draw))
        if texts:
            yield _one_right([question], [paragraph.text[slice(*answer[0])].strip(), *texts])


def near_lists(
    questions: Sequence[tuple[str, str]],
    sentences: Sequence[str],
    nearest: Nearest,
    draw: random.Random,
    share: float = 0.3,
) -> Iterator[List]:
    """Yield a question, its sentence, and sentences out of all that the bi-encoder finds nearest.

    Args:
        questions: (question, the sentence that answers).
        sentences: What `nearest` points into.
        nearest: Gives, for a position in `questions`, positions of sentences and their cosines.
        draw: The source of chance.
        share: How much of the target comes from the bi-encoder (softmax of cosines at 0.05).
    """
    order = list(range(len(questions)))
    draw.shuffle(order)
    for i in order:
        question, answer = questions[i]
        ids, cosines = nearest(i)
        found = [(sentences[j], c) for j, c in zip(ids, cosines, strict=True)]
        right = [c for text, c in found if text == answer]
        wrong = [pair for pair in found if pair[0] != answer]
        if not right:
            continue
        picked = wrong[:2] + draw.sample(wrong[2:], min(4, len(wrong) - 2))
        cosines = np.array([right[0], *(c for _, c in picked)])
        view = np.exp((cosines - cosines.max()) / 0.05)
        view *= share / view.sum()
        labels = [[float(v), -1.0] for v in view]
        labels[0] = [float(view[0] + 1 - share), 1.0]
        yield [question] * len(labels), [answer, *(text for text, _ in picked)], labels


def question_lists(paragraphs: Sequence[Paragraph], draw: random.Random) -> Iterator[List]:
    """Yield a sentence or a paragraph's beginning, the question it answers, and others it does not.

    The others are near misses that people wrote, and questions that other sentences answer.
    """
    order = [p for p in paragraphs if len(p.questions) > 1]
    draw.shuffle(order)
    for paragraph in order:
        misses = [q for q, _, spans in paragraph.questions if not spans]
        for left, right in paragraph.sentences():
            here, elsewhere = [], []
            for question, _, spans in paragraph.questions:
                if spans:
                    inside = any(a < right and left < b for a, b in spans)
                    (here if inside else elsewhere).append(question)
            if not here:
                continue
            others = misses + elsewhere
            others = draw.sample(others, min(4, len(others)))
            if others:
                queries = [draw.choice(here), *others]
                yield _one_right(queries, [paragraph.text[left:right].strip()])
        text = paragraph.text[:500].rsplit(" ", 1)[0]
        here = [q for q, _, spans in paragraph.questions if spans and spans[0][1] <= len(text)]
        if here and misses:
            queries = [draw.choice(here), *draw.sample(misses, min(3, len(misses)))]
            yield _one_right(queries, [text])


def chunk_lists(
    questions: Sequence[tuple[ChunkQuestion, Sequence[str], Sequence[float]]],
    draw: random.Random,
    size: int = 7,
    share: float = 0.5,
    idle: float = 0.5,
) -> Iterator[List]:
    """Yield a question with chunks that answer and chunks that do not, a teacher's view mixed in.

    Args:
        questions: (question, candidate chunks, the teacher's logit for each).
        draw: The source of chance.
        size: How many candidates a list takes.
        share: How much of the target comes from the teacher (softmax of its logits at 0.5).
        idle: How often a text that has the question's words, or the answering chunk without the
            sentence that answers, is added.
    """
    order = list(questions)
    draw.shuffle(order)
    for question, candidates, logits in order:
        right = [i for i, text in enumerate(candidates) if text in question.positives]
        wrong = [i for i, text in enumerate(candidates) if text not in question.positives]
        ids = draw.sample(right, min(2, len(right)))
        ids += draw.sample(wrong, min(size - len(ids), len(wrong)))
        if not right:
            continue
        view = np.array([logits[i] for i in ids]) / 0.5
        view = np.exp(view - view.max())
        view *= share / view.sum()
        marks = [1.0 if i in right else 0.0 for i in ids]
        labels = []
        for i, seen, mark in zip(ids, view, marks, strict=True):
            # A chunk that nobody marked and the teacher likes may well answer.
            judged = -1.0 if not mark and logits[i] > 0 else mark
            labels.append([float(seen + (1 - share) * mark / sum(marks)), judged])
        texts = [candidates[i] for i in ids]
        if draw.random() < idle:
            cut = question.without[question.positives.index(texts[0])]
            if len(cut) > 120 and draw.random() < 0.6:
                texts.append(cut)
            else:
                texts.append(idle_text(question.question, draw, candidates[draw.choice(wrong)]))
            labels.append([0.0, 0.0])
        yield [question.question] * len(texts), texts, labels


def contrast_lists(records: Sequence[dict], draw: random.Random) -> Iterator[List]:
    """Yield every contrast question with its passages, in both directions.

    For an item and each decoy that answers: its question over all passages of the item; and its
    passage over all questions of the item.
    """
    order = list(records)
    draw.shuffle(order)
    for record in order:
        texts = [record["answer"], *(decoy["text"] for decoy in record["decoys"])]
        asked = {0: record["question"]}
        for i, decoy in enumerate(record["decoys"], start=1):
            if "answers" in decoy:
                asked[i] = decoy["answers"]
        for i, question in asked.items():
            yield _one_right([question], [texts[i], *(t for j, t in enumerate(texts) if j != i)])
            if len(asked) > 1:
                others = [other for j, other in asked.items() if j != i]
                yield _one_right([question, *others], [texts[i]])
        idle = [i for i in range(1, len(texts)) if i not in asked]
        if idle and len(asked) > 1:
            # A passage that answers nothing: every question of the item is a wrong one.
            text = texts[draw.choice(idle)]
            yield list(asked.values()), [text] * len(asked), [[0.0, 0.0]] * len(asked)


def _one_right(queries: list[str], documents: list[str]) -> List:
    """Make a list whose first pair is the right one; a single query or document serves for all."""
    size = max(len(queries), len(documents))
    return (
        queries * (size // len(queries)),
        documents * (size // len(documents)),
        [[1.0, 1.0]] + [[0.0, 0.0]] * (size - 1),
    )
