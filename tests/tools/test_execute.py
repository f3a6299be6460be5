"""What a reader is to think about first is hidden until asked for, in JupyterLab and in pages."""

import re
from pathlib import Path

import nbformat
import pytest
from execute import render
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "notebooks").glob("[0-9]*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_predictions_and_solutions_are_hidden(path):
    asked, missing = False, []
    for cell in nbformat.read(path, 4).cells:
        if cell.cell_type != "code":
            asked = "Predict before you run" in cell.source
            continue
        solution = "solution" in cell.metadata.get("tags", [])
        wanted = ["source_hidden"] * solution + ["outputs_hidden"] * (solution or asked)
        given = cell.metadata.get("jupyter", {})
        missing += [f"{cell.id}: metadata.jupyter.{n} = true" for n in wanted if not given.get(n)]
        asked = asked and not cell.outputs  # the answer is in the first cell that shows something
    assert not missing, f"{path.name}: set {missing}"


@pytest.mark.slow
def test_a_page_folds_what_is_hidden_and_shows_pictures(tmp_path, monkeypatch):
    def code(word, **metadata):
        shown = [new_output("stream", text=f"{word}-shown")]
        return new_code_cell(f"print('{word}-code')", outputs=shown, metadata=metadata)

    hidden = {"outputs_hidden": True}
    cells = [new_markdown_cell("**Predict before you run:** ![Steps.](../docs/funnel.svg)")]
    cells += [code("asked", jupyter=hidden), code("plain")]
    cells += [code("solved", tags=["solution"], jupyter=hidden | {"source_hidden": True})]
    (tmp_path / "notebooks").mkdir()
    nbformat.write(new_notebook(cells=cells), tmp_path / "notebooks" / "n.ipynb")
    monkeypatch.setattr("execute.BUILD", tmp_path)
    assert render([tmp_path / "notebooks" / "n.ipynb"]) == 0
    page = (tmp_path / "html" / "n.html").read_text(encoding="utf-8")
    folds = re.compile(r"<details>.*?</details>", re.DOTALL)
    words = re.compile(r"\w+-(?:code|shown)(?=['<])|(?<=<summary>).*?(?=</summary>)")
    assert [words.findall(fold) for fold in folds.findall(page)] == [
        ["Show what it prints", "asked-shown"],
        ["Solution: show the code", "solved-code"],
        ["Solution: show the result", "solved-shown"],
    ]
    assert words.findall(folds.sub("", page)) == ["asked-code", "plain-code", "plain-shown"]
    picture = tmp_path / "html" / re.search(r'src="([^"]*funnel\.svg)"', page)[1]
    assert picture.is_file()
    for name in ("notebooks", "html"):  # the copy opened in JupyterLab, and the page
        assert (tmp_path / name / "../docs/funnel.svg").is_file()
