"""Options every entry shares, and how values come together.

Order: defaults < what the weight file shows < the YAML file of --config < the command line. A
model, a dataset and a degradation each add their own flags through
`modify_commandline_options(parser, is_train)`.
"""
from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import yaml

from options.layers import NOT_SAVED, UNDECIDED, Layer, fill
from options.parser import OneLineParser, count, fraction, positive_int


class BaseOptions:
    """Parses the command line of an entry.

    Args:
        models, data: the two packages, passed in so that options import neither.
        prog: name in messages.
    """
    is_train = False
    uses_dataset = True
    description = ""

    def __init__(self, models: Any, data: Any, prog: str | None = None) -> None:
        self.models, self.data, self.prog = models, data, prog

    # -- flags ------------------------------------------------------------------------------------

    def initialize(self, parser: argparse.ArgumentParser) -> None:
        """Add the flags all entries share."""
        group = parser.add_argument_group("run")
        group.add_argument("--config", metavar="FILE",
                           help="YAML file with option values; the command line overrides it")
        group.add_argument("--name", help="name of the run, a folder below --checkpoints_dir"
                           + (" (default: MODEL_DATASET)" if self.is_train else ""))
        group.add_argument("--checkpoints_dir", "--output_path", "--train_url",
                           default="./check_points", metavar="DIR", help="where runs are kept")
        group.add_argument("--seed", type=count, default=123, help="seed of every random stream")
        group.add_argument("--verbose", action=argparse.BooleanOptionalAction, default=False,
                           help="print the networks, and tracebacks of user errors")
        group = parser.add_argument_group("model")
        group.add_argument("--model", default="sparnet",
                           help=f"recipe to use: {', '.join(self.models.names())}; "
                                f"{self._aliases()}")
        group.add_argument("--load_size", type=positive_int, default=128,
                           help="side of the square pictures the network sees, in pixels")
        group.add_argument("--batch_size", type=positive_int, default=32,
                           help="pictures per card and step")
        group.add_argument("--degradation",
                           help=f"how low-quality pictures are made from good ones: "
                                f"{', '.join(self.data.degradation_names())} "
                                "(default: the model's own)")
        if self.uses_dataset:
            self._add_data_flags(parser)
        group = parser.add_argument_group("device")
        group.add_argument("--device", default="auto",
                           help="auto, npu, cuda or cpu, with an optional card number (npu:3)")
        group.add_argument("--memory_format", default="auto",
                           choices=("auto", "channels_last", "contiguous"),
                           help="tensor layout; auto is channels_last except on NPU")
        group.add_argument("--allow_hf32", action=argparse.BooleanOptionalAction, default=False,
                           help="NPU and CUDA may shorten fp32 inputs of products (HF32, TF32)")
        group.add_argument("--npu_jit", action=argparse.BooleanOptionalAction, default=False,
                           help="compile NPU operators per shape; may help first-generation cards")
        group.add_argument("--npu_strict", action=argparse.BooleanOptionalAction, default=False,
                           help="an operator falling back from NPU to CPU is an error")
        group.add_argument("--deterministic", action=argparse.BooleanOptionalAction, default=False,
                           help="deterministic kernels and collectives only; slower")

    def _aliases(self) -> str:
        return ", ".join(f"{alias} stands for {name}"
                         for alias, name in self.models.ALIASES.items())

    def _add_data_flags(self, parser: argparse.ArgumentParser) -> None:
        group = parser.add_argument_group("data")
        group.add_argument("--dataset_name",
                           help=f"one of {', '.join(self.data.names())} (default: the model's "
                                "own where --dataroot is given, else synthetic)")
        group.add_argument("--dataroot", "--data_path", "--data_url", metavar="DIR",
                           help="folder of face pictures, or a list (.txt) or pack of them "
                                "(docs/data.md); without it embedded synthetic faces are used")
        group.add_argument("--max_dataset_size", type=positive_int, metavar="N",
                           help="use only the first N pictures (default: all)")
        group.add_argument("--max_bad_images", type=fraction, default=0.01, metavar="SHARE",
                           help="share of unreadable pictures that is skipped before stopping")
        group.add_argument("--num_threads", "--workers", type=count, metavar="N",
                           help="data loading processes per card (default: the cores of this "
                                "card's share, at most 8)")

    # -- parsing ----------------------------------------------------------------------------------

    def parse(self, argv: list[str] | None = None) -> argparse.Namespace:
        """Read the command line; on any mistake print one line and exit with status 2."""
        parser = OneLineParser(prog=self.prog, description=self.description, add_help=False)
        self.initialize(parser)
        # Pre-set, these stay None unless the command line names them.
        first, _ = parser.parse_known_args(argv, argparse.Namespace(
            model=None, dataset_name=None, degradation=None, dataroot=None))
        try:
            layers = self._layers(first)
            choice = self._add_plugin_flags(parser, first, layers)
            parser.add_argument("-h", "--help", action="help", help="show this text and exit")
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

    def _add_plugin_flags(self, parser: OneLineParser, first: argparse.Namespace,
                          layers: list[Layer]) -> dict[str, str]:
        """Find the model, dataset and degradation in force and let them add their flags."""
        aliases = {name: action.dest for name, action in parser.by_name().items()}
        configured = {aliases.get(name, name): value for layer in layers
                      for name, value in layer.values.items()}

        def pick(key: str) -> Any:
            given = getattr(first, key)
            return configured.get(key, parser.get_default(key)) if given is None else given

        model = self.models.canonical(pick("model"))
        recipe = self.models.find(model)
        choice = {"model": model, "degradation": pick("degradation") or recipe.degradation}
        setters = {f"model {model}": self.models.option_setter(model),
                   f"degradation {choice['degradation']}":
                       self.data.degradation_option_setter(choice["degradation"])}
        if self.uses_dataset:
            dataset = pick("dataset_name") or (recipe.dataset if pick("dataroot")
                                               else "synthetic")
            choice["dataset_name"] = dataset
            setters[f"dataset {dataset}"] = self.data.option_setter(dataset)
        for title, add_flags in setters.items():
            add_flags(parser.add_argument_group(title), self.is_train)
        parser.set_defaults(**recipe.defaults(self.is_train))
        return choice

    def _weights_of(self, opt: argparse.Namespace) -> Path | None:
        """The weight file that the network is built for; None where there is none yet, which
        loading says better."""
        path = Path(opt.pretrain_model_path or "")
        return path if path.is_file() else None

    def _take_settings(self, opt: argparse.Namespace, written: dict[str, str]) -> None:
        """Take what the weight file shows of its network over into the options.

        Args:
            written: by name, how the user wrote the options that contradict it if they differ.

        Raises:
            ValueError: such an option, a file of another model, or one that leaves it open what
                the options do not say either.
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
            raise ValueError(f"{path} is of a network with {left_open[0]}, whose files have the "
                             f"same entries: say which")

    def finish(self, opt: argparse.Namespace, parser: OneLineParser) -> None:
        """Resolve what depends on other options; raise ValueError for bad combinations."""
        if self.uses_dataset and opt.num_threads is None:
            cards = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
            opt.num_threads = max(1, min(8, (os.cpu_count() or 1) // cards))
        if opt.name is not None and (opt.name in ("", "..") or Path(opt.name).name != opt.name):
            raise ValueError(f"--name must be a plain folder name, got {opt.name!r}")
        model = self.models.find(opt.model)
        model.resolve(opt)
        model.check(opt)


# ---- YAML ---------------------------------------------------------------------------------------

def read_yaml(path: str | Path) -> dict[str, Any]:
    """Option values of a YAML file.

    Raises:
        ValueError: missing, not YAML, or not a mapping from names to values.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"--config {path} cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
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
    return ("# Resolved options of a run; feed back with --config FILE.\n"
            + yaml.safe_dump(values, sort_keys=True, allow_unicode=True))


def summary(opt: argparse.Namespace) -> str:
    """The resolved options as a table for the log."""
    lines = [f"{key:>22}: {value}" for key, value in sorted(vars(opt).items())
             if key not in NOT_SAVED]
    return "\n".join(["--- options " + "-" * 40, *lines, "-" * 52])
