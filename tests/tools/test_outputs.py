"""The committed outputs are what the notebooks print: run after tools/execute.py."""

from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output
from outputs import differences

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))


def notebook(*texts, tags=()):
    cells = [
        new_code_cell("f()", outputs=[new_output("stream", name="stdout", text=t)]) for t in texts
    ]
    for cell in cells:
        cell.metadata["tags"] = list(tags)
    return new_notebook(cells=cells)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_outputs_hold(path):
    executed = ROOT / "build" / "notebooks" / path.name
    assert executed.is_file(), "not executed: `make test` runs tools/execute.py first"
    assert executed.stat().st_mtime > path.stat().st_mtime, "executed before the last change"
    assert differences(nbformat.read(path, 4), nbformat.read(executed, 4)) == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_code_cell_was_run_and_none_failed(path):
    cells = [c for c in nbformat.read(path, 4).cells if c.cell_type == "code" and c.source.strip()]
    counts = [cell.execution_count for cell in cells]
    assert counts == list(range(1, len(cells) + 1)), "run from top to bottom in one go"
    assert not any(o.output_type == "error" for cell in cells for o in cell.outputs)
    assert not any(o.get("name") == "stderr" for cell in cells for o in cell.outputs)


def test_what_is_the_same_is_accepted():
    assert differences(notebook("a 0.50  b\n"), notebook("a 0.51 b")) == []
    assert differences(notebook("12 passages"), notebook("12 passages")) == []
    assert differences(notebook("took 1.2 s", tags=["varies"]), notebook("took 9.7 s")) == []


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("score 0.50", "score 0.53"),
        ("rank 3", "rank 4"),
        ("rank 3", "rank three"),
        ("a\nb", "a\nb\nc"),
        ("score 0.50", "score 0.5 0"),
        ("1,200 words", "1,300 words"),
    ],
)
def test_what_differs_is_found(before, after):
    assert differences(notebook(before), notebook(after)) != []


def test_a_changed_source_or_a_lost_output_is_found():
    changed = notebook("x")
    changed.cells[0].source = "g()"
    assert differences(notebook("x"), changed)
    silent = notebook("x")
    silent.cells[0].outputs = []
    assert differences(notebook("x"), silent)
    assert differences(notebook("x"), notebook("x", "y"))


def test_words_count_where_numbers_vary():
    assert differences(notebook("took 1.2 s", tags=["varies"]), notebook("lost 1.2 s"))
