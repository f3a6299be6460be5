"""The rules that keep `helpers` small: who imports whom, how many lines, what must be pinned."""

import ast
import pydoc
import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import nbformat
import pytest

import helpers
from helpers.profiles import verify_files

ROOT = Path(__file__).resolve().parents[1]
# Each file of the root, in the order of the data, with those that it may import.
ROOMS = {"__init__": {}, "hub": {}, "profiles": {"hub"}, "index": {}, "hardware": {}}
ROOMS |= {"load": {"hub", "hardware"}, "fit": {}, "score": {"hardware", "load", "fit"}}
ROOMS |= {"rerank": {}, "display": {}, "judgements": {"index"}, "evaluate": {"judgements"}}
ROOMS["__main__"] = set(ROOMS)
FOLDERS = {"documents", "endpoint", "measure", "scale", "training"}
# Where LangChain's sunset package may be: its FAISS, its cross-encoder in the benchmark, its PDF.
COMMUNITY = {"helpers/index.py", "helpers/scale/kept.py", "helpers/scale/variants.py"}
COMMUNITY |= {"helpers/documents/load.py"}
# Who may import what is not in requirements.txt.
MORE = {
    "scale": "helpers/scale|tests|notebooks/0[67]",
    "documents": "helpers/doc|tests|notebooks/08",
    "site": "tools/pages|tools/site|tools/translate|tests/tools",
}
NAMES = {"build_index", "load_profile", "LocalCrossEncoder", "plot_rank_changes"}
NAMES |= {"pretty_print_docs", "rank_changes", "ScoringReranker", "SimilarityRetriever"}


def imported(source):
    """The dotted names that a source imports, inside functions too: modules, and names in them."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module or ''}.{alias.name}" for alias in node.names)


SOURCES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for folder in ("helpers", "tools", "tests")
    for path in sorted((ROOT / folder).rglob("*.py"))
}
IMPORTED = {name: set(imported(source)) for name, source in SOURCES.items()}


@pytest.mark.parametrize("name", [name for name in SOURCES if name.startswith("helpers/")])
def test_imports_run_one_way_and_files_stay_short(name):
    room = name.split("/")[1].removesuffix(".py")
    used = {module.split(".")[1] for module in IMPORTED[name] if module.startswith("helpers.")}
    if room in FOLDERS:
        assert used & FOLDERS <= {room}, "a folder imports another"
    else:
        assert used <= {*ROOMS[room]}, "a file of the root imports a later one, or a folder"
        assert SOURCES[name].count("\n") <= 150


def test_the_budgets_hold():
    lines = subprocess.run(["make", "-s", "lines"], cwd=ROOT, capture_output=True, text=True)
    assert lines.returncode == 0, lines.stdout + lines.stderr


def test_one_style_of_import_and_no_test_imports_another():
    style = re.compile(r"^\s*from (helpers|\.\S*) import", re.MULTILINE)
    assert [name for name, source in SOURCES.items() if style.search(source)] == []
    other = re.compile(r"(^|\.)(tests|conftest|test_\w+)(\.|$)")
    assert {n: m for n, used in IMPORTED.items() for m in used if other.search(m)} == {}


def test_what_is_going_away_stays_in_its_place():
    found = {n for n, used in IMPORTED.items() if "langchain_community" in " ".join(used)}
    assert {name for name in found if name.startswith("helpers/")} <= COMMUNITY
    ours = [n for n, s in SOURCES.items() if re.search(r"torch\.utils(\.| import )mkldnn", s)]
    assert [name for name in ours if not name.startswith("tests/")] == ["helpers/hardware.py"]


def test_importing_helpers_is_quick_and_completes():
    code = "import sys; before = {*sys.modules}; import helpers; "
    code += "print(*{*sys.modules} - before, '|', *dir(helpers))"
    command = [sys.executable, "-c", code]
    shown = subprocess.check_output(command, cwd=ROOT, text=True)
    modules, names = (part.split() for part in shown.split("|"))
    assert {name.split(".")[0] for name in modules} <= {"helpers", *sys.stdlib_module_names}
    assert {*names} >= NAMES == {*helpers.__all__}
    page = pydoc.plain(pydoc.render_doc(helpers)).split("PACKAGE CONTENTS")[0]
    assert {*ROOMS, *FOLDERS} - {"__init__"} <= {*re.findall(r"\w+", page)}


def pins(*files):
    text = "\n".join((ROOT / file).read_text(encoding="utf-8") for file in files)
    lines = re.findall(r"^([\w.-]+)(?:\[.*?\])?==([^\s;]+)", text, re.MULTILINE)
    return {name.replace("_", "-").lower(): version for name, version in lines}


def test_what_is_imported_is_pinned_and_the_pins_agree():
    distributions = packages_distributions()
    small, brought = pins(*(ROOT / "requirements").iterdir()), pins("constraints.txt")
    more = {where: pins(f"requirements-{name}.txt") for name, where in MORE.items()}
    ours = {"helpers", "score", *(path.stem for path in (ROOT / "tools").glob("*.py"))}
    used = dict(IMPORTED)
    for path in (ROOT / "notebooks").glob("[0-9]*.ipynb"):
        cells = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
        lines = re.compile(r"^ *(?:from|import) ([\w.]+)", re.MULTILINE)
        used[f"notebooks/{path.name}"] = set(lines.findall("\n".join(c.source for c in cells)))
    for name, modules in used.items():
        pinned = small | {
            p: v for where, m in more.items() if re.match(where, name) for p, v in m.items()
        }
        for top in {module.split(".")[0] for module in modules} - ours - sys.stdlib_module_names:
            carriers = {d.replace("_", "-").lower() for d in distributions.get(top, [])}
            assert carriers & pinned.keys(), f"{name} imports {top}, which is not pinned"
    every = [*small.items(), *(pin for names in more.values() for pin in names.items())]
    assert [pin for pin in every if brought.get(pin[0], pin[1]) != pin[1]] == []
    assert not {"torch", "triton"} & brought.keys()  # they differ by platform


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="no repository: an archive of its files")
def test_a_clone_as_windows_makes_it_keeps_its_files(tmp_path):
    subprocess.run(["git", "clone", "-q", "-c", "core.autocrlf=true", ROOT, tmp_path], check=True)
    verify_files(tmp_path / "data" / "reranker")
    for name in ("data/reranker/README.md", "data/address.txt", "Makefile", ".ci/run"):
        assert b"\r" not in (tmp_path / name).read_bytes(), name
