"""What a bulk job reads and where it writes, checked before and after: files -> {id: digest}.

The table is `.jsonl` or `.parquet` files with the columns id, query and passage; the folder holds
Parquet parts with id, score and the digest of the pair that was scored, and Ray Data's notes of
which are done. Both may lie on any storage that pyarrow reaches.
"""

import hashlib
import io
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

COLUMNS = ["id", "query", "passage"]
HALF_CHARACTER = re.compile("[\ud800-\udfff]")  # can be spelled in JSON, not stored in Parquet


class JobError(ValueError):
    """A job that cannot start: something is wrong with its table, its folder or its arguments."""


def digest(query: str, passage: str) -> str:
    """Return 16 hex digits (64 bits of BLAKE2b) that tell this pair from another."""
    return hashlib.blake2b(json.dumps([query, passage]).encode(), digest_size=8).hexdigest()


def locate(path: str | Path) -> tuple[fs.FileSystem, str]:
    """Return the filesystem of a path or of a URI such as s3://..., and the path on it.

    Raises:
        JobError: The URI is of no known kind.
    """
    if "://" in str(path):
        try:
            return fs.FileSystem.from_uri(str(path))
        except pa.ArrowInvalid as error:
            raise JobError(f"{path}: {error}. Expected a path, or s3://BUCKET/PATH.") from error
    return fs.LocalFileSystem(), Path(path).absolute().as_posix()


def find_pairs(pairs: str | Path) -> tuple[fs.FileSystem, list[str]]:
    """Return the filesystem of a table and its files: all Parquet, or all JSON lines.

    Raises:
        JobError: Nothing is there, or files of another kind, or of both.
    """
    filesystem, path = locate(pairs)
    info = filesystem.get_file_info(path)
    if info.type == fs.FileType.NotFound:
        raise JobError(f"{pairs} does not exist: expected a file of pairs, or a folder of them.")
    inside = [] if info.is_file else filesystem.get_file_info(fs.FileSelector(path, recursive=True))
    found = [i for i in [info, *inside] if i.is_file and not i.base_name.startswith((".", "_"))]
    files = sorted(i.path for i in found)
    kinds = {Path(file).suffix for file in files}
    if kinds not in ({".jsonl"}, {".parquet"}):
        raise JobError(
            f"{pairs} holds {' and '.join(sorted(kinds)) or 'no'} files: expected .jsonl files or "
            ".parquet files, and no others."
        )
    return filesystem, files


def _rows(filesystem: fs.FileSystem, file: str) -> Iterator[dict]:
    """Read row after row; each has every column."""
    try:
        if file.endswith(".parquet"):
            with pq.ParquetFile(file, filesystem=filesystem) as table:
                _require(table.schema_arrow.names, file)
                for batch in table.iter_batches(columns=COLUMNS):
                    yield from batch.to_pylist()
            return
        with io.TextIOWrapper(filesystem.open_input_stream(file), "utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    try:
                        row = json.loads(line)
                    except ValueError as error:
                        raise JobError(f"{file}, line {number} is no JSON: {error}.") from error
                    _require(row if isinstance(row, dict) else [], f"{file}, line {number}")
                    yield row
    except JobError:
        raise
    except ValueError as error:
        raise JobError(f"{file} cannot be read: {error}. Write it again.") from error


def _require(found: Iterable[str], where: str) -> None:
    if missing := [name for name in COLUMNS if name not in found]:
        raise JobError(
            f"{where}: {', '.join(missing)} is missing, found {', '.join(found) or 'nothing'}; "
            f"expected the columns {', '.join(COLUMNS)}."
        )


def check_pairs(filesystem: fs.FileSystem, files: list[str]) -> dict[str | int, str]:
    """Read the whole table once; return each id's digest.

    Raises:
        JobError: A row lacks a column or holds no text, or ids are not unique and of one type.
    """
    ids, kind = {}, None
    for file in files:
        for row in _rows(filesystem, file):
            name = row["id"]
            kind = kind or type(name)
            if type(name) is not kind or kind not in (str, int):
                raise JobError(
                    f"{file}: id {name!r} is of type {type(name).__name__}: expected only strings "
                    "or only whole numbers in this column, and none missing."
                )
            if HALF_CHARACTER.search(name) if kind is str else not -(2**63) <= name < 2**63:
                raise JobError(
                    f"{file}: id {name!r} cannot be stored: expected text, or 64-bit whole numbers."
                )
            if name in ids:
                raise JobError(f"{file}: id {name!r} occurs twice: expected each id once.")
            for column in COLUMNS[1:]:
                text = row[column]
                if not isinstance(text, str) or not text.strip() or HALF_CHARACTER.search(text):
                    raise JobError(
                        f"{file}: {column} of id {name!r} is {text!r:.40}: expected text, not "
                        "empty. Correct the row or drop it."
                    )
            ids[name] = digest(row["query"], row["passage"])
    if not ids:
        raise JobError(f"{files[0]} holds no rows: expected at least one.")
    return ids


def settle(filesystem: fs.FileSystem, out: str, job: str) -> dict[str | int, str]:
    """Delete what a killed run left unfinished in `out`; return the digest of each id it holds.

    Under `_checkpoint` Ray notes which ids a part holds: as `NAME.pending.parquet` before it
    writes `NAME-0.parquet`, renamed to `NAME.parquet` after.

    Raises:
        JobError: `out` is no such folder, or holds scores of another `job`.
    """
    if filesystem.get_file_info(out).is_file:
        raise JobError(f"{out} is a file: expected a folder, or a name that is not taken.")
    selector = fs.FileSelector(out, recursive=True, allow_not_found=True)
    found = [info.path for info in filesystem.get_file_info(selector) if info.is_file]
    if f"{out}/_job.json" in found:
        with filesystem.open_input_stream(f"{out}/_job.json") as stream:
            before = stream.read().decode()
        if before != job:
            raise JobError(
                f"{out} holds scores of another model or precision ({before}): expected {job}. "
                "Their scores share no scale; take another folder."
            )
    for mark in [path for path in found if path.endswith(".pending.parquet")]:
        name = Path(mark).name.removesuffix(".pending.parquet")
        for path in [path for path in found if Path(path).name.startswith(f"{name}-")] + [mark]:
            filesystem.delete_file(path)
            found.remove(path)
    tables = {path: Path(path).stem for path in found if path.endswith(".parquet")}
    marks = {path: name for path, name in tables.items() if path.startswith(f"{out}/_checkpoint/")}
    parts = {path: name.rpartition("-")[0] for path, name in tables.items() if path not in marks}
    if odd := sorted({*marks.values()} ^ {*parts.values()}):
        raise JobError(
            f"{out} and its notes under _checkpoint disagree about {len(odd)} parts ({odd[0]}, "
            "say): expected only what this command wrote. Take another folder, or delete this one."
        )
    ids, rows = {}, 0
    for path in parts:
        with pq.ParquetFile(path, filesystem=filesystem) as part:
            if part.schema_arrow.names != ["id", "score", "digest"]:
                raise JobError(
                    f"{path} has the columns {', '.join(part.schema_arrow.names)}: expected id, "
                    "score, digest, as this command writes them. Take another folder."
                )
            columns = part.read(["id", "digest"]).to_pydict()
            ids.update(zip(columns["id"], columns["digest"], strict=True))
            rows += part.metadata.num_rows
    if len(ids) != rows:
        raise JobError(
            f"{out} holds {rows} rows with {len(ids)} ids: expected each id once. Two runs may "
            "have written to it at a time; delete it and start one."
        )
    return ids
