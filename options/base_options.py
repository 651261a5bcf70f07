"""Options every entry shares, and how values come together.

Order: defaults < what the weight file shows < the YAML file of --config < the command line. A
model, a dataset and a degradation each add their own flags through
`modify_commandline_options(parser, is_train)`.
"""
from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any, NoReturn

import yaml

from options.layers import NOT_READ, NOT_SAVED, UNDECIDED, Layer, fill
from options.parser import OneLineParser, add_memory_flag, count, fraction, positive_int
from utils.system import FORKS

# Flags whose default most models set themselves.
MODELS_OWN = ("load_size", "batch_size", "lr", "beta1", "total_epochs", "init_type")


class BaseOptions:
    """Parses the command line of an entry.

    Args:
        models, data: the two packages, passed in so that options import neither.
        prog: name in messages.
    """
    is_train = False
    uses_dataset = True
    reads_images = True
    usage = "[options]"
    description = ""

    def __init__(self, models: Any, data: Any, prog: str | None = None) -> None:
        self.models, self.data, self.prog = models, data, prog

    # -- flags ------------------------------------------------------------------------------------

    def initialize(self, parser: argparse.ArgumentParser) -> None:
        """Add the flags all entries share; those that subclasses add first are shown first."""
        self._add_model_flags(parser)
        if self.uses_dataset:
            self._add_data_flags(parser)
        group = parser.add_argument_group("run")
        group.add_argument("--config", metavar="FILE",
                           help="YAML file of option values; the command line overrides it")
        group.add_argument("--name", help="name of the run, a folder in --checkpoints_dir "
                           "(default: MODEL_DATASET)" if self.is_train else
                           "use the weights of this run, a folder in --checkpoints_dir")
        # Elsewhere --output_path names the results.
        group.add_argument("--checkpoints_dir",
                           *(("--output_path", "--train_url") if self.is_train else ()),
                           default="./check_points", metavar="DIR", help="folder of all runs")
        group.add_argument("--seed", type=count, default=123, help="random seed").rare = True
        group.add_argument("--verbose", action=argparse.BooleanOptionalAction, default=False,
                           help="print the networks, and the traceback of an error").rare = True
        if self.reads_images:
            add_memory_flag(group)
        group = parser.add_argument_group("device")
        group.add_argument("--device", default="auto",
                           help="auto, npu, cuda or cpu; npu:3 is card 3")
        group.add_argument("--memory_format", default="auto",
                           choices=("auto", "channels_last", "contiguous"),
                           help="tensor layout; auto is channels_last except on NPU").rare = True
        group.add_argument("--allow_hf32", action=argparse.BooleanOptionalAction, default=False,
                           help="let matrix products and convolutions round fp32 inputs (HF32 on "
                                "NPU, TF32 on CUDA); faster").rare = True
        group.add_argument("--npu_jit", action=argparse.BooleanOptionalAction, default=False,
                           help="compile NPU operators for each shape; may help on "
                                "first-generation cards").rare = True
        group.add_argument("--npu_strict", action=argparse.BooleanOptionalAction, default=False,
                           help="stop with an error if an NPU operator falls back to the CPU"
                           ).rare = True
        group.add_argument("--deterministic", action=argparse.BooleanOptionalAction, default=False,
                           help="use deterministic kernels and collectives only; slower"
                           ).rare = True

    def _add_model_flags(self, parser: argparse.ArgumentParser) -> None:
        group = parser.add_argument_group("model")
        aliases = ", ".join(f"{alias} = {name}" for alias, name in self.models.ALIASES.items())
        group.add_argument("--model", default="sparnet", metavar="NAME",
                           help=f"{', '.join(self.models.names())} ({aliases})")
        group.add_argument("--load_size", type=positive_int, default=128, metavar="PIXELS",
                           help="side of the network's square images")
        group.add_argument("--batch_size", type=positive_int, default=32, metavar="N",
                           help="images per batch, on each card")
        group.add_argument("--degradation", metavar="NAME",
                           help="how low-quality images are made from targets: "
                                f"{', '.join(self.data.degradation_names())} "
                                "(default: the model's own)").rare = not self.uses_dataset

    def _add_data_flags(self, parser: argparse.ArgumentParser) -> None:
        group = parser.add_argument_group("data")
        group.add_argument("--dataroot", "--data_path", "--data_url", metavar="DIR",
                           help="folder of face images, or a list (.txt) or pack of them (see "
                                "docs/data.md); without it, synthetic faces are used")
        group.add_argument("--dataset_name", metavar="NAME",
                           help=f"{', '.join(self.data.names())} (default: the model's own with "
                                "--dataroot, else synthetic)")
        group.add_argument("--max_dataset_size", type=positive_int, metavar="N",
                           help="use only the first N images (default: all)")
        group.add_argument("--max_bad_images", type=fraction, default=0.01, metavar="FRACTION",
                           help="max fraction of unreadable images to skip; above it the run stops"
                           ).rare = True
        group.add_argument("--num_threads", "--workers", type=count, metavar="N",
                           help="data loading processes per card (default: the CPU cores divided "
                                "by the cards, at most 8)")

    # -- parsing ----------------------------------------------------------------------------------

    def parse(self, argv: list[str] | None = None) -> argparse.Namespace:
        """Read the command line; on any mistake print one line and exit with status 2."""
        parser = OneLineParser(prog=self.prog, usage=f"%(prog)s {self.usage}",
                               description=self.description, add_help=False)
        self.initialize(parser)
        # Pre-set, these stay None unless the command line names them.
        first, rest = parser.parse_known_args(argv, argparse.Namespace(
            model=None, dataset_name=None, degradation=None, dataroot=None))
        try:
            layers = self._layers(first)
            named = self._named(parser, first, layers)
            if "model" not in named and any(word.split("=")[0] in ("-h", "--help")
                                            for word in rest):
                self._show_help(parser, named, argv)
            choice = self._add_plugin_flags(parser, named)
            parser.add_help_flag()
            written = fill(parser, layers)
            opt, unknown = parser.parse_known_args(argv)
            parser.reject_unknown(unknown)
            written |= {name: f"--{name} {value}" for name, value in parser.given(argv).items()}
            for key, value in choice.items():
                setattr(opt, key, value)
            opt.is_train = self.is_train
            self._take_settings(opt, written)
            self.finish(opt, parser)
        except (ValueError, OSError) as error:
            parser.error(str(error))
        return opt

    def _layers(self, first: argparse.Namespace) -> list[Layer]:
        """Option values between the defaults and the command line, lowest first."""
        return [Layer(read_yaml(first.config), first.config)] if first.config else []

    def _named(self, parser: OneLineParser, first: argparse.Namespace,
               layers: list[Layer]) -> dict[str, Any]:
        """Model, dataset, degradation and data as the command line or a layer names them."""
        aliases = {name: action.dest for name, action in parser.by_name().items()}
        keys, found = ("model", "dataset_name", "degradation", "dataroot"), {}
        for layer in layers:
            for name, value in layer.values.items():
                if isinstance(value, (list, dict)) and aliases.get(name) in keys:
                    raise ValueError(f"{layer.source}: {name} takes a single value, got a "
                                     f"{type(value).__name__}")
                found[aliases.get(name, name)] = value
        found |= {key: getattr(first, key) for key in keys if getattr(first, key) is not None}
        return {key: found[key] for key in keys if key in found}

    def _show_help(self, parser: OneLineParser, named: dict[str, Any],
                   argv: list[str] | None) -> NoReturn:
        """Help without a model, which would take seconds to import."""
        self._add_flags_of(parser, {key: named[key] for key in ("dataset_name", "degradation")
                                    if named.get(key)})
        parser.set_defaults(**{name: "the model's own" for name in MODELS_OWN
                               if name in parser.by_name()})
        parser.epilog = "--model NAME --help also shows the model's own options."
        parser.add_help_flag()
        parser.parse_known_args(argv)
        raise AssertionError("--help has not ended the program")

    def _add_plugin_flags(self, parser: OneLineParser, named: dict[str, Any]) -> dict[str, str]:
        """Find the model, dataset and degradation in force and let them add their flags."""
        name = self.models.canonical(named.get("model", parser.get_default("model")))
        model = self.models.find(name)
        choice = {"model": name, "degradation": named.get("degradation") or model.degradation}
        if self.uses_dataset:
            choice["dataset_name"] = named.get("dataset_name") or (
                model.dataset if named.get("dataroot") else "synthetic")
        self._add_flags_of(parser, choice)
        parser.set_defaults(**model.defaults(self.is_train))
        return choice

    def _add_flags_of(self, parser: OneLineParser, choice: dict[str, str]) -> None:
        """Let plug-ins add their flags, each to a group of its own."""
        setters = {"model": self.models.option_setter,
                   "degradation": self.data.degradation_option_setter,
                   "dataset_name": self.data.option_setter}
        for key, setter in setters.items():
            if key in choice:
                group = parser.add_argument_group(f"{key.removesuffix('_name')} {choice[key]}")
                group.rare = key == "degradation" and not self.uses_dataset
                setter(choice[key])(group, self.is_train)

    def _weights_of(self, opt: argparse.Namespace) -> Path | None:
        """The weight file that the network is built for; None if it does not exist, which loading
        reports."""
        path = Path(opt.pretrain_model_path or "")
        return path if path.is_file() else None

    def _take_settings(self, opt: argparse.Namespace, written: dict[str, str]) -> None:
        """Set the options that the weight file shows of its network.

        Args:
            written: by name, how the user wrote the options that contradict it if they differ.

        Raises:
            ValueError: such an option, a file of another model, or options that neither the file
                nor the user decides.
        """
        path = self._weights_of(opt)
        if path is None:
            return
        model, left_open = self.models.find(opt.model), []
        for name, shown in self.models.settings_of(opt.model, path).items():
            fitting = shown if isinstance(shown, tuple) else (shown,)
            value = getattr(opt, name)
            decided = value not in UNDECIDED
            if decided and any(model.agrees(name, value, each) for each in fitting):
                continue
            flags = " or ".join(f"--{name} {each}" for each in fitting)
            if decided and name in written:
                raise ValueError(f"{written[name]} contradicts {path}, which needs {flags}")
            if len(fitting) > 1:
                left_open.append(flags)
            else:
                setattr(opt, name, fitting[0])
        if left_open:
            raise ValueError(f"{path} fits a network with {left_open[0]}; the file does not show "
                             f"which, so give one of them")

    def finish(self, opt: argparse.Namespace, parser: OneLineParser) -> None:
        """Resolve what depends on other options; raise ValueError for bad combinations."""
        if self.uses_dataset and opt.num_threads is None:
            cards = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
            opt.num_threads = max(1, min(8, (os.cpu_count() or 1) // cards)) if FORKS else 0
        if opt.name is not None and (opt.name in ("", "..") or Path(opt.name).name != opt.name):
            raise ValueError(f"--name must be a plain folder name, got {opt.name!r}")
        model = self.models.find(opt.model)
        model.resolve(opt)
        model.check(opt)


# ---- YAML ---------------------------------------------------------------------------------------

class TextLoader(yaml.SafeLoader):
    """Leaves values as they are written, for the flags to convert as on the command line.

    YAML 1.1 itself reads 12:30:45 as 45045, 010 as 8, 1e-4 as text and `no` as false.
    """
    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag.endswith((":null", ":merge"))]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = set()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(
                    problem="a name must be plain text", problem_mark=key.start_mark)
            if key.value in names:
                raise yaml.constructor.ConstructorError(
                    problem=f"{key.value} is given twice", problem_mark=key.start_mark)
            names.add(key.value)
            if isinstance(value, yaml.ScalarNode) and value.style is None and not value.value:
                raise yaml.constructor.ConstructorError(
                    problem=f"{key.value} must have a value, got nothing; null stands for none",
                    problem_mark=key.start_mark)
        return super().construct_mapping(node, deep)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Option values of a YAML file.

    Raises:
        ValueError: missing, not YAML, or not a mapping from names to values; a name without value
            or given twice.
    """
    try:
        content = yaml.load(Path(path).read_text(encoding="utf-8-sig"), TextLoader)
    except OSError as error:
        raise ValueError(f"--config {path} cannot be read ({error.strerror})") from error
    except Exception as error:      # no YAML, too deep, or tagged as what it is not
        raise ValueError(f"--config {path} is not valid YAML ({error})") from error
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ValueError(f"--config {path} must hold `name: value` lines, got "
                         f"{type(content).__name__}")
    return content


def to_yaml(opt: argparse.Namespace) -> str:
    """The resolved options as YAML that --config takes back."""
    values = {key: value for key, value in sorted(vars(opt).items()) if key not in NOT_SAVED}
    return ("# Resolved options of a run; pass them back with --config FILE.\n"
            + yaml.safe_dump(values, sort_keys=True, allow_unicode=True))


def summary(opt: argparse.Namespace) -> str:
    """The resolved options as a table for the log."""
    lines = [f"{key:>22}: {value}" for key, value in sorted(vars(opt).items())
             if key not in NOT_READ]
    return "\n".join(["--- options " + "-" * 40, *lines, "-" * 52])
