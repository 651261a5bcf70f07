"""From a model to an ONNX graph that computes the same.

The exporter is torch's older one, which traces: the newer one writes opset 18 and up, and what
reads graphs for an Ascend NPU wants opset 11. What tracing may get wrong shows in `compare`, and
such a graph is not kept.

After tracing, onnxruntime's basic optimization (standard operators only) computes everything that
does not depend on the input: filters, equalized and normalized weights, shapes. Compilers for
inference chips want weights to be constants.
"""
from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import remove_spectral_norm
from torch.overrides import TorchFunctionMode

from models.ops.spectral import spectral_hooks

OPSETS = tuple(range(11, 18))
INPUT = "input"
# The largest difference, as a fraction of the largest value.
TOLERANCE = 1e-4
# Labels may differ where two regions are equally likely up to rounding.
LABELS_DIFFER = 1e-3
logger = logging.getLogger("facezoo")


class InferenceNetwork(nn.Module):
    """A model's way from (B, 3, H, W) in [-1, 1] to the restored face and its other outputs."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.networks = nn.ModuleDict(model.unwrapped)
        self.outputs: dict[str, Callable[[Tensor], Tensor]] = {"output": model.restore} | {
            name: getattr(model, method) for name, method in model.extra_outputs.items()}

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(compute(x) for compute in self.outputs.values())


class RandomIsConstant(TorchFunctionMode):
    """Random numbers drawn while tracing become constants of the graph: noise is fixed."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (),
                           kwargs: Any = None) -> Any:
        if function is not torch.randn:
            return function(*args, **(kwargs or {}))
        tracing = torch._C._get_tracing_state()
        torch._C._set_tracing_state(None)
        try:
            return function(*args, **(kwargs or {}))
        finally:
            torch._C._set_tracing_state(tracing)


def samples(batch: int, side: int) -> Tensor:
    """Smooth colored images (B, 3, side, side) in [-1, 1] with a little noise, always the same.
    """
    draws = torch.Generator().manual_seed(side)
    coarse = torch.rand(batch, 3, 4, 4, generator=draws) * 2 - 1
    smooth = F.interpolate(coarse, size=(side, side), mode="bicubic", align_corners=False)
    return (smooth + 0.05 * torch.randn(smooth.shape, generator=draws)).clamp(-1, 1)


def make(model: Any, side: int, *, batch: int = 1, dynamic: bool = False,
         opset: int | None = None) -> tuple[onnx.ModelProto, int, float]:
    """The graph of a model that is ready to restore; it is not good for training afterwards.

    Args:
        side: of the square images that go in.
        batch: images at a time.
        dynamic: any number of images at a time.
        opset: version of the operator set; None takes the lowest that works.

    Returns:
        The graph, its opset and its greatest difference from the model's result, see `compare`.

    Raises:
        ValueError: no opset works, or the graph computes something else.
    """
    # In channels-last order torch's group norm on the CPU loses digits that the graph keeps.
    network = InferenceNetwork(model).eval().to(memory_format=torch.contiguous_format)
    inputs = [samples(count, side) for count in ((1, 3) if dynamic else (batch,))]
    with torch.no_grad():
        expected = [[y.cpu().numpy() for y in network(x.to(model.device))] for x in inputs]
    fold_spectral_norms(network)
    names, failures = list(network.outputs), []
    example = samples(2 if dynamic else batch, side).to(model.device)
    for version in OPSETS if opset is None else (opset,):
        try:
            graph = fold_constants(traced(network, example, names, version, dynamic))
            break
        except torch.onnx.errors.OnnxExporterError as error:
            failures.append(f"opset {version}: {str(error).splitlines()[0]}")
    else:
        raise ValueError(f"--model {model.opt.model} cannot be exported: {failures[-1]}")
    onnx.checker.check_model(graph, full_check=True)
    max_error = compare(graph, names, inputs, expected)
    if not max_error <= TOLERANCE:
        raise ValueError(f"the graph of --model {model.opt.model} must give the network's result, "
                         f"got a relative error of {max_error:.1e}; the limit is {TOLERANCE:.0e}")
    return graph, version, max_error


def fold_spectral_norms(network: nn.Module) -> None:
    """Leave weights that are divided by their norms, as eval mode uses them."""
    for module in network.modules():
        for hook in spectral_hooks(module):
            remove_spectral_norm(module, hook.name)


def traced(network: InferenceNetwork, example: Tensor, names: list[str], opset: int,
           dynamic: bool) -> bytes:
    """The graph as torch exports it.

    Raises:
        torch.onnx.errors.OnnxExporterError: an operator does not exist at this opset.
    """
    axes = {name: {0: "batch"} for name in (INPUT, *names)} if dynamic else None
    file = io.BytesIO()
    with torch.no_grad(), RandomIsConstant(), quiet():
        torch.onnx.export(network, (example,), file, opset_version=opset, dynamo=False,
                          input_names=[INPUT], output_names=names, dynamic_axes=axes)
    return file.getvalue()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the exporter's warnings about tracing, and the graph it prints when it fails."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def fold_constants(graph: bytes) -> onnx.ModelProto:
    """The graph without what can be computed beforehand."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder) / "folded.onnx")
        onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        model = onnx.load(options.optimized_model_filepath)
    # onnxruntime names every operator set it knows; other programs refuse those.
    used = {node.domain for node in model.graph.node} | {""}
    kept = [entry for entry in model.opset_import if entry.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    return model


def session(model: onnx.ModelProto | bytes) -> onnxruntime.InferenceSession:
    """The graph, ready to run on the CPU."""
    content = model if isinstance(model, bytes) else model.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def compare(model: onnx.ModelProto, names: list[str], inputs: list[Tensor],
            expected: list[list[np.ndarray]]) -> float:
    """Run the graph: its largest difference as a fraction of the largest value, over all outputs.

    Infinite where shapes differ, values are not finite, or too many labels are others.
    """
    run, max_error = session(model), 0.0
    for x, wanted in zip(inputs, expected, strict=True):
        for found, target in zip(run.run(names, {INPUT: x.numpy()}), wanted, strict=True):
            if found.shape != target.shape:
                return float("inf")
            if np.issubdtype(target.dtype, np.integer):
                wrong = float((found != target).mean())
                max_error = max(max_error, 0.0 if wrong <= LABELS_DIFFER else float("inf"))
                continue
            apart = float(np.abs(found - target).max() / max(np.abs(target).max(), 1e-30))
            max_error = max(max_error, apart if np.isfinite(apart) else float("inf"))
    return max_error
