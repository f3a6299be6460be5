"""An answer's citations: every fault of the list is found, and what does not count is none."""

import re

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.documents import Document

from helpers.documents.answer import PROMPT, ExtractiveReader, _sentences, show_passages
from helpers.documents.citations import NOTHING_FOUND, check_citations

RULES = "Dogs on a lead travel free. Wait up to 15 hours, from 1:30.\n"
RULES += "The “E\u201122” lamp \u2013 it\u2019s red \u2013 blinks."
FACTS = {"source": "all/rules_2031.pdf", "title": "Rules of 1998", "page": 3}
DOCS = [Document(RULES, metadata=FACTS)]
DOCS += [
    Document(
        "A dog costs £1.50 a crossing, 2,400 a year. At -15 degrees none sails.",
        metadata={"source": "n.md"},
    )
]


GOOD = """\
"DOGS on \t a  lead TRAVEL free." [1] // “dogs on a lead travel free” [1]. // „dogs on a lead“, [1]!
«dogs on a lead» [1] // "on a le\u00adad travel\u00a0free" [1] // "The 'E-22' lamp" [1]
"lamp \u2014 it\u2018s red" [1] // "The “E-22” lamp - it's red" [1] // 1.50, "A dog costs £1.50" [2]
On page 3 of all/rules_2031.pdf: "Wait up to 15" [1] // The rules of 1998: "free. Wait up" [1]
*"dogs on a lead"* [1, 1]; // "dogs on a lead" ([1]) // "dogs on a lead" (all/rules_2031.pdf) [1].
"The documents do not answer that" //  The documents do not answer that. """


@pytest.mark.parametrize("answer", re.split("\n| // ", GOOD))
def test_what_does_not_count_is_no_fault_and_sources_are_named(answer):
    citations, faults = check_citations(answer, DOCS)
    assert faults == []
    assert {str(c) for c in citations} <= {"[1] all/rules_2031.pdf, page 3", "[2] n.md"}


BAD = """\
cites nothing // Dogs travel free. // Dogs travel free [1]. // "dogs on a lead travel free"
passage 3, but has .* 1 to 2 // "dogs on a lead" [3] // "A dog costs" [2][3]
cites .2. without a quotation // Free [2], "dogs on a lead" [1] // "dogs on a lead" [1]. See [2].
ends without a citation: So // "A dog costs" [2]. So do cats. // "A dog costs" [2] So "a year".
does not say // "dogs on a lead travel paid" [1] // "dogs on a lead" [2] // "dogs on a lead" [1] [2]
does not say // "5 hours, from 1:30" [1] // "30. The 'E-22' lamp" [1] // "15 hours, from 1" [1]
does not say // "A dog costs £1" [2] // "A dog costs £1." [2] // "50 a crossing" [2] // ".* on" [1]
without a number // 'every cat pays double', "dogs on a lead" [1]
does not say // "15 degrees none sails" [2] // "gs on a lead" [1] // "dogs ... travel free" [1]
does not say // "a crossing, 2" [2]
expected 3 words or more // "travel free" [1] // "" [1] // "dogs on" [1], "dogs on a lead" [1]
beside it has 9 // £9, "A dog costs £1.50" [2] // "A dog costs" [2]. Cats pay 9.
beside it has 1 // £1 it is, "A dog costs £1.50" [2] // 1.50, "dogs on a lead" [1]"""


@pytest.mark.parametrize("row", BAD.split("\n"))
def test_each_fault_is_found_and_named(row):
    said, *answers = row.split(" // ")
    for answer in answers:
        assert re.search(said, "\n".join(check_citations(answer, DOCS)[1])), answer


class Even(BaseCrossEncoder):
    """Holds all pairs equal."""

    def score(self, text_pairs):
        return [0.5] * len(text_pairs)


WORDS = 'dogs E-22 “Café” "box" „so“ £1.50 07:15, don\u2019t 4\u20136 a.m. no\u00adte a\u00a0b [2]'
WORDS += (
    " </passage> &amp; free! why? ends. 7.50 ﬁve İs (see) ... \u2018it\u2019 ß 港は深い。 -5 No."
)
WORDS = [*WORDS.split(" "), "\n", "\n\n", "\n# ", "\n- "]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(WORDS), min_size=3, max_size=15).map(" ".join), st.integers(0, 9))
@example("The café «Gull» is open.", 0)
def test_what_the_reader_quotes_passes_and_with_a_word_changed_does_not(text, place):
    docs = [Document(text, metadata={"source": "a.md"})]
    said = {"passages": show_passages(docs), "question": "Why?"}
    answer = (PROMPT | ExtractiveReader(model=Even())).invoke(said).text
    assert check_citations(answer, docs)[1] == []
    assume(answer != NOTHING_FOUND)
    start, quote, end = re.fullmatch(r'(a.md says: ")(.*)(" \[1\]\.)', answer).groups()
    words = quote.split()
    words[place % len(words)] = "zebra"
    assert check_citations(start + " ".join(words) + end, docs)[1] != []


def test_every_sentence_of_the_documents_can_be_quoted(documents):
    said = [(doc, sentence) for doc in documents for sentence in _sentences(doc.page_content, "en")]
    faults = {s: check_citations(f'It says: "{s}" [1].', [doc])[1] for doc, s in said}
    assert len(said) > 250 and {s: found for s, found in faults.items() if found} == {}
