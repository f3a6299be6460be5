"""The device and the precision that were asked for, or the best there are."""

import numpy as np
import pytest
import torch

import helpers.hardware as hardware
from helpers.hardware import auto_precision, check_device, choose_dtype
from helpers.score import LocalCrossEncoder

AUTO = [("cpu", "fpu avx2", "fp32"), ("cpu", "fpu avx512_bf16", "bf16"), ("cpu", None, "fp32")]
AUTO += [("mps", "bf16", "fp32"), ("cuda", (7, 5), "fp16"), ("cuda", (8, 0), "bf16")]
PAIRS = [("How deep?", "It was dredged to nine metres."), ("why", ""), ("why", "The band. " * 90)]


@pytest.mark.parametrize(("device", "flags", "expected"), AUTO)
def test_auto_takes_16_bits_where_it_can(device, flags, expected, tmp_path, monkeypatch):
    if isinstance(flags, str):
        (tmp_path / "cpuinfo").write_text(f"flags\t\t: {flags}\n")
    monkeypatch.setattr(hardware, "Path", lambda _: tmp_path / "cpuinfo")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: flags)
    assert auto_precision(device) == expected
    assert choose_dtype("auto", device) == hardware.PRECISIONS[expected]


def test_a_device_that_is_not_there_is_refused(tiny_bert):
    assert check_device(None) is None and check_device("cpu") == "cpu"
    assert LocalCrossEncoder(tiny_bert(), device="cpu").client.device == torch.device("cpu")
    wrong = ["gpu", "cpu2", "cuda:99", *([] if torch.backends.mps.is_available() else ["mps"])]
    for device in wrong:
        with pytest.raises(ValueError, match=f"device is '{device}': expected one of this machine"):
            LocalCrossEncoder(tiny_bert(), device=device)


@pytest.mark.parametrize("gone", [False, True], ids=["switched off", "not there"])
def test_without_onednn_the_scores_are_the_same(tiny_bert, gone, monkeypatch):
    folder = tiny_bert()
    expected = LocalCrossEncoder(folder).score(PAIRS)
    layer = lambda: type(hardware.as_onednn(torch.nn.Linear(2, 2)))  # noqa: E731
    if torch.backends.mkldnn.is_available():
        for words, used in ({"avx2"}, False), ({"avx2", "avx512f"}, True):
            monkeypatch.setattr(hardware, "instructions", lambda words=words: words)
            assert (layer() is not torch.nn.Linear) == used
        np.testing.assert_allclose(LocalCrossEncoder(folder).score(PAIRS), expected, atol=1e-5)
    if gone:
        monkeypatch.setattr(hardware, "mkldnn", None)
    with torch.backends.mkldnn.flags(enabled=gone):
        assert layer() is torch.nn.Linear
        np.testing.assert_allclose(LocalCrossEncoder(folder).score(PAIRS), expected, atol=1e-5)
