"""Install groups of pinned packages, a line each, and say what a notebook lacks.

    python tools/install.py models retrieval --extra-index-url URL

A group is a file of requirements/, or one of requirements-*.txt (scale, documents, site).
Uses the standard library alone: it runs before anything is installed.
"""

import importlib.util
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PIP = ["-m", "pip", "install", "--quiet", "--no-compile", "--disable-pip-version-check"]


def files() -> dict[str, Path]:
    """Return each group's name and file."""
    found = [*(ROOT / "requirements").glob("*.txt"), *ROOT.glob("requirements-*.txt")]
    return {file.stem.removeprefix("requirements-"): file for file in sorted(found)}


def pins(group: str) -> dict[str, str]:
    """Return what a group pins: the distribution's name -> the requirement."""
    if group not in files():
        raise ValueError(f"no group of packages {group!r}: expected one of {', '.join(files())}")
    lines = files()[group].read_text(encoding="utf-8").splitlines()
    lines = [line.partition("#")[0].strip() for line in lines]
    return {re.split(r"[\[=<>~ ;]", line)[0]: line for line in lines if line and line[0] != "-"}


def installed(name: str) -> str:
    """Return the version that is there, or nothing."""
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def absent(groups: Iterable[str]) -> list[str]:
    """Return what these groups pin and this Python has in no version."""
    return [name for group in groups for name in pins(group) if not installed(name)]


def install(group: str, pip_args: list[str], keep: tuple[str, ...] = ()) -> None:
    """Install what a group pins and this Python lacks, but for `keep`, where it has any version.

    What comes along is held to constraints.txt and to the pins of all groups.

    Raises:
        RuntimeError: pip failed; the message has its words.
    """
    wanted = pins(group)
    there = {name: installed(name).partition("+")[0] for name in wanted}  # torch 2.13.0+cpu
    lacking = {
        name: line
        for name, line in wanted.items()
        if not there[name] or (there[name] != line.partition("==")[2] and name not in keep)
    }
    old = ", ".join(f"{name} {there[name]}" for name in lacking if there[name])
    instead = f" (in place of {old})" if old else ""
    print(f"{group}: {', '.join(wanted)}{instead} ...", end=" ", flush=True)
    start = time.monotonic()
    if lacking:
        held = {name: line for each in files() for name, line in pins(each).items()}
        lines = [re.sub(r"\[.*\]", "", line) for name, line in held.items() if name not in keep]
        with tempfile.TemporaryDirectory() as folder:
            constraints = Path(folder, "constraints.txt")
            more = (ROOT / "constraints.txt").read_text(encoding="utf-8")
            constraints.write_text("\n".join([*lines, more]), encoding="utf-8")
            command = [sys.executable, *PIP, "-c", str(constraints), *pip_args, *lacking.values()]
            ended = subprocess.run(command, capture_output=True, text=True)
        if ended.returncode:
            raise RuntimeError(
                f"pip could not install {group} for {sys.executable}:\n{ended.stderr.strip()}\n"
                "Try a virtual environment of your own (README, Open it elsewhere)"
            )
    print(f"{time.monotonic() - start:.0f} s", flush=True)


def prepare(*groups: str) -> None:
    """Make a notebook's kernel ready: in a clone check it, elsewhere install what it needs.

    In a clone (one of the working directory's parents is this repository) nothing is changed, but
    that a translated notebook goes on in notebooks/, as the English one, whose paths it has.
    Elsewhere the kernel goes on there, too, with its torch, if it has one.

    Raises:
        ModuleNotFoundError: In a clone, a package is missing.
        RuntimeError: pip failed, or replaced a package that this kernel has in use.
    """
    if ROOT in (Path.cwd(), *Path.cwd().parents):
        missing = absent(groups)
        if missing or importlib.util.find_spec("helpers") is None:
            extra = [f" setup-{group}" for group in groups if group in ("scale", "documents")]
            raise ModuleNotFoundError(
                f"this kernel ({sys.executable}) lacks {', '.join(missing) or 'helpers'}: run "
                f"`make{''.join(extra) or ' setup'}` in {ROOT.name} (README has the way without "
                "make), then choose the kernel of its .venv (`make lab` does)"
            )
        if ROOT / "notebooks" in Path.cwd().parents:
            os.chdir(ROOT / "notebooks")
        return
    carriers = packages_distributions()
    used = {module.partition(".")[0] for module in sys.modules} & carriers.keys()
    before = {name: installed(name) for name in {n for top in used for n in carriers[top]}}
    for group in groups:
        install(group, [], keep=("torch",))
    sys.path.insert(0, str(ROOT))
    os.environ["PYTHONPATH"] = os.pathsep.join(
        filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])
    )
    replaced = [name for name, old in before.items() if installed(name) != old]
    sys.replaced_in_use = sorted({*replaced, *getattr(sys, "replaced_in_use", [])})
    if sys.replaced_in_use:
        raise RuntimeError(
            f"replaced while in use: {', '.join(sys.replaced_in_use)}; restart the kernel (in "
            "Colab: Runtime > Restart session), and run this cell again"
        )
    os.chdir(ROOT / "notebooks")


if __name__ == "__main__":
    options = next((i for i, word in enumerate(sys.argv) if word[0] == "-"), len(sys.argv))
    try:
        for name in sys.argv[1:options]:
            install(name, sys.argv[options:])
    except (ValueError, RuntimeError) as error:
        sys.exit(f"\n{error}")
