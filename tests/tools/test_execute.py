"""Each notebook is executed by itself and becomes a page, on which what to predict is hidden."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import execute
import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
GOOD = ["import sys, time\nfor n in (1, 2):\n    print(n, flush=True)\n    time.sleep(0.3)", ""]
GOOD += ["print('busy', file=sys.stderr)\nprint(sys.executable)", "n"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where `execute` reads and builds, in place of the repository."""
    monkeypatch.setattr(execute, "NOTEBOOKS", tmp_path)
    monkeypatch.setattr(execute, "BUILD", tmp_path / "build")
    monkeypatch.chdir(tmp_path)
    for name in ("notebooks/02_bad.ipynb", "html/02_bad.html", "html/09_renamed.html"):
        earlier = tmp_path / "build" / name
        earlier.parent.mkdir(parents=True, exist_ok=True)
        earlier.write_text("{}", encoding="utf-8")
    return tmp_path


def write(path, *sources):
    cells = [new_markdown_cell("# Title"), *map(new_code_cell, sources)]
    for cell in cells[1:]:  # as if committed
        cell.update(execution_count=7, outputs=[new_output("stream", text="old")])
    nbformat.write(new_notebook(cells=cells), path)


def pages(folder):
    return sorted(path.name for path in folder.glob("build/html/*"))


def outputs(path):
    cells = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    assert all("execution" not in cell.metadata for cell in cells)
    return [
        (cell.execution_count, "".join(o.get("text") or o.data["text/plain"] for o in cell.outputs))
        for cell in cells
    ]


def test_a_line_a_cell_and_a_page_at_once(folder, monkeypatch, capsys):
    other = folder / "kernels" / "python3" / "kernel.json"  # someone's, of another Python
    other.parent.mkdir(parents=True)
    other.write_text('{"argv": ["no-python"], "display_name": "", "language": "python"}')
    monkeypatch.setenv("JUPYTER_PATH", str(folder))
    write(folder / "01_good.ipynb", *GOOD)
    assert execute.main(["01_good"]) == 0
    shown = capsys.readouterr().out
    lines = [re.sub(r"\d+\.\d s$", "T s", line) for line in shown.splitlines()]
    page = os.path.join("build", "html", "01_good.html")
    assert lines[:4] == [*(f"[01] cell {n} of 3  T s" for n in (1, 2, 3)), f"[01] {page}"]
    assert re.fullmatch(rf"01_good +\d+ s  {re.escape(page)}", lines[-1])
    printed = [(1, "1\n2\n"), (None, ""), (2, f"{sys.executable}\n"), (3, "2")]
    assert outputs(folder / "build/notebooks/01_good.ipynb") == printed
    assert pages(folder) == ["01_good.html"]  # those of an earlier run are gone
    assert outputs(folder / "01_good.ipynb")[0] == (7, "old")


def test_the_others_go_on_when_one_fails(folder, capsys):
    write(folder / "01_good.ipynb", "1")
    write(folder / "02_bad.ipynb", "2", "import os\nos.kill(os.getpid(), 9)", "3")
    (folder / "03_text.ipynb").write_text("no JSON", encoding="utf-8")
    write(folder / "04_wrong.ipynb", "raise ValueError('no\\nmore')")
    names = ["02_bad", "03_text", "04_wrong", "01_good"]
    assert execute.main(names) == 1
    *_, dead, text, wrong, good = capsys.readouterr().out.splitlines()
    died = "FAILED at cell 2 of 3: its kernel died: killed, or out of memory"
    assert dead.startswith("02_bad ") and dead.endswith(died)
    assert text.startswith("03_text ") and "FAILED at its start: NotJSONError: " in text
    assert wrong.startswith("04_wrong") and wrong.endswith(" at cell 1 of 1: ValueError: no more")
    assert good.startswith("01_good ") and good.endswith("01_good.html")
    assert pages(folder) == ["01_good.html"]
    came = outputs(folder / "build/notebooks/02_bad.ipynb")
    assert [text for _, text in came] == ["2", "", ""]


def test_a_cell_without_end_is_ended(folder, monkeypatch, capsys):
    monkeypatch.setattr(execute, "CELL_TIMEOUT", "1")
    write(folder / "01_long.ipynb", "import time\ntime.sleep(600)")
    assert execute.main(["01_long"]) == 1
    said = capsys.readouterr().out
    assert "at cell 1 of 1: not done after 1 seconds; CELL_TIMEOUT=2 allows more" in said


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for one process")
def test_an_interrupt_ends_the_kernel_too(folder):
    cell = "import os, pathlib, time\npathlib.Path('number').write_text(f'{os.getpid()}.')"
    write(folder / "01_long.ipynb", f"{cell}\ntime.sleep(600)")
    write(folder / "02_next.ipynb", "1")
    code = "import execute; from pathlib import Path; execute.NOTEBOOKS = Path();"
    code += "execute.BUILD = Path('build').resolve(); execute.main(['01_long', '02_next'])"
    env, number = (
        os.environ | {"PYTHONPATH": str(ROOT / "tools")},
        folder / "build/notebooks/number",
    )
    with subprocess.Popen([sys.executable, "-c", code], env=env) as run:
        while run.poll() is None and not (number.is_file() and number.read_text().endswith(".")):
            time.sleep(0.1)
        run.send_signal(signal.SIGINT)
    assert run.returncode == -signal.SIGINT
    assert not (folder / "build/notebooks/02_next.ipynb").exists() and pages(folder) == []
    with pytest.raises(ProcessLookupError):
        os.kill(int(number.read_text().rstrip(".")), 0)


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
    monkeypatch.setattr(execute, "BUILD", tmp_path)
    execute.lay_docs()
    page = execute.render(tmp_path / "notebooks" / "n.ipynb").read_text(encoding="utf-8")
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
