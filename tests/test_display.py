"""What a reader sees: LangChain's printed form, the table of rank changes and its plot."""

import warnings

import matplotlib.pyplot as plt
import pytest
from IPython.core.formatters import DisplayFormatter
from IPython.core.pylabtools import print_figure
from langchain_core.documents import Document
from matplotlib.figure import Figure

from helpers.display import describe, plot_rank_changes, pretty_print_docs, rank_changes

RULE = "-" * 100


def document(score, base_rank, text="Prices fall."):
    return Document(text, metadata={"relevance_score": score, "base_rank": base_rank})


@pytest.fixture
def ranked():
    found = [(0.454, 3), (0.25, 4), (0.15, 1), (0.1, 5), (0.05, 2)]
    return [document(score, base_rank) for score, base_rank in found]


@pytest.fixture
def axes_of():
    """Draws without a warning, and closes the figure."""

    def draw(*given, **settings):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", "Glyph .* missing")  # a machine without such a font
            figure = plot_rank_changes(*given, **settings)
            figure.canvas.draw()
        return figure.axes[0]

    yield draw
    plt.close("all")


@pytest.mark.parametrize(
    ("texts", "printed"),
    [
        ([], "\n"),
        (["Über 経済"], "Document 1:\n\nÜber 経済\n"),
        (["1.\n\n2.", "3."], f"Document 1:\n\n1.\n\n2.\n{RULE}\nDocument 2:\n\n3.\n"),
    ],
)
def test_documents_are_printed_as_on_langchains_page(texts, printed, capsys):
    pretty_print_docs([Document(text) for text in texts])
    assert capsys.readouterr().out == printed


def test_the_table_says_where_each_came_from(ranked):
    table = rank_changes(ranked)
    assert table.index.name == "rank" and list(table.index) == [1, 2, 3, 4, 5]
    assert list(table["base_rank"]) == [3, 4, 1, 5, 2]
    assert list(table["gained"]) == [2, 2, -2, 1, -3]
    assert list(table["score"]) == [0.45, 0.25, 0.15, 0.1, 0.05]
    empty = rank_changes([])
    assert list(empty.columns) == list(table.columns) and len(empty) == 0


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Prices fall.", "Prices fall."),
        ("Prices fall.\n\nWages " + "rise " * 40, "Prices fall. Wages rise..."),
        ("物価" * 90, "物価" * 6 + "..."),  # no spaces to cut at, and twice as wide
        ("The ﬁrst prices fall 🎉.", "The ﬁrst prices fall 🎉."),
        ("x" * 100_000, "x" * 27 + "..."),
        ("...", "..."),
        (" \n", ""),
    ],
)
def test_passages_are_shortened_to_one_line(text, shown):
    assert list(rank_changes([document(0.5, 1, text)], width=30)["passage"]) == [shown]


def test_scores_show_two_decimals_and_passages_stand_whole_from_the_left():
    long = "The <b>plan</b> for the economy rests on people & on what they do."
    table = rank_changes([document(0.3, 2, long), document(0.2, 1), document(0.1, 3)], width=80)
    page = table.head(2)._repr_html_()
    assert page.count("<td>0.30</td>") == page.count("<td>0.20</td>") == 1 and "0.10" not in page
    whole = "The &lt;b&gt;plan&lt;/b&gt; for the economy rests on people &amp; on what they do."
    assert f'<td><div align="left">{whole}</div></td>' in page
    assert '<th><div align="left">passage</div></th>' in page
    header, _, *lines = [line.rstrip() for line in repr(table.head(2)).splitlines()]
    assert [line[header.index("passage") :] for line in lines] == [long, "Prices fall."]
    assert [line.split()[3] for line in lines] == ["0.30", "0.20"]
    assert "0.30" in repr(table[["score"]]) and "0.30" in table[["score"]]._repr_html_()
    assert table["score"].sum() == pytest.approx(0.6)


@pytest.mark.parametrize("missing", ["relevance_score", "base_rank"])
@pytest.mark.parametrize("draw", [rank_changes, plot_rank_changes])
def test_documents_that_were_not_reranked_are_refused(ranked, missing, draw):
    del ranked[1].metadata[missing]
    with pytest.raises(ValueError, match="document 2 has no relevance_score or base_rank.*Scoring"):
        draw(ranked)


