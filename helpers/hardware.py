"""What the machine computes on, and in which precision: `auto` in, a torch type out."""

from pathlib import Path

import torch

try:
    from torch.utils import mkldnn
except ImportError:  # it is TorchScript, and will go
    mkldnn = None

FAST_BF16 = {"avx512_bf16", "amx_bf16", "bf16"}  # /proc/cpuinfo: x86, x86, Arm
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def check_device(device: str | None) -> str | None:
    """Return `device` as torch spells it, None for the best there is; ValueError if there is none.

    A GPU is `cuda` or `cuda:1`, Apple's is `mps`, a processor `cpu`.
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        said = f"{error}".splitlines()[0]
        raise ValueError(f"device is {device!r}: expected one of this machine, {said}") from error
    return device


def instructions() -> set[str]:
    """Return the words of /proc/cpuinfo, what the processor computes natively among them."""
    return set(info.read_text().split()) if (info := Path("/proc/cpuinfo")).exists() else set()


def auto_precision(device: str) -> str:
    """Name the precision that `auto` is: 16 bits where `device` computes them natively."""
    if device.startswith("cuda"):
        return "bf16" if torch.cuda.get_device_capability()[0] >= 8 else "fp16"
    return "bf16" if device == "cpu" and instructions() & FAST_BF16 else "fp32"


def choose_dtype(precision: str, device: str = "cpu", name: str = "precision") -> torch.dtype:
    """Return the type to compute in on `device`; what is no precision is a ValueError."""
    if precision not in (known := [*PRECISIONS, "auto"]):
        raise ValueError(f"{name} is {precision!r}: expected one of {', '.join(known)}.")
    return PRECISIONS[auto_precision(device) if precision == "auto" else precision]


def as_onednn(module: torch.nn.Module) -> torch.nn.Module:
    """Let oneDNN multiply, where there is AVX-512; with AVX2 alone torch itself is faster."""
    usable = mkldnn and torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled
    return mkldnn.to_mkldnn(module) if usable and "avx512f" in instructions() else module
