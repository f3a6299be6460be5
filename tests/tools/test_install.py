"""Groups of packages are installed once and by line; a kernel that lacks some says what to do."""

import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path

import install
import pytest

ROOT = install.ROOT
GROUPS = ["models", "retrieval", "measuring", "endpoint", "notebooks", "tests"]


def test_requirements_txt_is_all_groups():
    text = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    named = [line.split()[1] for line in text.splitlines() if line.startswith("-r ")]
    assert named == [f"requirements/{group}.txt" for group in GROUPS]
    assert {*install.files()} == {*GROUPS, "scale", "documents", "site"}
    assert f"GROUPS := {' '.join(GROUPS)}\n" in (ROOT / "Makefile").read_text(encoding="utf-8")


def test_what_is_there_is_not_installed_again(capsys, monkeypatch):
    monkeypatch.setattr("install.subprocess.run", None)  # would be a TypeError
    install.install("retrieval", [], keep=("numpy",))
    assert capsys.readouterr().out.startswith("retrieval: langchain, langchain-core, ")
    with pytest.raises(ValueError, match="no group of packages 'more': expected one of "):
        install.install("more", [])


@pytest.fixture
def group(tmp_path, monkeypatch):
    """A group of three packages, of which one is to be installed, from a folder, into a folder."""
    with zipfile.ZipFile(tmp_path / "tiny_thing-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny_thing.py", "")
        head, info = (
            "Metadata-Version: 2.1\nName: tiny-thing\nVersion: 1.0\n",
            "tiny_thing-1.0.dist-info",
        )
        wheel.writestr(f"{info}/METADATA", head)
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    (tmp_path / "requirements").mkdir()
    lines = (
        f"# Some.\ntorch==0.1  # older than ours\npytest=={version('pytest')}\ntiny-thing==1.0\n"
    )
    (tmp_path / "requirements" / "some.txt").write_text(lines)
    (tmp_path / "constraints.txt").write_text("torch==0.1\n")
    monkeypatch.setattr("install.ROOT", tmp_path)
    place = {"NO_INDEX": "1", "FIND_LINKS": tmp_path, "TARGET": tmp_path / "into"}
    for name, value in place.items():
        monkeypatch.setenv(f"PIP_{name}", str(value))
    return tmp_path


def test_what_lacks_is_installed_and_torch_is_kept(group, capsys):
    install.install("some", ["--no-deps"], keep=("torch",))
    assert {p.name for p in (group / "into").iterdir()} >= {"tiny_thing.py"}
    assert not (group / "into" / "torch").exists()
    old = version("torch").partition("+")[0]
    with pytest.raises(RuntimeError, match=r"(?s)pip could not install some .*torch==0.1.*virtual"):
        install.install("some", [])
    assert (
        f"some: torch, pytest, tiny-thing (in place of torch {old}) ..." in capsys.readouterr().out
    )


def test_what_comes_along_is_held_to_every_pin(group):
    (group / "requirements-more.txt").write_text("-c constraints.txt\ntiny-thing[x]==0.9\n")
    with pytest.raises(RuntimeError, match=r"(?s)conflict|tiny-thing"):
        install.install("some", ["--no-deps"], keep=("torch",))
    assert not (group / "into").exists()


def test_a_failure_ends_the_command(capfd):
    command = [sys.executable, ROOT / "tools" / "install.py", "nothing"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 1 and "no group of packages 'nothing'" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_kernel_in_a_clone_that_lacks_packages_says_so(group, monkeypatch):
    monkeypatch.chdir(group)
    with pytest.raises(ModuleNotFoundError, match=r"lacks tiny-thing: run `make setup` in "):
        install.prepare("some")
    (group / "requirements" / "some.txt").rename(group / "requirements-scale.txt")
    with pytest.raises(ModuleNotFoundError, match="run `make setup-scale` in "):
        install.prepare("scale")


def test_a_translated_notebook_goes_on_where_the_english_one_lies(group, monkeypatch):
    folder = group / "notebooks" / "es"
    folder.mkdir(parents=True)
    monkeypatch.setattr("install.absent", lambda groups: [])
    for start, end in ((folder, folder.parent), (folder.parent, folder.parent), (group, group)):
        monkeypatch.chdir(start)
        install.prepare("some")
        assert Path.cwd() == end


def test_a_package_replaced_while_in_use_asks_for_a_restart(group, tmp_path_factory, monkeypatch):
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    monkeypatch.setattr("sys.path", [*sys.path])
    monkeypatch.setattr("sys.replaced_in_use", [], raising=False)
    monkeypatch.setenv("PYTHONPATH", "")
    found, versions = install.installed, iter("123")
    monkeypatch.setattr("install.install", lambda *given, **named: None)
    told = lambda name: next(versions) if name == "pytest" else found(name)  # noqa: E731
    monkeypatch.setattr("install.installed", told)
    with pytest.raises(RuntimeError, match=r"^replaced while in use: pytest; restart the kernel"):
        install.prepare("some")
    monkeypatch.setattr("install.installed", found)
    with pytest.raises(RuntimeError, match="pytest; restart"):  # run again without a restart
        install.prepare("some")
