"""Compare what a notebook printed with what is committed: words exactly, decimals nearly.

Another processor rounds differently: numbers with a decimal point may differ by `TOLERANCE`. Of a
picture it counts that there is one; of a cell tagged `varies` (a time, a speed), only the words.
"""

import re
from itertools import zip_longest

from nbformat import NotebookNode

TOLERANCE = 0.021
NUMBER = re.compile(r"-?\d[\d,]*\.?\d*(?:e[+-]?\d+)?")


def differences(committed: NotebookNode, executed: NotebookNode) -> list[str]:
    """Return one line for each difference between two versions of a notebook; none means equal."""
    if [cell.source for cell in committed.cells] != [cell.source for cell in executed.cells]:
        return ["a cell's source differs: it was changed after it was executed"]
    return [
        f"cell {number}: committed {before!r}, executed {after!r}"
        for number, (old, new) in enumerate(zip(committed.cells, executed.cells, strict=True), 1)
        for before, after in zip_longest(_shown(old), _shown(new), fillvalue="no more lines")
        if not _same(before, after, "varies" in old.metadata.get("tags", []))
    ]


def _shown(cell: NotebookNode) -> list[str]:
    """Return the lines that a reader sees: what is printed, then <kind> and text of each result."""
    shown = ""
    for output in cell.get("outputs", []):
        if output.output_type == "stream":
            shown += output.text if output.name == "stdout" else ""
        elif output.output_type == "error":
            shown += f"\n<error>\n{output.ename}: {output.evalue}\n"
        else:
            picture = output.data.keys() & {"image/png", "image/svg+xml"}
            shown += "\n<picture>\n" if picture else f"\n<text>\n{output.data.get('text/plain')}\n"
    # pandas pads columns to their widest number, so runs of spaces carry nothing.
    return [" ".join(line.split()) for line in shown.strip().splitlines()]


def _same(before: str, after: str, varies: bool) -> bool:
    same = NUMBER.sub("#", before) == NUMBER.sub("#", after)
    if varies or not same:
        return same
    for pair in zip(NUMBER.findall(before), NUMBER.findall(after), strict=True):
        old, new = (float(number.replace(",", "")) for number in pair)
        if abs(old - new) > (TOLERANCE if "." in "".join(pair) else 0):
            return False
    return True
