"""Execute notebooks with nbmake and render them: notebooks/ -> build/notebooks/ and build/html/.

    python tools/execute.py 01_base_retriever 02_cross_encoder_rerank

The committed notebooks are left as they are; `test_outputs.py` compares them with the copies.
"""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parent.parent
EXECUTED = ROOT / "build" / "notebooks"
# A cell may take this long: thirty times what the longest takes on two fast cores.
CELL_SECONDS = int(os.environ.get("CELL_SECONDS", "1800"))


def drop_progress(path: Path) -> None:
    """Leave to whoever runs the cells what no two runs share: progress bars, loading reports, and
    what Ray's node says of the machine's load.
    """
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            for output in cell.outputs:
                if output.output_type == "stream":
                    lines = output.text.splitlines(keepends=True)
                    output.text = "".join(line for line in lines if "(raylet)" not in line)
            cell.outputs = [o for o in cell.outputs if not _passing(o)]
    nbformat.write(notebook, path)


def _passing(output: nbformat.NotebookNode) -> bool:
    if output.output_type == "stream":
        return output.name == "stderr" or not output.text
    return output.get("data", {}).get("text/plain") == ""  # an empty bar is displayed, too


def main(names: list[str]) -> int:
    unknown = [name for name in names if not (ROOT / "notebooks" / f"{name}.ipynb").is_file()]
    if unknown or not names:
        known = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
        print(f"unknown notebooks {unknown}: expected some of {known}", file=sys.stderr)
        return 2
    EXECUTED.mkdir(parents=True, exist_ok=True)
    # A notebook may show a figure that is committed beside it.
    for figure in (ROOT / "notebooks").glob("*.svg"):
        shutil.copy(figure, EXECUTED)
    copies = []
    for name in names:
        copies.append(shutil.copy(ROOT / "notebooks" / f"{name}.ipynb", EXECUTED))
    environment = os.environ | {
        "PYTHONWARNINGS": "ignore",
        "TQDM_DISABLE": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    code = 0
    for number, copy in enumerate(copies, start=1):
        print(f"[{number}/{len(copies)}] executing {Path(copy).name}", flush=True)
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "--nbmake",
            "--overwrite",
            f"--nbmake-timeout={CELL_SECONDS}",
            "-p",
            "no:cacheprovider",
        ]
        # Not the repository's own pytest settings: these are notebooks, not tests.
        command += ["-c", os.devnull, f"--rootdir={EXECUTED}", copy]
        start = time.monotonic()
        code = subprocess.run(command, cwd=EXECUTED, env=environment).returncode or code
        print(f"[{time.monotonic() - start:.0f} s] {Path(copy).name}", flush=True)
        drop_progress(Path(copy))
    if code == 0:
        command = [sys.executable, "-m", "nbconvert", "--to", "html", "--log-level", "ERROR"]
        command += ["--output-dir", str(ROOT / "build" / "html"), *copies]
        code = subprocess.run(command, cwd=EXECUTED, env=environment).returncode
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
