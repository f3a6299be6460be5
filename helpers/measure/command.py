"""What the commands of this folder share: arguments, errors, and how a result is written."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
from langchain_core.embeddings import Embeddings

from helpers.hub import ModelError
from helpers.profiles import Profile


def positive(text: str) -> int:
    """Read a whole number of at least 1, as an argparse `type`."""
    number = int(text) if text.strip().isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return number


@contextmanager
def one_line(parser: argparse.ArgumentParser) -> Iterator[None]:
    """Let a file or a model that cannot be used end the command with one line and exit code 1."""
    try:
        yield
    except (ModelError, ValueError, OSError) as error:
        parser.exit(1, f"{parser.prog}: {' '.join(str(error).split())}\n")


def load_embeddings(profile: Profile) -> Embeddings:
    """Load a profile's embedding model with its own settings."""
    from langchain_huggingface import HuggingFaceEmbeddings  # takes seconds, --help need not

    return HuggingFaceEmbeddings(model_name=profile.embedding_model, **profile.embedding_settings)


def write(path: Path | None, rows: pd.DataFrame) -> None:
    """Write a result to `path`, if there is one, as CSV with numbers of six decimals."""
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        rows.to_csv(path, index=False, float_format="%.6f", lineterminator="\n")


def some_ids(ids: list[str]) -> str:
    """Return how many there are and the first ten of them."""
    return f"{len(ids)} ({', '.join(ids[:10])}{', ...' if len(ids) > 10 else ''})"


def printable(compared: pd.DataFrame) -> pd.DataFrame:
    """Return the table of `evaluate.gains` or `compare` to three decimals, its interval as one."""
    spans = [f"[{low:+.3f}, {high:+.3f}]" for low, high in compared[["low", "high"]].to_numpy()]
    table = compared.round(3).drop(columns=["low", "high"])
    table.insert(table.columns.get_loc("gain") + 1, "95 % interval", spans)
    return table
