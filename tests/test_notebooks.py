"""`pytest --nbmake notebooks/`, as anyone types it, from the root and from the folder."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import install
import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
NAMES = sorted(path.name for path in (ROOT / "notebooks").glob("[0-9]*.ipynb"))


def nbmake(*arguments, folder):
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--nbmake", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


@pytest.mark.parametrize(("folder", "argument"), [(ROOT, "notebooks/"), (ROOT / "notebooks", ".")])
def test_all_notebooks_are_found(folder, argument):
    found = nbmake("--collect-only", "--quiet", argument, folder=folder)
    assert found.returncode == 0, found.stdout + found.stderr
    assert sum("ipynb" in line for line in found.stdout.splitlines()) == len(NAMES)
    assert all(f"{name}::" in found.stdout for name in NAMES)


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_one_is_executed():
    ended = nbmake("-rs", f"notebooks/{NAMES[0]}", folder=ROOT)
    assert ended.returncode == 0 and "1 passed" in ended.stdout, ended.stdout[-2000:]


def test_the_readme_says_how_long_as_the_notebooks_do():
    words = {"two": 2, "three": 3, "five": 5, "ten": 10}
    said = re.compile(r"About (\w+) minutes")
    cells = {name: nbformat.read(ROOT / "notebooks" / name, 4).cells[0].source for name in NAMES}
    minutes = {name: words[said.search(source)[1]] for name, source in cells.items()}
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \[.*\]\(notebooks/(.*?)\) .* (\d+) \|", readme, re.MULTILINE)
    assert {name: int(shown) for name, shown in rows} == minutes


def test_what_lacks_its_packages_is_skipped_by_name(monkeypatch):
    spec = importlib.util.spec_from_file_location("rules", ROOT / "notebooks" / "conftest.py")
    rules = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(rules)
    found = install.installed
    monkeypatch.setattr(install, "installed", lambda name: "" if name == "ray" else found(name))
    marks = {name: [] for name in NAMES}
    items = [SimpleNamespace(path=Path(n), add_marker=marks[n].append) for n in NAMES]
    rules.pytest_collection_modifyitems(items)
    skipped = {n: m.kwargs["reason"] for n in NAMES for m in marks[n] if m.name == "skip"}
    assert {*skipped} == {"06_faster.ipynb", "07_bigger.ipynb"}
    assert {*skipped.values()} == {"ray not installed: see What you'll need"}
    assert all(any(m.name == "timeout" and m.args == (0,) for m in marks[n]) for n in NAMES)
