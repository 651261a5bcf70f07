"""Half precision and 8-bit integers."""
from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

from export.graph import INPUT, samples, session
from metrics.psnr_ssim import psnr

# In half precision sums of squares overflow and the epsilons under roots vanish.
KEPT_FLOAT = ("Div", "Gemm", "InstanceNormalization", "MatMul", "Pow", "Reciprocal", "ReduceMean",
              "ReduceSum", "Sqrt")
# dB against the float32 graph, of the built-in sample images; less means that it overflowed.
MIN_HALF_PSNR = 35.0
QUANTIZED = ("Conv", "ConvTranspose")
PER_CHANNEL_OPSET = 13


def bytes_of(images: np.ndarray) -> np.ndarray:
    """(B, 3, H, W) in [-1, 1] as gray levels 0 to 255, float64."""
    return np.clip(np.round((images.astype(np.float64) + 1) * 127.5), 0, 255)


def half(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph in half precision with float32 input and outputs."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    with warnings.catch_warnings():     # of weights that are rounded to the smallest half
        warnings.simplefilter("ignore")
        made = convert_float_to_float16(copy, keep_io_types=True,
                                        op_block_list=[*DEFAULT_OP_BLOCK_LIST, *KEPT_FLOAT])
    order(made.graph)
    return made


def order(graph: onnx.GraphProto) -> None:
    """Put every operator after those it reads from and give each a name of its own, as the format
    demands and the conversion forgets."""
    known = {value.name for value in (*graph.input, *graph.initializer)} | {""}
    # Where an operator reads a value twice, the conversion widens it twice under one name.
    waiting, ordered = list({tuple(node.output): node for node in graph.node}.values()), []
    while waiting:
        ready = [node for node in waiting if known.issuperset(node.input)]
        assert ready, "the graph has a loop"
        ordered += ready
        known.update(name for node in ready for name in node.output)
        waiting = [node for node in waiting if not known.issuperset(node.output)]
    taken: set[str] = set()
    for index, node in enumerate(ordered):
        node.name = f"{node.name}_{index}" if node.name in taken else node.name
        taken.add(node.name)
    del graph.node[:]
    graph.node.extend(ordered)


def checked_half(model: onnx.ModelProto, side: int) -> tuple[onnx.ModelProto, float]:
    """The graph in half precision, and the PSNR of its images against the float32 graph's.

    Raises:
        ValueError: they differ visibly.
    """
    made, batch = half(model), model.graph.input[0].type.tensor_type.shape.dim[0].dim_value
    x = samples(batch or 1, side).numpy()
    restored, target = (session(each).run(None, {INPUT: x})[0] for each in (made, model))
    half_psnr = psnr(bytes_of(restored), bytes_of(target)) if np.isfinite(restored).all() else 0.0
    if half_psnr < MIN_HALF_PSNR:
        raise ValueError(f"the graph in half precision must reach {MIN_HALF_PSNR:g} dB PSNR "
                         f"against float32, got {half_psnr:.1f} dB; its values overflow or "
                         f"underflow, so use float32")
    return made, half_psnr


# ---- 8-bit integers -----------------------------------------------------------------------------

class CalibrationImages(CalibrationDataReader):
    """Inputs that show onnxruntime which values occur.

    Args:
        inputs: arrays of the graph's input shape.
    """

    def __init__(self, inputs: Iterable[np.ndarray]) -> None:
        self.inputs = iter(inputs)

    def get_next(self) -> dict[str, np.ndarray] | None:
        x = next(self.inputs, None)
        return None if x is None else {INPUT: x}


def sensitive(model: onnx.ModelProto, patterns: Iterable[str] = ()) -> list[str]:
    """Names of convolutions that stay float: those nearest to the input and to the outputs, which
    handle colors, and those whose name contains one of `patterns`.

    Raises:
        ValueError: a pattern fits no convolution.
    """
    convs = [node for node in model.graph.node if node.op_type in QUANTIZED]
    makers = {name: node for node in model.graph.node for name in node.output}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    kept = {node.name for node in _nearest(
        [node for value in model.graph.input for node in readers.get(value.name, [])],
        lambda node: [after for name in node.output for after in readers.get(name, [])])}
    first_output = model.graph.output[0].name
    kept |= {node.name for node in _nearest(
        [makers[first_output]],
        lambda node: [makers[name] for name in node.input if name in makers])}
    for pattern in patterns:
        fitting = {node.name for node in convs if pattern in node.name}
        if not fitting:
            raise ValueError(f"--keep_float must be part of a convolution's name such as "
                             f"{', '.join(node.name for node in convs[:5])}, got {pattern}")
        kept |= fitting
    return sorted(kept)


def _nearest(start: list[onnx.NodeProto], following) -> Iterator[onnx.NodeProto]:
    """The first convolution on every way from `start`."""
    queue, seen = list(start), set()
    while queue:
        node = queue.pop()
        if node.name in seen:
            continue
        seen.add(node.name)
        if node.op_type in QUANTIZED:
            yield node
        else:
            queue += following(node)


def quantize(model: onnx.ModelProto, inputs: Iterable[np.ndarray],
              keep_float: Iterable[str] = ()) -> onnx.ModelProto:
    """The graph with 8-bit convolutions, ranges taken from the inputs.

    Args:
        model: in float32.
        inputs: arrays of the graph's input shape, like those it will see.
        keep_float: parts of names of more convolutions that stay float, see `sensitive`.

    Raises:
        ValueError: no inputs, or a name fits nothing.
    """
    inputs = list(inputs)
    if not inputs:
        raise ValueError("calibration needs images, got none")
    kept = sensitive(model, keep_float)
    opset = next(entry.version for entry in model.opset_import if entry.domain == "")
    with tempfile.TemporaryDirectory() as folder, silent():
        source, target = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        onnx.save(model, source)
        quantize_static(source, target, CalibrationImages(inputs), quant_format=QuantFormat.QDQ,
                        op_types_to_quantize=list(QUANTIZED), nodes_to_exclude=kept,
                        per_channel=opset >= PER_CHANNEL_OPSET, activation_type=QuantType.QUInt8,
                        weight_type=QuantType.QInt8)
        made = onnx.load(target)
    onnx.helper.set_model_props(made, {entry.key: entry.value for entry in model.metadata_props})
    return made


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Without the advice onnxruntime logs for other kinds of graphs."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(level)
