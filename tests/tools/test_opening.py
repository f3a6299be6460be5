"""A notebook opened alone fetches the rest and goes on; in a clone its first cell does nothing."""

import ast
import os
import shutil
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import nbformat
import pytest
from execute import CELL_TIMEOUT
from install import pins
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat.v4 import new_code_cell, new_notebook
from opening import NEEDS, TAG, in_readme, opened

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
CARRIERS = packages_distributions()
CLONE = f"cross-encoder-reranking-{TAG}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_badges_and_first_cell_are_those_of_pyproject(path):
    written = nbformat.read(path, 4)
    assert written.cells == opened(nbformat.read(path, 4), path.stem).cells, "run tools/opening.py"
    assert [cell.id for cell in written.cells[1:3]] == ["badges", "setup"]
    assert written.cells[2].outputs == [], "it did something in a clone"


def test_the_readme_has_them_too():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "[![Open in Colab]" in text and text == in_readme(text), "run tools/opening.py"


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """This working tree as a repository, with the tag that the notebooks name."""
    folder = tmp_path_factory.mktemp("served") / "repository"
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    if not (ROOT / ".git").exists():
        pytest.skip("no repository: an archive of its files")
    for name in subprocess.check_output(listed, cwd=ROOT, text=True).splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "core.autocrlf=false"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "all"], ["tag", TAG]):
        subprocess.run(["git", *who, *command], cwd=folder, check=True)
    return folder


def run(notebook, folder, **env):
    """Execute a notebook in a folder, in a kernel of this Python to which `env` is given."""
    client = NotebookClient(notebook, timeout=int(CELL_TIMEOUT), kernel_name="python3")
    client.execute(cwd=str(folder), env=os.environ | {"PYTHONWARNINGS": "ignore"} | env)
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def imports(notebook):
    """Every import of a notebook, in one cell, and where `helpers` and the kernel then are."""
    sources = [cell.source for cell in notebook.cells[3:] if cell.cell_type == "code"]
    trees = [ast.parse(source) for source in sources if not source.startswith("%%")]
    found = [n for t in trees for n in ast.walk(t) if isinstance(n, ast.Import | ast.ImportFrom)]
    lines = [ast.unparse(node) for node in found]
    code = "import os, helpers\nprint('seen', os.getcwd(), helpers.__file__, sep='|', end='|')"
    code += "\nimport subprocess, sys\nwhere = 'import helpers; print(helpers.__file__)'"
    code += "\nprint(subprocess.check_output([sys.executable, '-c', where], cwd='/', text=True))"
    return new_code_cell("\n".join([*lines, code]))


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_alone_fetches_the_repository(path, repository, tmp_path):
    notebook = nbformat.read(path, 4)
    notebook.cells = [*notebook.cells[:3], imports(notebook)]
    outputs = run(notebook, tmp_path, REPOSITORY=repository.as_uri())
    clone = tmp_path / CLONE
    seen = "".join(o.text for o in outputs if o.get("name") == "stdout").split("seen|")[1]
    here, helpers, child = seen.strip().split("|")
    assert Path(here) == clone / "notebooks"
    assert {helpers, child} == {str(clone / "helpers" / "__init__.py")}


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_notebook_02_alone_is_executed_whole_and_starts_again_without_a_network(
    repository, tmp_path
):
    notebook = nbformat.read(NOTEBOOKS[1], 4)
    run(notebook, tmp_path, REPOSITORY=repository.as_uri())
    again = nbformat.read(NOTEBOOKS[1], 4)
    again.cells = again.cells[:4]
    run(again, tmp_path, REPOSITORY="file:///nowhere")


@pytest.mark.slow
def test_pip_install_takes_the_data_along(repository, tmp_path):
    into = ["--no-build-isolation", "--no-deps", "--quiet", "--target", tmp_path / "installed"]
    subprocess.run([sys.executable, "-m", "pip", "install", *into, repository], check=True)
    env = os.environ | {"PYTHONPATH": str(tmp_path / "installed")}
    where = (
        "from helpers.profiles import DATA, load_profile; print(DATA, load_profile().base_weight)"
    )
    command = [sys.executable, "-c", where]
    shown = subprocess.check_output(command, cwd=tmp_path, env=env, text=True).split()
    assert shown[0] == str(tmp_path / "installed" / "helpers" / "data") and float(shown[1]) > 0


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"REPOSITORY": "file:///nowhere"}, "could not fetch v.* of file:///nowhere: fatal: "),
        ({"PATH": "/nowhere"}, "could not fetch v.* of https://.*No such file or directory: 'git'"),
    ],
)
def test_a_repository_out_of_reach_is_said(more, why, tmp_path):
    first = new_notebook(cells=[nbformat.read(NOTEBOOKS[0], 4).cells[2]])
    with pytest.raises(CellExecutionError, match=why):
        run(first, tmp_path, **more)
    assert list(tmp_path.iterdir()) == []


def tops(source):
    """The distributions that a source imports from, and the files of `helpers` that it does."""
    found, files = set(), set()
    for node in ast.walk(ast.parse(source)):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
        for name in names:
            path = ROOT / f"{name.replace('.', '/')}.py"
            if name.startswith("helpers"):
                files |= {path} if path.is_file() else set()
            elif name.split(".")[0] in CARRIERS:
                found.add(CARRIERS[name.split(".")[0]][0].lower().replace("_", "-"))
    return found, files


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_names_the_groups_of_all_that_it_imports(path):
    cells = [c.source for c in nbformat.read(path, 4).cells[3:] if c.cell_type == "code"]
    wanted, files = tops("\n".join(source for source in cells if not source.startswith("%%")))
    seen = set()
    while files - seen:
        file = (files - seen).pop()
        seen.add(file)
        more, next_files = tops(file.read_text(encoding="utf-8"))
        wanted, files = wanted | more, files | next_files
    pinned = {name.lower() for group in NEEDS[path.stem] for name in pins(group)}
    assert wanted - {"ipython"} <= pinned, "tools/opening.py: NEEDS"  # every kernel has IPython


def test_every_notebook_names_its_needs():
    assert NEEDS.keys() == {path.stem for path in NOTEBOOKS}