def test_the_plot_tells_the_chosen_apart_without_colour(ranked, axes_of):
    axes = axes_of(ranked, top_n=3)
    drawn = [[int(y) for y in line.get_ydata()] for line in axes.lines]
    assert drawn == [[3, 1], [4, 2], [1, 3], [5, 4], [2, 5]]
    widths = [line.get_linewidth() for line in axes.lines]
    assert min(widths[:3]) > max(widths[3:])
    assert [line.get_linestyle() for line in axes.lines[:3]] == ["-", "-", "--"]
    shown = [text.get_text() for text in axes.texts]
    assert shown == ["0.45  Prices fall.", "0.25  Prices fall.", "0.15  Prices fall."]


def test_the_plot_has_a_title_and_named_axes_with_rank_1_on_top(ranked, axes_of):
    axes = axes_of(ranked)
    assert axes.get_title(loc="left") == "Where reranking moved each passage"
    assert axes_of(ranked, title="The economy").get_title(loc="left") == "The economy"
    assert "rank" in axes.get_ylabel()
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert labels == ["vector search", "cross-encoder"]
    bottom, top = axes.get_ylim()
    assert bottom > 5 and top < 1
    # Down to the lowest rank that one came from.
    few = axes_of([document(0.9, 20), document(0.1, 1)])
    assert list(few.get_yticks()) == list(range(1, 21)) and len(few.lines) == 2
    first, second = (label.get_window_extent() for label in few.texts)
    assert not first.overlaps(second)
    assert len(axes_of([]).lines) == 0


LONG = "The plan for the economy rests on people. "


@pytest.mark.parametrize(
    ("text", "title"),
    [
        (LONG * 9, LONG * 4),
        ("W" * 500, "物价上涨" * 20),
        ("物价上涨" * 90, "$x^$"),
        ("$5\n\n$10 \\alpha", "物价"),
        ("$x^$", ""),
        ("", " "),
    ],
)
def test_labels_stay_apart_and_inside_at_twenty_candidates(text, title, axes_of):
    docs = [document(0.9 - rank / 30, 20 - rank, text) for rank in range(20)]
    axes = axes_of(docs, top_n=5, title=title)
    assert "\n" not in axes.texts[0].get_text()
    names = [*axes.get_xticklabels(), axes.yaxis.label]
    boxes = [text.get_window_extent() for text in [*axes.texts, *names, axes._left_title]]
    page = axes.figure.bbox
    assert all(page.x0 <= b.x0 and b.x1 <= page.x1 and page.y0 <= b.y0 for b in boxes)
    assert all(box.y1 <= page.y1 for box in boxes)
    assert not any(a.overlaps(b) for n, a in enumerate(boxes) for b in boxes[:n])
    assert {box.x0 for box in boxes[:5]} == {boxes[0].x0}


@pytest.fixture
def shown():
    """What a notebook stores of a figure: its data and metadata, by kind."""
    formatter = DisplayFormatter()
    formatter.formatters["image/png"].for_type(Figure, print_figure)  # as matplotlib's backend does
    yield formatter.format
    plt.close("all")


def test_a_picture_carries_its_alternative_text(shown):
    figure, _ = plt.subplots()
    describe(figure, "A line that rises.")
    data, metadata = shown(figure)
    assert data["image/png"] and data["text/plain"] == "A line that rises."
    assert metadata == {"image/png": {"alt": "A line that rises."}}
    docs = [document(0.9, 3, "One."), document(0.5, 2, "Two."), document(0.1, 1, "Three.")]
    _, metadata = shown(plot_rank_changes(docs, title="Why?"))
    told = "“Why?”: a line for each of 3 passages, from its old rank to its new one. "
    told += "“One.” rises from 3 to 1; “Two.” stays at 2; “Three.” falls from 1 to 3."
    assert metadata["image/png"]["alt"] == told
    assert "“Two.”" not in shown(plot_rank_changes(docs, top_n=1))[0]["text/plain"]
