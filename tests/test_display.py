"""What a reader sees: LangChain's printed form, the table of rank changes and its plot."""

import warnings

import matplotlib.pyplot as plt
import pytest
from langchain_core.documents import Document

from helpers.display import plot_rank_changes, pretty_print_docs, rank_changes

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
        ("物価" * 90, "物価" * 13 + "物..."),  # no spaces to cut at
        ("x" * 100_000, "x" * 27 + "..."),
        ("...", "..."),
    ],
)
def test_passages_are_shortened_to_one_line(text, shown):
    assert list(rank_changes([document(0.5, 1, text)], width=30)["passage"]) == [shown]


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
    assert [text.get_text() for text in axes.texts] == ["score 0.45", "score 0.25", "score 0.15"]


def test_the_plot_has_a_title_and_named_axes_with_rank_1_on_top(ranked, axes_of):
    axes = axes_of(ranked)
    assert axes.get_title() == "Where reranking moved each passage"
    assert axes_of(ranked, title="The economy").get_title() == "The economy"
    assert "rank" in axes.get_ylabel()
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert labels == ["vector search", "cross-encoder"]
    bottom, top = axes.get_ylim()
    assert bottom > 5 and top < 1
    # Down to the lowest rank that one came from.
    few = axes_of([document(0.9, 20), document(0.1, 1)])
    assert list(few.get_yticks()) == list(range(1, 21)) and len(few.lines) == 2
    assert len(axes_of([]).lines) == 0
