"""The same cross-encoder on Intel's OpenVINO, in 8 bits too: a folder in, scores out.

OpenVINO compiles the whole model for the processor it finds, so attention and activations gain as
well as matrices. It runs on any x86 or Arm processor. With `precision="int8"` weights and
activations are quantised by NNCF, whose ranges are read off sample pairs.
"""

import logging
import threading
from collections.abc import Sequence
from pathlib import Path

import openvino
import torch
from transformers.modeling_outputs import SequenceClassifierOutput

from helpers.hardware import PRECISIONS, choose_dtype
from helpers.score import LocalCrossEncoder

HINTS = {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16"}
# Of different length, so that in one batch the short are padded beyond what a window sees.
PROBES = [("a question", "an answer"), ("a question", "words " * 600), ("why?", "a reason " * 60)]


class OpenVINOCrossEncoder(LocalCrossEncoder):
    """`LocalCrossEncoder`, computed by OpenVINO on the processor.

    Args:
        model: A folder with safetensors weights, or a name on the hub.
        precision: `fp32`, `bf16`, `fp16`, `auto`, or `int8`.
        calibration: Pairs for `int8`, of the kind that will be scored; some dozens will do.
        how: What else `LocalCrossEncoder` takes, but a device.

    Raises:
        ValueError: The precision is unknown; it is int8 and there are no calibration pairs, or no
            layers that are known to stand it; or OpenVINO cannot convert the model, or computes
            other scores of it than torch.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        precision: str = "fp32",
        calibration: Sequence[tuple[str, str]] = (),
        **how,
    ):
        if precision not in (known := [*PRECISIONS, "auto", "int8"]):
            raise ValueError(f"precision is {precision!r}: expected one of {', '.join(known)}.")
        if precision == "int8" and not calibration:
            raise ValueError("precision 'int8' needs calibration pairs: some dozens of your own.")
        super().__init__(model, device="cpu", **how)
        del self.settings["device"]
        self.settings |= {"precision": precision, "calibration": calibration}
        self._compile(precision, calibration)

    def _convert(self, precision: str, device: str) -> None:
        self.client.to(torch.float32)  # as OpenVINO reads it, and is compared with it

    def _compile(self, precision: str, calibration: Sequence[tuple[str, str]]) -> None:
        model = self.client.transformers_model
        kind = type(model).__name__
        if not kind.endswith("ForSequenceClassification"):
            raise ValueError(
                f"OpenVINOCrossEncoder takes models for sequence classification, not a {kind}: "
                "LocalCrossEncoder takes this one."
            )
        if "sliding_attention" in (getattr(model.config, "layer_types", None) or ()):
            # Padding that sees no word in its window is -inf throughout in torch's fused attention,
            # of which OpenVINO's softmax makes NaN. Spelled out, the mask is a large number.
            model.set_attn_implementation("eager")
        batch_tokens, self.batch_tokens = self.batch_tokens, 65_536  # the probes are one batch
        recorder = _Recorder(model)
        # sentence-transformers has no setter for `transformers_model`.
        self.client[0].model = recorder
        samples = [recorder.note(self.logits, [pair]) for pair in calibration or PROBES[:1]]
        try:
            converted = openvino.convert_model(model, example_input=samples[0][0])
            compiled, differences = _Compiled(converted, "f32", model.config), []
            for pairs in (PROBES[:1], PROBES):
                inputs, expected = recorder.note(self.logits, pairs)
                differences.append((compiled(**inputs).logits - expected).abs().max())
        except Exception as error:  # whatever the model's code raises while it is traced, or run
            raise ValueError(
                f"OpenVINO cannot convert a {kind}, as said above: LocalCrossEncoder takes it."
            ) from error
        if not (difference := torch.stack(differences).max()) <= 1e-3:  # nor is NaN
            raise ValueError(
                f"OpenVINO's scores of a {kind} differ from torch's by {difference:.3g}: "
                "expected at most 0.001. LocalCrossEncoder takes it."
            )
        # int8 says what the matrices are; what is left runs in what the processor does best.
        hint = HINTS[choose_dtype("auto" if precision == "int8" else precision, "cpu")]
        if precision == "int8":
            converted = _quantise(converted, [inputs for inputs, _ in samples], kind)
        if precision == "int8" or hint != "f32":
            compiled = _Compiled(converted, hint, model.config)
        self.client[0].model, self.batch_tokens = compiled, batch_tokens


def _quantise(model: openvino.Model, samples: list[dict], kind: str) -> openvino.Model:
    import nncf

    nncf.set_log_level(logging.ERROR)
    names = [port.any_name for port in model.inputs]  # a tokenizer may give more
    samples = [{name: inputs[name].numpy() for name in names} for inputs in samples]
    model = nncf.quantize(
        model,
        nncf.Dataset(samples),
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(samples),
        # Only the layers are quantised; the score on top of them needs its digits.
        ignored_scope=nncf.IgnoredScope(patterns=["^(?!.*encoder).*$"], validate=False),
    )
    if not any(op.get_type_name() == "FakeQuantize" for op in model.get_ops()):
        raise ValueError(
            f"Nothing in a {kind} was quantised: expected its layers in a module named encoder. "
            "Take another precision."
        )
    return model


class _Recorder(torch.nn.Module):
    """The transformers model in its own place, to see what it is given and gives."""

    def __init__(self, model: torch.nn.Module):
        super().__init__()
        self.model, self.config = model, model.config

    def forward(self, **features):
        self.given, self.found = features, self.model(**features)
        return self.found

    def note(self, logits, pairs: Sequence[tuple[str, str]]) -> tuple[dict, torch.Tensor]:
        """Score pairs of one batch; return the model's inputs by name, and its logits."""
        logits(pairs)
        tensors = {name: value for name, value in self.given.items() if torch.is_tensor(value)}
        # Copied out of inference mode, in which they could not be traced.
        return {name: value.clone() for name, value in tensors.items()}, self.found.logits


class _Compiled(torch.nn.Module):
    """What stands in the transformers model's place and answers like it."""

    def __init__(self, model: openvino.Model, hint: str, config):
        super().__init__()
        settings = {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY"}
        settings["INFERENCE_NUM_THREADS"] = torch.get_num_threads()
        self.compiled = openvino.Core().compile_model(model, "CPU", settings)
        self.names, self.config = [port.any_name for port in model.inputs], config
        self.place = torch.nn.Parameter(torch.empty(0))  # says: on the processor, in fp32
        self.lock = threading.Lock()  # a compiled model computes one request at a time

    def forward(self, **features) -> SequenceClassifierOutput:
        values = {name: features[name].numpy() for name in self.names}
        with self.lock:
            logits = self.compiled(values)["logits"].copy()
        return SequenceClassifierOutput(logits=torch.from_numpy(logits))
