"""What a reader sees: LangChain's printed form, the table of rank changes and its plot."""

import warnings

import matplotlib.pyplot as plt
import pytest
from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.documents import Document
from matplotlib.figure import Figure

from helpers import ScoringReranker, plot_rank_changes, pretty_print_docs, rank_changes

RULE = (
    "--------------------------------------------------"
    "--------------------------------------------------"
)


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def document(score, base_rank, text="Prices fall."):
    return Document(text, metadata={"relevance_score": score, "base_rank": base_rank})


@pytest.fixture
def ranked():
    class Longest(BaseCrossEncoder):
        def score(self, text_pairs):
            return [len(passage) / 100 for _, passage in text_pairs]

    docs = [Document("word " * n) for n in (3, 1, 9, 5, 2)]
    return ScoringReranker(model=Longest()).compress_documents(docs, "Which is the longest?")


# pretty_print_docs


def test_two_documents_are_printed_as_on_langchains_page(capsys):
    pretty_print_docs([Document("One.\n\nTwo."), Document("Three.")])
    assert capsys.readouterr().out == (
        f"Document 1:\n\nOne.\n\nTwo.\n{RULE}\nDocument 2:\n\nThree.\n"
    )


def test_one_document_has_no_rule(capsys):
    pretty_print_docs([Document("Über 経済", metadata={"relevance_score": 0.5})])
    assert capsys.readouterr().out == "Document 1:\n\nÜber 経済\n"


def test_no_documents_print_an_empty_line(capsys):
    pretty_print_docs([])
    assert capsys.readouterr().out == "\n"


def test_documents_are_numbered_past_nine(capsys):
    pretty_print_docs([Document(str(n)) for n in range(12)])
    printed = capsys.readouterr().out
    assert printed.count(f"\n{RULE}\n") == 11
    assert printed.endswith(f"\n{RULE}\nDocument 12:\n\n11\n")


# rank_changes


def test_the_table_says_where_each_came_from(ranked):
    table = rank_changes(ranked)
    assert list(table.columns) == ["base_rank", "gained", "score", "passage"]
    assert table.index.name == "rank"
    assert list(table.index) == [1, 2, 3, 4, 5]
    assert list(table["base_rank"]) == [3, 4, 1, 5, 2]
    assert list(table["gained"]) == [2, 2, -2, 1, -3]
    assert list(table["score"]) == [0.45, 0.25, 0.15, 0.1, 0.05]


def test_passages_are_shortened_to_one_line():
    table = rank_changes([document(0.5, 1, "Prices fall.\n\nWages " + "rise " * 40)], width=30)
    (passage,) = table["passage"]
    assert passage.startswith("Prices fall. Wages rise")
    assert passage.endswith("...")
    assert len(passage) <= 30
    assert list(rank_changes([document(0.5, 1)])["passage"]) == ["Prices fall."]


@pytest.mark.parametrize("text", ["経済計画は物価を下げることです。" * 9, "x" * 100_000])
def test_a_passage_without_spaces_shows_its_beginning(text):
    (passage,) = rank_changes([document(0.5, 1, text)], width=30)["passage"]
    assert passage == text[:27] + "..."


def test_no_documents_make_an_empty_table():
    table = rank_changes([])
    assert len(table) == 0
    assert list(table.columns) == ["base_rank", "gained", "score", "passage"]


@pytest.mark.parametrize("missing", ["relevance_score", "base_rank"])
@pytest.mark.parametrize("draw", [rank_changes, plot_rank_changes])
def test_documents_that_were_not_reranked_are_refused(ranked, missing, draw):
    del ranked[1].metadata[missing]
    with pytest.raises(ValueError, match="document 2 has no relevance_score or base_rank.*Scoring"):
        draw(ranked)


# plot_rank_changes


def test_a_line_for_each_document_from_before_to_after(ranked):
    figure = plot_rank_changes(ranked)
    assert isinstance(figure, Figure)
    (axes,) = figure.axes
    drawn = [[int(y) for y in line.get_ydata()] for line in axes.lines]
    assert drawn == [[3, 1], [4, 2], [1, 3], [5, 4], [2, 5]]


def test_the_chosen_are_told_apart_without_colour(ranked):
    (axes,) = plot_rank_changes(ranked, top_n=3).axes
    widths = [line.get_linewidth() for line in axes.lines]
    assert min(widths[:3]) > max(widths[3:])
    assert [line.get_linestyle() for line in axes.lines[:3]] == ["-", "-", "--"]
    assert [text.get_text() for text in axes.texts] == ["score 0.45", "score 0.25", "score 0.15"]


def test_the_plot_has_a_title_and_named_axes_with_rank_1_on_top(ranked):
    (axes,) = plot_rank_changes(ranked).axes
    assert axes.get_title() == "Where reranking moved each passage"
    assert "rank" in axes.get_ylabel()
    assert [label.get_text() for label in axes.get_xticklabels()] == [
        "vector search",
        "cross-encoder",
    ]
    assert list(axes.get_yticks()) == [1, 2, 3, 4, 5]
    bottom, top = axes.get_ylim()
    assert bottom > 5 and top < 1
    (axes,) = plot_rank_changes(ranked, title="The economy").axes
    assert axes.get_title() == "The economy"


def test_a_selection_is_drawn_down_to_the_lowest_rank_it_came_from():
    (axes,) = plot_rank_changes([document(0.9, 20), document(0.1, 1)]).axes
    assert list(axes.get_yticks()) == list(range(1, 21))
    assert len(axes.lines) == 2


def test_no_documents_make_an_empty_plot():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = plot_rank_changes([])
        figure.canvas.draw()
    assert len(figure.axes[0].lines) == 0


def test_the_plot_can_be_drawn(ranked, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plot_rank_changes(ranked).savefig(tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
