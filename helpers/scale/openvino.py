"""The same cross-encoder on Intel's OpenVINO, in 8 bits too: a folder in, scores out.

OpenVINO compiles the whole model for the processor it finds, so attention and activations gain as
well as matrices. It runs on any x86 or Arm processor. With `precision="int8"` weights and
activations are quantised by NNCF, whose ranges are read off sample pairs.
"""

import logging
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers.modeling_outputs import SequenceClassifierOutput

from helpers.score import LocalCrossEncoder, check_precision, choose_dtype

HINTS = {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16"}
INPUTS = ("input_ids", "attention_mask", "token_type_ids")


class OpenVINOCrossEncoder(LocalCrossEncoder):
    """`LocalCrossEncoder`, computed by OpenVINO on the processor.

    Args:
        folder: A model's folder with safetensors weights.
        precision: `fp32`, `bf16`, `fp16`, `auto`, or `int8`.
        calibration: Pairs for `int8`, of the kind that will be scored; some dozens will do.
        how: `batch_tokens` and `max_length`, as `LocalCrossEncoder` takes them.

    Raises:
        ValueError: The precision is unknown, or it is int8 and there are no calibration pairs, or
            no layers that are known to stand it.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        precision: str = "fp32",
        calibration: Sequence[tuple[str, str]] = (),
        **how,
    ):
        check_precision(precision, more=["int8"])
        if precision == "int8" and not calibration:
            raise ValueError("precision 'int8' needs calibration pairs: some dozens of your own.")
        self.calibration = calibration
        super().__init__(folder, precision=precision, **how)

    def _convert(self, precision: str, device: str) -> None:
        import openvino

        self.client.to("cpu")
        transformer = self.client[0]
        if not type(transformer.model).__name__.endswith("ForSequenceClassification"):
            raise ValueError(
                f"OpenVINOCrossEncoder takes models for sequence classification, not a "
                f"{type(transformer.model).__name__}; LocalCrossEncoder takes any."
            )
        samples = [
            self._inputs(*pair) for pair in self.calibration or [("a question", "an answer")]
        ]
        traced = _Logits(transformer.model, list(samples[0]))
        example = tuple(torch.from_numpy(value) for value in samples[0].values())
        model = openvino.convert_model(traced, example_input=example)
        for port, name in zip(model.inputs, samples[0], strict=True):
            port.get_tensor().set_names({name})
        # int8 says what the matrices are; what is left runs in what the processor does best.
        hint = HINTS[choose_dtype("auto" if precision == "int8" else precision, "cpu")]
        if precision == "int8":
            import nncf

            nncf.set_log_level(logging.ERROR)
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
                    f"Nothing in a {type(transformer.model).__name__} was quantised: expected its "
                    "layers in a module named encoder. Take another precision."
                )
        settings = {
            "INFERENCE_PRECISION_HINT": hint,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        }
        compiled = openvino.Core().compile_model(model, "CPU", settings)
        transformer.model = _Compiled(compiled, transformer.model.config, list(samples[0]))

    def _inputs(self, query: str, passage: str) -> dict[str, np.ndarray]:
        tokens = self.client.tokenizer(
            query, passage, truncation=True, max_length=self.client.max_seq_length
        )
        return {name: np.asarray([tokens[name]]) for name in INPUTS if name in tokens}


class _Logits(torch.nn.Module):
    """A transformers model with its inputs in a fixed order and one tensor as its output."""

    def __init__(self, model: torch.nn.Module, names: list[str]):
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *values):
        return self.model(**dict(zip(self.names, values, strict=True))).logits


class _Compiled(torch.nn.Module):
    """What stands in the transformers model's place and answers like it."""

    def __init__(self, compiled, config, names: list[str]):
        super().__init__()
        self.compiled, self.config, self.names = compiled, config, names
        self.place = torch.nn.Parameter(torch.empty(0))  # says: on the processor, in fp32
        self.lock = threading.Lock()  # a compiled model computes one request at a time

    def forward(self, **features) -> SequenceClassifierOutput:
        values = {name: features[name].numpy() for name in self.names}
        with self.lock:
            logits = self.compiled(values)[0].copy()
        return SequenceClassifierOutput(logits=torch.from_numpy(logits))
