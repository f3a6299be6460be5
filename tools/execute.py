"""Execute notebooks and render each as a page: notebooks/ -> build/notebooks/ and build/html/.

    python tools/execute.py 01_base_retriever 02_cross_encoder_rerank

The committed notebooks stay as they are; `test_outputs.py` compares them with the copies. One that
fails gets no page, and the others go on.
"""

import os
import re
import shutil
import sys
import textwrap
import time
from pathlib import Path

import nbformat
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpecManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbconvert import HTMLExporter
from opening import without_switch

TOOLS = Path(__file__).resolve().parent
NOTEBOOKS = TOOLS.parent / "notebooks"
BUILD = TOOLS.parent / "build"
WIDGET = "application/vnd.jupyter.widget-view+json"  # a bar where ipywidgets is installed
QUIET = {"PYTHONWARNINGS": "ignore", "TQDM_DISABLE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
# Seconds that a cell may take: a limit for a hang, which no slow or busy machine meets.
CELL_TIMEOUT = os.environ.get("CELL_TIMEOUT") or "7200"
# On a busy machine a kernel starts, and hands over its outputs, later than nbclient waits.
PATIENCE = {"startup_timeout": 600, "iopub_timeout": 600}


def drop_progress(notebook: nbformat.NotebookNode) -> None:
    """Drop what no two runs share: bars, loading reports, Ray's words on the machine's load."""
    for cell in notebook.cells:
        for output in list(cell.get("outputs", [])):
            if output.output_type == "stream":
                output.text = re.sub(r".*\(raylet\).*\n?", "", output.text)
            data = output.get("data", {})
            text, bar = output.get("text", data.get("text/plain")), WIDGET in data
            if bar or text == "" or output.get("name") == "stderr":  # empty bars are displayed, too
                cell.outputs.remove(output)


def lay_docs() -> None:
    """Lay `../docs` beside copies and pages: the pictures, and the guide that 02 quotes."""
    shutil.copytree(TOOLS.parent / "docs", BUILD / "docs", dirs_exist_ok=True)


def render(notebook: Path) -> Path:
    """Write its page to build/html/; solutions and what is to be predicted folded (tools/page)."""
    exporter = HTMLExporter(template_name="page", extra_template_basedirs=[str(TOOLS)])
    page = BUILD / "html" / f"{notebook.stem}.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    shown = nbformat.read(notebook, as_version=4)
    for cell in shown.cells:
        if cell.cell_type == "markdown":
            cell.source = without_switch(cell.source)  # no pages of other languages here
    page.write_text(
        exporter.from_notebook_node(shown, {"metadata": {"name": notebook.stem}})[0],
        encoding="utf-8",
    )
    return page


def why(error: Exception) -> str:
    """Return what went wrong in a line, without the traceback."""
    if isinstance(error, CellTimeoutError):
        more = 2 * int(CELL_TIMEOUT)
        return f"not done after {CELL_TIMEOUT} seconds; CELL_TIMEOUT={more} allows more"
    if isinstance(error, DeadKernelError):
        return "its kernel died: killed, or out of memory"
    kind, said = type(error).__name__, error
    if isinstance(error, CellExecutionError):
        kind, said = error.ename, error.evalue
    return textwrap.shorten(f"{kind}: {said}", 300)


def execute(name: str) -> tuple[bool, str]:
    """Execute a notebook, a line a cell; return whether it went well, and its page or why not."""
    copy, place = BUILD / "notebooks" / f"{name}.ipynb", "its start"
    copy.parent.mkdir(parents=True, exist_ok=True)
    try:
        notebook = nbformat.read(NOTEBOOKS / copy.name, as_version=4)
        code = [(i, cell) for i, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
        for _, cell in code:
            cell.update(outputs=[], execution_count=None)
        code = [(i, cell) for i, cell in code if cell.source.strip()]  # as nbclient counts
        # This interpreter, whatever else calls itself python3 on this machine.
        kernel = AsyncKernelManager(kernel_spec_manager=KernelSpecManager(kernel_dirs=[]))
        how = PATIENCE | {"timeout": int(CELL_TIMEOUT), "record_timing": False}
        how["extra_arguments"] = ["--log-level=CRITICAL"]  # of the kernel, not of what it runs
        client = NotebookClient(notebook, kernel, **how)
        try:
            with client.setup_kernel(cleanup_kc=True, cwd=copy.parent, env=os.environ | QUIET):
                for number, (index, cell) in enumerate(code, start=1):
                    place, start = f"cell {number} of {len(code)}", time.monotonic()
                    print(f"[{name[:2]}] {place}", end="", flush=True)
                    try:
                        client.execute_cell(cell, index, execution_count=number)
                    finally:
                        print(f"  {time.monotonic() - start:.1f} s", flush=True)
        finally:
            drop_progress(notebook)
            nbformat.write(notebook, copy)
        place = "its page"
        return True, str(render(copy).relative_to(BUILD.parent))
    except Exception as error:  # whatever it is, the other notebooks go on
        return False, f"FAILED at {place}: {why(error)}"


def main(names: list[str]) -> int:
    known = sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))
    if not names or set(names) - set(known):
        sys.exit(f"unknown notebooks {sorted(set(names) - set(known))}: expected some of {known}")
    if not CELL_TIMEOUT.isdecimal() or not int(CELL_TIMEOUT):
        sys.exit(f"CELL_TIMEOUT is {CELL_TIMEOUT!r}: expected whole seconds, at least 1")
    for old in [*BUILD.glob("notebooks/*.ipynb"), *BUILD.glob("html/*.html")]:
        old.unlink()  # what is there at the end is of this run
    lay_docs()
    lines, good, width = [], [], max(map(len, names))
    for name in names:
        start = time.monotonic()
        done, said = execute(name)
        good.append(done)
        print(f"[{name[:2]}] {said}", flush=True)
        lines.append(f"{name:{width}} {time.monotonic() - start:6.0f} s  {said}")
    print("", *lines, sep="\n")
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="backslashreplace")  # a log on Windows has few letters
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit("interrupted")
