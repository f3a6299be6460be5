"""Compare what a notebook printed with what is committed: words exactly, decimals nearly.

Another processor rounds differently, so a number with a decimal point may differ by `TOLERANCE`;
whole numbers, words and the kind of each output may not differ at all. Pictures are compared by
being there. A cell tagged `varies` prints what no two runs share (a time, a speed): there the
numbers are left out and the words around them are compared.
"""

import re

import nbformat

TOLERANCE = 0.021
NUMBER = re.compile(r"-?\d[\d,]*\.?\d*(?:e[+-]?\d+)?")


def differences(committed: nbformat.NotebookNode, executed: nbformat.NotebookNode) -> list[str]:
    """Return one line for each difference between two versions of a notebook; none means equal."""
    found = []
    if len(committed.cells) != len(executed.cells):
        return [f"{len(committed.cells)} cells are committed, {len(executed.cells)} were executed"]
    for number, (old, new) in enumerate(zip(committed.cells, executed.cells, strict=True), start=1):
        if old.cell_type != "code":
            continue
        if old.source != new.source:
            found.append(f"cell {number}: the source differs")
        before, after = _shown(old), _shown(new)
        if [kind for kind, _ in before] != [kind for kind, _ in after]:
            found.append(
                f"cell {number}: committed outputs {[k for k, _ in before]}, "
                f"executed {[k for k, _ in after]}"
            )
            continue
        varies = "varies" in old.metadata.get("tags", [])
        for (kind, text), (_, now) in zip(before, after, strict=True):
            fault = _difference(text, now, varies)
            if fault:
                found.append(f"cell {number}, {kind}: {fault}")
    return found


def _shown(cell: nbformat.NotebookNode) -> list[tuple[str, str]]:
    """Return the outputs that a reader sees as (kind, text), printed lines joined."""
    shown: list[tuple[str, str]] = []
    for output in cell.outputs:
        if output.output_type == "stream":
            if output.name == "stderr":
                continue
            if shown and shown[-1][0] == "stdout":
                shown[-1] = ("stdout", shown[-1][1] + output.text)
            else:
                shown.append(("stdout", output.text))
        elif output.output_type == "error":
            shown.append(("error", f"{output.ename}: {output.evalue}"))
        else:
            picture = "image/png" in output.data or "image/svg+xml" in output.data
            text = "" if picture else output.data.get("text/plain", "")
            shown.append(("picture" if picture else "text", text))
    return shown


def _difference(before: str, after: str, varies: bool) -> str | None:
    # pandas pads columns to their widest number, so runs of spaces carry nothing.
    before, after = (re.sub(r"[ \t]+", " ", text).strip() for text in (before, after))
    if NUMBER.sub("#", before) != NUMBER.sub("#", after):
        return f"committed {_clip(before)}, executed {_clip(after)}"
    if varies:
        return None
    for old, new in zip(NUMBER.findall(before), NUMBER.findall(after), strict=True):
        whole = "." not in old and "." not in new
        distance = abs(float(old.replace(",", "")) - float(new.replace(",", "")))
        if distance > (0 if whole else TOLERANCE):
            return f"committed {old}, executed {new}, in {_clip(before)}"
    return None


def _clip(text: str) -> str:
    return repr(text if len(text) <= 300 else text[:300] + "...")
