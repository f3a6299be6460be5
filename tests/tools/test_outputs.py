"""The committed outputs are what the notebooks print when they are executed."""

from pathlib import Path

import nbformat
import pytest
from execute import BUILD, drop_progress, execute, lay_docs, main
from nbformat.v4 import new_code_cell, new_notebook, new_output
from outputs import differences

NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "notebooks").glob("[0-9]*.ipynb"))
RESULT, PICTURE = {"text/plain": "x"}, {"text/plain": "x", "image/png": ""}


def notebook(outputs, **more):
    """One cell with these outputs, texts printed and dictionaries shown."""
    made = [
        new_output("stream", text=o) if isinstance(o, str) else new_output("display_data", data=o)
        for o in outputs
    ]
    return new_notebook(cells=[new_code_cell(**{"source": "f()", "outputs": made} | more)])


@pytest.mark.slow
@pytest.mark.timeout(0)  # its cells have a limit of their own
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_outputs_hold(path):
    lay_docs()
    done, said = execute(path.stem)
    assert done, said
    assert (
        differences(nbformat.read(path, 4), nbformat.read(BUILD / "notebooks" / path.name, 4)) == []
    )


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_code_cell_was_run_and_none_failed(path):
    cells = [c for c in nbformat.read(path, 4).cells if c.cell_type == "code" and c.source.strip()]
    counts = [cell.execution_count for cell in cells]
    assert counts == list(range(1, len(cells) + 1)), "run from top to bottom in one go"
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]


SAME = [(["a 0.50  b\n"], ["a 0.51 b"]), (["12 passages"], ["12 pass", "ages"])]
OTHER = [(["at 0.50"], ["at 0.53"]), (["at 0.50"], ["at 0.5 0"]), (["x"], []), (["x"], [RESULT])]
OTHER += [(["rank 3"], ["rank 4"]), (["rank 3"], ["rank three"]), (["a\nb"], ["a\nb\nc"])]
OTHER += [(["1,200"], ["1,300"]), ([PICTURE] * 2, [PICTURE]), ([PICTURE], [RESULT])]


@pytest.mark.parametrize(("before", "after"), SAME + OTHER)
def test_what_differs_is_found_and_nothing_else(before, after):
    assert bool(differences(notebook(before), notebook(after))) == ((before, after) in OTHER)


def test_words_count_where_numbers_vary_and_sources_always():
    before = notebook(["took 1.2 s, 3 rows"], metadata={"tags": ["varies"]})
    assert differences(before, notebook(["took 9.7 s, 4 rows"])) == []
    assert len(differences(before, notebook(["lost 1.2 s, 3 rows"]))) == 1
    assert differences(notebook(["x"]), notebook(["x"], source="g()"))


def test_what_no_two_runs_share_is_dropped():
    made = notebook(["a\n(raylet) busy\n", "(raylet) busy\n", {"text/plain": ""}, PICTURE])
    made.cells[0].outputs.append(new_output("stream", name="stderr", text="Loading"))
    drop_progress(made)
    assert made.cells[0].outputs == notebook(["a\n", PICTURE]).cells[0].outputs


def test_an_unknown_notebook_or_time_limit_is_refused(monkeypatch):
    with pytest.raises(SystemExit, match=r"unknown notebooks \['09'\]: expected some of \['01_"):
        main(["09"])
    monkeypatch.setattr("execute.CELL_TIMEOUT", "2h")
    with pytest.raises(SystemExit, match="CELL_TIMEOUT is '2h': expected whole seconds"):
        main([NOTEBOOKS[0].stem])
