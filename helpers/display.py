"""What a reader sees: ranked documents as text, and what reranking moved as a table and a plot."""

import textwrap
from collections.abc import Sequence

import matplotlib.pyplot as plt
import pandas as pd
from langchain_core.documents import Document
from matplotlib.figure import Figure

# Okabe and Ito's palette, told apart by readers with any colour vision: https://jfly.uni-koeln.de/color/
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#8C8C8C"


def pretty_print_docs(docs: Sequence[Document]) -> None:
    """Print documents as LangChain's documentation does, a rule of 100 dashes between them."""
    shown = (f"Document {n}:\n\n{doc.page_content}" for n, doc in enumerate(docs, start=1))
    print(f"\n{'-' * 100}\n".join(shown))


def rank_changes(docs: Sequence[Document], width: int = 60) -> pd.DataFrame:
    """Tabulate what `ScoringReranker` returned: rank, rank before, ranks gained, score, passage.

    Of each passage the first `width` characters are shown.

    Raises:
        ValueError: A document carries no score or no base rank.
    """
    rows = []
    for rank, doc in enumerate(docs, start=1):
        if not {"relevance_score", "base_rank"} <= doc.metadata.keys():
            raise ValueError(
                f"document {rank} has no relevance_score or base_rank in its metadata; "
                "rank changes are drawn from what ScoringReranker returns"
            )
        before, score = doc.metadata["base_rank"], round(doc.metadata["relevance_score"], 2)
        text = " ".join(doc.page_content.split())
        passage = textwrap.shorten(text, width, placeholder="...")
        if passage == "..." and text != "...":  # a text without spaces: Chinese, Japanese
            passage = text[: width - 3] + "..."
        rows.append((rank, before, before - rank, score, passage))
    columns = ["rank", "base_rank", "gained", "score", "passage"]
    return pd.DataFrame(rows, columns=columns).set_index("rank")


def plot_rank_changes(docs: Sequence[Document], top_n: int = 3, title: str = "") -> Figure:
    """Draw a line for each document, from its rank before reranking to its rank after.

    The first `top_n` are thick, labelled with their score, and solid where reranking raised them;
    the others are thin and grey, so that colour is never the only sign.
    """
    table = rank_changes(docs)
    figure, axes = plt.subplots(figsize=(7, 0.28 * len(table) + 1.4), layout="constrained")
    thin = {"color": GREY, "linewidth": 0.8, "alpha": 0.6, "marker": ".", "zorder": 2}
    thick = {"linewidth": 2.5, "marker": "o", "zorder": 3}
    for rank, row in table.iterrows():
        if rank > top_n:
            axes.plot([0, 1], [row["base_rank"], rank], **thin)
            continue
        colour, style = (BLUE, "-") if row["gained"] > 0 else (ORANGE, "--")
        axes.plot([0, 1], [row["base_rank"], rank], style, color=colour, **thick)
        place = {"xytext": (8, 0), "textcoords": "offset points", "va": "center"}
        axes.annotate(f"score {row['score']:.2f}", (1, rank), color=colour, **place)
    last = int(table["base_rank"].max()) if len(table) else 1
    title = title or "Where reranking moved each passage"
    axes.set(xlim=(-0.1, 1.3), ylim=(last + 0.7, 0.3), ylabel="rank (1 is best)", title=title)
    axes.set_xticks([0, 1], ["vector search", "cross-encoder"])
    axes.set_yticks(range(1, last + 1))
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    return figure
