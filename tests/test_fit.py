"""What a model reads of a pair: all of it, or what was promised, with a word about the rest."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sentence_transformers import CrossEncoder

from helpers.fit import CutWarning, bounded_batches
from helpers.score import LocalCrossEncoder

QUERY = "How deep is the harbour?"
CUTS = pytest.mark.filterwarnings("ignore::helpers.fit.CutWarning")


@pytest.fixture(scope="module")
def words(tiny):
    """Six hundred words of a token each."""
    known = sorted(tiny.client.tokenizer.get_vocab())
    return [word for word in known if word.isalpha() and word.isascii()][:600]


def close(scores, expected):
    np.testing.assert_allclose(scores, expected, atol=1e-5, rtol=0)


# Batches


@given(st.lists(st.integers(1, 512), max_size=60), st.integers(1, 4096))
def test_batches_hold_every_position_once_and_stay_below_the_bound(lengths, bound):
    batches = bounded_batches(lengths, bound)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= bound
    flat = [lengths[i] for batch in batches for i in batch]
    assert flat == sorted(flat, reverse=True)


# Cut


@CUTS
def test_of_a_pair_that_is_too_long_the_passage_is_cut_first(folder, tiny, words):
    """The tokenizer alone would cut the longer text, the query with it."""
    model, room = CrossEncoder(str(folder)), 512 - 3
    queries = [" ".join(words[:n]) for n in (3, 300, 400, room, room + 60)]
    passage = " ".join(words[::-1])
    kept = [(q, " ".join(words[::-1][: room - len(q.split())])) for q in queries[:-1]]
    kept += [(" ".join(words[:room]), "")]
    close(tiny.score([(query, passage) for query in queries]), model.predict(kept))
    short = LocalCrossEncoder(folder, max_length=16)
    cut = [(" ".join(words[:6]), " ".join(words[10:n])) for n in (17, 99, 16)]
    one, other, less = short.score(cut)
    assert one == pytest.approx(other, abs=1e-5) != less


def test_what_was_cut_is_counted_to_the_token(folder, tiny, words, recwarn):
    room = 512 - 3
    fits, long = (QUERY, " ".join(words[: room - 6])), (QUERY, " ".join(words[: room - 5]))
    model = LocalCrossEncoder(folder)
    model.score([fits, ("", ""), fits])
    assert not recwarn and model.cut == 0
    with pytest.warns(CutWarning, match="^2 of 4 pairs are longer than the model's 512 tokens"):
        scores = model.score([fits, long, fits, long])
    assert model.cut == 2
    logits, cut = model.logits([long, fits])
    assert cut == [0] and model.cut == 3 and logits.shape == (2, 1)
    close(model.activate(logits), [scores[1], scores[0]])


def test_in_a_template_too_it_is_counted_to_the_token(tiny_model, recwarn):
    folder = tiny_model("Qwen3, template")
    pair = (QUERY, "It was dredged to nine metres, and the band played.")
    total = CrossEncoder(str(folder)).preprocess([pair])["input_ids"].shape[1]
    assert LocalCrossEncoder(folder, max_length=total).logits([pair])[1] == []
    assert LocalCrossEncoder(folder, max_length=total - 1).logits([pair])[1] == [0]


@CUTS
def test_a_template_with_the_query_behind_keeps_it(tiny_model):
    """sentence-transformers cuts the end of what the template makes, here the question."""
    role = "{{{{ messages | selectattr('role', 'eq', '{}') | map(attribute='content') | first }}}}"
    behind = f"{role.format('document')} Does this answer {role.format('query')} Answer:"
    folder = tiny_model("Qwen3, yes or no", template=behind)
    passage = "The band played until it rained. " * 90
    queries = [QUERY, "Who will pay for the new school?"]
    cut = CrossEncoder(str(folder), device="cpu").predict([(query, passage) for query in queries])
    assert cut[0] == cut[1]
    found = LocalCrossEncoder(folder).score([(query, passage) for query in queries])
    assert abs(found[0] - found[1]) > 1e-3


# Windows


@pytest.mark.parametrize("name", ["BERT", "RoBERTa", "XLM-R", "Qwen3, yes or no"])
def test_a_long_passage_scores_as_its_best_window(tiny_model, name, recwarn):
    folder = tiny_model(name)
    model = LocalCrossEncoder(folder, windows=True, max_length=100)
    parts = [f"Part {n} is about the harbour, the band and school {n * n}. " for n in range(40)]
    pairs = [(QUERY, "".join(parts)), (QUERY, parts[3]), (QUERY, "".join(parts[:20]))]
    rows, cut = model._fitter.fit(pairs)
    plain = LocalCrossEncoder(folder, max_length=100)
    scores = plain.score([pair for _, pair, _ in rows])
    assert cut == [] and plain.cut <= 1, "a window fits"
    of = np.array([position for position, _, _ in rows])
    assert (of == 0).sum() > (of == 2).sum() > (of == 1).sum() == 1
    close(model.score(pairs), [max(np.array(scores)[of == n]) for n in range(3)])
    for position in (0, 2):  # every word is in some window, whole
        seen = [pair[1] for n, pair, _ in rows if n == position]
        assert all(any(part.strip() in text for text in seen) for part in parts[:20])
        assert (
            pairs[position][1].startswith(seen[0]) and pairs[position][1].rstrip()[-20:] in seen[-1]
        )
    assert not [w for w in recwarn if w.category is CutWarning]


def test_beside_a_query_that_leaves_no_room_a_passage_is_cut(tiny_bert, words):
    model = LocalCrossEncoder(tiny_bert(), windows=True)
    with pytest.warns(CutWarning, match="1 of 1 pairs"):
        model.score([(" ".join(words[:480]), " ".join(words))])


# Refused


def test_a_pair_of_which_nothing_would_be_read_is_refused(tiny_model):
    with pytest.raises(ValueError, match="a pair is empty, and the model puts nothing around"):
        LocalCrossEncoder(tiny_model("Qwen2")).score([("", "")])


def test_a_template_that_leaves_out_a_text_is_refused(tiny_model):
    folder = tiny_model("Qwen3, yes or no", template="{{ messages[0].content }}")
    with pytest.raises(ValueError, match="chat template of .* cannot carry"):
        LocalCrossEncoder(folder)
