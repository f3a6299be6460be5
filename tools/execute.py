"""Execute notebooks with nbmake and render them: notebooks/ -> build/notebooks/ and build/html/.

    python tools/execute.py 01_base_retriever 02_cross_encoder_rerank

The committed notebooks stay as they are; `test_outputs.py` compares them with the copies.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat

TOOLS = Path(__file__).resolve().parent
NOTEBOOKS = TOOLS.parent / "notebooks"
BUILD = TOOLS.parent / "build"
WIDGET = "application/vnd.jupyter.widget-view+json"  # a bar where ipywidgets is installed
QUIET = {"PYTHONWARNINGS": "ignore", "TQDM_DISABLE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
# A cell may take this long: thirty times what the longest takes on two fast cores.
CELL_SECONDS = os.environ.get("CELL_SECONDS") or "1800"


def drop_progress(path: Path) -> None:
    """Drop what no two runs share: bars, loading reports, Ray's words on the machine's load."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        for output in list(cell.get("outputs", [])):
            if output.output_type == "stream":
                output.text = re.sub(r".*\(raylet\).*\n?", "", output.text)
            data = output.get("data", {})
            text, bar = output.get("text", data.get("text/plain")), WIDGET in data
            if bar or text == "" or output.get("name") == "stderr":  # empty bars are displayed, too
                cell.outputs.remove(output)
    nbformat.write(notebook, path)


def render(notebooks: list[Path]) -> int:
    """Write a page for each to build/html/, beside which `../docs` has the pictures that it shows.

    Solutions, and what a reader is to predict, are folded (tools/page).
    """
    shutil.copytree(TOOLS.parent / "docs", BUILD / "docs", dirs_exist_ok=True)
    command = [sys.executable, "-m", "nbconvert", "--to=html", "--template=page"]
    command += [f"--TemplateExporter.extra_template_basedirs={TOOLS}", "--log-level=ERROR"]
    command += [f"--output-dir={BUILD / 'html'}", *notebooks]
    return subprocess.run(command, env=os.environ | QUIET).returncode


def main(names: list[str]) -> int:
    known = sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))
    if not names or set(names) - set(known):
        sys.exit(f"unknown notebooks {sorted(set(names) - set(known))}: expected some of {known}")
    if not CELL_SECONDS.isdecimal() or not int(CELL_SECONDS):
        sys.exit(f"CELL_SECONDS is {CELL_SECONDS!r}: expected whole seconds, at least 1")
    executed = BUILD / "notebooks"
    executed.mkdir(parents=True, exist_ok=True)
    copies = [Path(shutil.copy(NOTEBOOKS / f"{name}.ipynb", executed)) for name in names]
    # Not the repository's own pytest settings: these are notebooks, not tests.
    run = [sys.executable, "-m", "pytest", "-v", "--durations=0", "-c", os.devnull]
    run += [f"--rootdir={executed}", "-p", "no:cacheprovider"]
    run += ["--nbmake", "--overwrite", f"--nbmake-timeout={CELL_SECONDS}", *copies]
    code = subprocess.run(run, cwd=executed, env=os.environ | QUIET).returncode
    for copy in copies:
        drop_progress(copy)
    return code or render(copies)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
