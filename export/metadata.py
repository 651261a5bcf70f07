"""What a graph says about itself, in its metadata and in the JSON beside it."""
from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx

from export.graph import INPUT
from utils.files import sha256, to_json, write_atomically, write_text

# `npu-smi info` tells which chip there is; others follow the same pattern.
CHIPS = ("Ascend310", "Ascend310P3", "Ascend310B1", "Ascend310B4", "Ascend910A", "Ascend910B2",
         "Ascend910B3", "Ascend910B4")
DYNAMIC_BATCHES = (1, 2, 4, 8)
UNKNOWN = "not stated by their authors"
PRIVATE = ("pretrain_model_path",)


def license_text(of_published: str) -> str:
    """What is known about the weights' license, where --licence says nothing."""
    return f"published weights: {of_published or UNKNOWN}; others: their maker's"


def network_options(opt: argparse.Namespace, add_flags: Callable[..., None]) -> dict[str, Any]:
    """The options that rebuild the model around a graph; of files only the names.

    Args:
        add_flags: adds the model's own flags to a parser.
    """
    parser = argparse.ArgumentParser(add_help=False)
    add_flags(parser, False)
    own = set(vars(parser.parse_args([]))) - set(PRIVATE)
    found = {name: getattr(opt, name) for name in sorted({"model", "load_size"} | own)}
    return {name: Path(value).name if isinstance(value, str) and Path(value).is_file() else value
            for name, value in found.items()}


def shape_of(value: onnx.ValueInfoProto) -> list[int | str]:
    """Sides of a graph's input or output; a name where any will do."""
    return [axis.dim_value or axis.dim_param or "?" for axis in value.type.tensor_type.shape.dim]


def stamp(model: onnx.ModelProto, *, options: dict[str, Any], weights: str, licence: str,
          precision: str = "fp32") -> None:
    """Put the description into the graph's metadata."""
    size = shape_of(model.graph.input[0])[2]
    about = {"producer": "FaceZoo", "model": options["model"], "options": json.dumps(options),
             "input_size": size, "input_range": "-1 1", "colour_order": "RGB", "layout": "NCHW",
             "preset": options.get("preset") or "", "weights": Path(weights).name,
             "weights_sha256": sha256(weights), "licence": licence, "precision": precision}
    onnx.helper.set_model_props(model, {key: str(value) for key, value in about.items()})
    model.producer_name = "FaceZoo"


def metadata(model: onnx.ModelProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in model.metadata_props}


def atc_commands(model: onnx.ModelProto, path: Path) -> dict[str, str]:
    """The command line that compiles the graph, by chip."""
    batch, *rest = shape_of(model.graph.input[0])
    dynamic = isinstance(batch, str)
    shape = ",".join(map(str, (-1 if dynamic else batch, *rest)))
    batches = f' --dynamic_batch_size="{",".join(map(str, DYNAMIC_BATCHES))}"' if dynamic else ""
    made = f"{path.stem}_{'dynamic' if dynamic else f'bs{batch}'}"
    return {chip: f'atc --framework=5 --model={path.name} --output={made} --input_format=NCHW '
                  f'--input_shape="{INPUT}:{shape}"{batches} --soc_version={chip} --log=error'
            for chip in CHIPS}


def save(model: onnx.ModelProto, path: Path, **extra: Any) -> None:
    """Write the graph, and beside it a JSON that describes it.

    Args:
        extra: more entries of the JSON.
    """
    onnx.checker.check_model(model, full_check=True)
    content = model.SerializeToString()
    write_atomically(path, lambda file: file.write(content) and None)
    about = metadata(model)
    opset = next(entry.version for entry in model.opset_import if entry.domain == "")
    inputs, outputs = ({value.name: shape_of(value) for value in values}
                       for values in (model.graph.input, model.graph.output))
    text = to_json({**about, "options": json.loads(about["options"]), "opset": opset,
                    "inputs": inputs, "outputs": outputs, **extra, "sha256": sha256(path),
                    "size_bytes": len(content), "atc": atc_commands(model, path)})
    write_text(path.with_suffix(".json"), text + "\n")
