"""What opens the tutorial without `make`: dev container, Binder, workflows, citation, forms."""

import json
import os
import re
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import nbformat
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = {*re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE)}
WORKFLOWS = sorted((ROOT / ".github" / "workflows").iterdir())
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").iterdir())


def load(path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def made(command):
    """The targets that a command line makes: `make setup PYTHON=python`."""
    lines = re.findall(r"\bmake((?: [a-z-]+| [A-Z_]+=\S+)+)", command)
    return {word for line in lines for word in line.split() if "=" not in word}


def test_the_dev_container_sets_up_the_environment_that_its_notebooks_run_in():
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text("utf-8"))
    assert made(container["updateContentCommand"]) == {"setup"} <= TARGETS
    custom = container["customizations"]
    python = custom["vscode"]["settings"]["python.defaultInterpreterPath"]
    assert python == "${workspaceFolder}/.venv/bin/python" and "\nBIN := .venv/bin\n" in MAKEFILE
    assert all((ROOT / name).is_file() for name in custom["codespaces"]["openFiles"])
    assert re.search(r"/python:[\d.]+-3\.1[123]-\w+$", container["image"])
    workflow = load(ROOT / ".github" / "workflows" / "test.yml")
    assert container["containerEnv"]["PIP_ARGS"] == workflow["env"]["PIP_ARGS"]


def test_binder_installs_what_01_and_02_import():
    binder = ROOT / ".binder"
    text = (binder / "requirements.txt").read_text(encoding="utf-8")
    named = re.findall(r"^-[rc] (.+)$", text, re.MULTILINE)
    groups = [(binder / name).read_text(encoding="utf-8") for name in named if "../req" in name]
    assert all((binder / name).is_file() for name in named) and "../constraints.txt" in named
    assert re.fullmatch(r"python-3\.1[123]\n", (binder / "runtime.txt").read_text())
    assert all(os.access(binder / name, os.X_OK) for name in ("postBuild", "start"))
    installed = {n.lower() for n in re.findall(r"^([\w-]+)(?=\[|==)", "\n".join(groups), re.M)}
    code = [path.read_text(encoding="utf-8") for path in (ROOT / "helpers").glob("*.py")]
    for path in (ROOT / "notebooks").glob("0[12]_*.ipynb"):
        code += [c.source for c in nbformat.read(path, 4).cells if c.cell_type == "code"]
    tops = {*re.findall(r"^ *(?:from|import) (\w+)", "\n".join(code), re.M)}
    carriers = packages_distributions()
    wanted = {carriers[top][0].lower().replace("_", "-") for top in tops & carriers.keys()}
    ours = {"cross-encoder-reranking", "ipython"}  # Binder brings IPython
    assert {"torch", "faiss-cpu", "matplotlib"} <= wanted and wanted - ours <= installed


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_make_what_there_is_and_pin_what_they_use(path):
    steps = [step for job in load(path)["jobs"].values() for step in job["steps"]]
    runs = [step["run"] for step in steps if "run" in step]
    assert set().union(*(made(run) for run in runs)) <= TARGETS
    for name in re.findall(r"(?:tools|tests)/[\w/]+(?:\.py)?", "\n".join(runs)):
        assert (ROOT / name).exists(), name
    for name in re.findall(r"\b\d\d_\w+", "\n".join(runs)):
        assert (ROOT / "notebooks" / f"{name}.ipynb").exists(), name
    assert all(re.search(r"@[0-9a-f]{40}$", step["uses"]) for step in steps if "uses" in step)


def test_the_citation_says_what_pyproject_says():
    citation = load(ROOT / "CITATION.cff")
    same = {"title": "name", "abstract": "description", "version": "version", "license": "license"}
    assert {ours: citation[ours] for ours in same} == {o: PROJECT[t] for o, t in same.items()}
    assert citation["url"] == PROJECT["urls"]["Repository"] and citation["authors"]


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.name)
def test_issue_forms_have_what_github_asks_for(path):
    form = load(path)
    if path.name == "config.yml":
        assert form.keys() <= {"blank_issues_enabled", "contact_links"}
        return
    assert form["name"] and form["description"]
    assert len({part["id"] for part in form["body"]}) == len(form["body"]) > 2
    assert all(part["attributes"]["label"] for part in form["body"])
