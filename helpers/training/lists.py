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
_IS_NOT = ("There is no {}.", "The {} is unknown.", "We have no {}.")


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
        return ((asked and asked.group(2).strip()) or bare.strip()).title()
    plain = _IS.match(bare)
    if form == 2 and plain:
        return draw.choice(_IS_NOT).format(plain.group(1))
    if form < 4:
        return draw.choice(_ABSENCE).format(question=bare[:1].lower() + bare[1:])
    return f"{question} {filler}"


def sentence_lists(
    paragraphs: Sequence[Paragraph], draw: random.Random, idle: float = 0.4
) -> Iterator[List]:
    """Yield a question, the sentence that answers it, its neighbours, and perhaps an idle text."""
    order = [(p, q) for p in paragraphs for q in p.questions if len(q[2]) == 1]
    for paragraph, (question, _, [(start, end)]) in _shuffled(order, draw):
        sentences = paragraph.sentences()
        answer = [s for s in sentences if s[0] < end and start < s[1]]
        others = [s for s in sentences if s not in answer and s[1] - s[0] > 20]
        if len(answer) != 1 or not others:
            continue
        texts = [paragraph.text[a:b].strip() for a, b in _some(others, 5, draw)]
        texts = [text for text in texts if paragraph.text[start:end] not in text]
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

    `questions` holds (question, the sentence that answers); `nearest` gives, for a position in it,
    positions in `sentences` and their cosines. `share` of the target comes from the bi-encoder
    (softmax of cosines at 0.05).
    """
    for i in _shuffled(range(len(questions)), draw):
        question, answer = questions[i]
        found = [(sentences[j], cosine) for j, cosine in zip(*nearest(i), strict=True)]
        right = [pair for pair in found if pair[0] == answer]
        wrong = [pair for pair in found if pair[0] != answer]
        if not right:
            continue
        picked = [right[0], *wrong[:2], *_some(wrong[2:], 4, draw)]
        view = _softmax([cosine for _, cosine in picked], 0.05, share)
        labels = [[float(v), -1.0] for v in view]
        labels[0] = [float(view[0] + 1 - share), 1.0]
        yield [question] * len(labels), [text for text, _ in picked], labels


def question_lists(paragraphs: Sequence[Paragraph], draw: random.Random) -> Iterator[List]:
    """Yield a sentence or a paragraph's beginning, the question it answers, and others it does not.

    The others are near misses that people wrote, and questions that other sentences answer.
    """
    for paragraph in _shuffled([p for p in paragraphs if len(p.questions) > 1], draw):
        misses = [q for q, _, spans in paragraph.questions if not spans]
        for left, right in paragraph.sentences():
            here, elsewhere = [], []
            for question, _, spans in paragraph.questions:
                if spans:
                    inside = any(a < right and left < b for a, b in spans)
                    (here if inside else elsewhere).append(question)
            if here and (others := _some(misses + elsewhere, 4, draw)):
                text = paragraph.text[left:right].strip()
                yield _one_right([draw.choice(here), *others], [text])
        text = paragraph.text[:500].rsplit(" ", 1)[0]
        here = [q for q, _, spans in paragraph.questions if spans and spans[0][1] <= len(text)]
        if here and misses:
            yield _one_right([draw.choice(here), *_some(misses, 3, draw)], [text])


def chunk_lists(
    questions: Sequence[tuple[ChunkQuestion, Sequence[str], Sequence[float]]],
    draw: random.Random,
    size: int = 7,
    share: float = 0.5,
    idle: float = 0.5,
) -> Iterator[List]:
    """Yield a question with chunks that answer and chunks that do not, a teacher's view mixed in.

    `questions` holds (question, candidate chunks, the teacher's logit for each), of which a list
    takes `size`; `share` of the target comes from the teacher (softmax of its logits at 0.5). With
    the chance `idle`, a text that has the question's words, or the answering chunk without the
    sentence that answers, is added.
    """
    for question, candidates, logits in _shuffled(questions, draw):
        right = [i for i, text in enumerate(candidates) if text in question.positives]
        wrong = [i for i, text in enumerate(candidates) if text not in question.positives]
        ids = _some(right, 2, draw)
        ids += _some(wrong, size - len(ids), draw)
        if not right:
            continue
        view = _softmax([logits[i] for i in ids], 0.5, share)
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
    passage over all questions of the item. And a passage that answers nothing, over all questions.
    """
    for record in _shuffled(records, draw):
        texts = [record["answer"], *(decoy["text"] for decoy in record["decoys"])]
        asked = [record["question"], *(decoy.get("answers") for decoy in record["decoys"])]
        asked = {i: question for i, question in enumerate(asked) if question is not None}
        for i, question in asked.items():
            yield _one_right([question], [texts[i], *(t for j, t in enumerate(texts) if j != i)])
            if len(asked) > 1:
                others = [other for j, other in asked.items() if j != i]
                yield _one_right([question, *others], [texts[i]])
        idle = [text for i, text in enumerate(texts) if i not in asked]
        if idle and len(asked) > 1:
            yield list(asked.values()), [draw.choice(idle)] * len(asked), [[0.0, 0.0]] * len(asked)


def _shuffled(items: Sequence, draw: random.Random) -> list:
    order = list(items)
    draw.shuffle(order)
    return order


def _some(items: list, count: int, draw: random.Random) -> list:
    return draw.sample(items, min(count, len(items)))


def _softmax(values: Sequence[float], temperature: float, share: float) -> np.ndarray:
    view = np.exp((np.array(values) - max(values)) / temperature)
    return view * (share / view.sum())


def _one_right(queries: list[str], documents: list[str]) -> List:
    """Make a list whose first pair is the right one; a single query or document serves for all."""
    size = max(len(queries), len(documents))
    labels = [[1.0, 1.0]] + [[0.0, 0.0]] * (size - 1)
    return queries * (size // len(queries)), documents * (size // len(documents)), labels
