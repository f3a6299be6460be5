"""model.tar.gz, as SageMaker wants it: a model's folder comes in, one file goes out.

model.safetensors, config.json, ...   unpacked to /opt/ml/model
code/inference.py                     what the container runs
code/helpers/, code/helpers/endpoint/ what that imports, under the names that it has here
code/requirements.txt                 what it installs first
"""

import gzip
import os
import tarfile
from pathlib import Path

HERE = Path(__file__).parent
SCORING = ("__init__", "fit", "hardware", "hub", "load", "score")  # and what it imports
CODE_FILES = {name: HERE / name for name in ("inference.py", "requirements.txt")}  # in code/
CODE_FILES |= {f"helpers/{name}.py": HERE.parent / f"{name}.py" for name in SCORING}
CODE_FILES |= {
    f"helpers/endpoint/{name}.py": HERE / f"{name}.py"
    for name in ("__init__", "scorer", "wire", "worker")
}
NEVER = {".bin", ".pt", ".pth", ".pkl", ".ckpt", ".joblib", ".pyc"}  # pickles, and leftovers


def package(model_dir: str | os.PathLike, target: str | os.PathLike = "model.tar.gz") -> Path:
    """Write the archive. The same input gives the same bytes: no time, owner or file order.

    Raises FileNotFoundError if the folder holds no safetensors.
    """
    found = {f"code/{name}": file for name, file in CODE_FILES.items()}
    for file in Path(model_dir).rglob("*"):
        name = file.relative_to(model_dir)
        hidden = any(part.startswith((".", "__")) for part in name.parts)
        if file.is_file() and not hidden and name.parts[0] != "code" and file.suffix not in NEVER:
            found[name.as_posix()] = file
    if not any(name.endswith(".safetensors") for name in found):
        raise FileNotFoundError(f"{model_dir} holds no .safetensors weights to package.")
    with (
        Path(target).open("wb") as raw,
        gzip.GzipFile(filename="", fileobj=raw, mode="wb", compresslevel=1, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for name, file in sorted(found.items()):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = file.stat().st_size, 0o644
            with file.open("rb") as content:
                archive.addfile(entry, content)
    return Path(target)
