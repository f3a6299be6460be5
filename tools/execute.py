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

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
BUILD = NOTEBOOKS.parent / "build"
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
            text = output.get("text", output.get("data", {}).get("text/plain"))
            if text == "" or output.get("name") == "stderr":  # empty bars are displayed, too
                cell.outputs.remove(output)
    nbformat.write(notebook, path)


def main(names: list[str]) -> int:
    known = sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))
    if not names or set(names) - set(known):
        sys.exit(f"unknown notebooks {sorted(set(names) - set(known))}: expected some of {known}")
    if not CELL_SECONDS.isdecimal() or not int(CELL_SECONDS):
        sys.exit(f"CELL_SECONDS is {CELL_SECONDS!r}: expected whole seconds, at least 1")
    executed = BUILD / "notebooks"
    executed.mkdir(parents=True, exist_ok=True)
    for figure in NOTEBOOKS.glob("*.svg"):  # a notebook may show one that is committed beside it
        shutil.copy(figure, executed)
    copies = [Path(shutil.copy(NOTEBOOKS / f"{name}.ipynb", executed)) for name in names]
    # Not the repository's own pytest settings: these are notebooks, not tests.
    run = ["pytest", "-v", "--durations=0", "-c", os.devnull, f"--rootdir={executed}"]
    run += ["-p", "no:cacheprovider", "--nbmake", "--overwrite", f"--nbmake-timeout={CELL_SECONDS}"]
    render = ["nbconvert", "--to=html", "--log-level=ERROR", f"--output-dir={BUILD / 'html'}"]
    for command in (run, render):
        command = [sys.executable, "-m", *command, *copies]
        code = subprocess.run(command, cwd=executed, env=os.environ | QUIET).returncode
        for copy in copies:
            drop_progress(copy)
        if code:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
