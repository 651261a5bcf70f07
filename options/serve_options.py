"""Options of serve.py: one model by the flags of enhance.py, or several by a table."""
from __future__ import annotations

import argparse
import re
from typing import Any

from options.base_options import read_yaml
from options.layers import Layer
from options.parser import OneLineParser, count, non_negative, positive, positive_int
from options.restore_options import RestoreOptions

WHICH_MODEL = ("model", "name", "pretrain_model_path", "onnx", "engine")
LOOPBACK = ("127.0.0.1", "localhost", "::1")


class ServeOptions(RestoreOptions):
    """Options of serve.py.

    Args:
        table: option values of one entry of --models; they go below the command line.
        source: what messages call the table.
    """
    usage = "(--pretrain_model_path FILE | --name RUN | --models FILE) [options]"
    description = "Restore images over HTTP, with a web page; by default for this machine only."

    def __init__(self, models: Any, data: Any, prog: str | None = None,
                 table: dict[str, Any] | None = None, source: str = "") -> None:
        super().__init__(models, data, prog)
        self.table, self.source = table, source

    def initialize(self, parser: argparse.ArgumentParser) -> None:
        service = self._server_group(parser)
        parser.add_argument_group("models").add_argument(
            "--models", metavar="FILE",
            help="YAML file with several models, as lines `NAME: {flag: value, ...}`; the first is "
                 "the default")
        super().initialize(parser)
        group = parser.add_argument_group("photographs")
        self._add_detector_flags(group)
        detector = {action.dest for action in group._group_actions}
        self._add_paste_flags(group)
        self._add_engine_flags(parser.add_argument_group("engine"))
        parser.set_defaults(max_faces=32)       # the faces of a crowd would fill the memory
        limits = self._limits_group(parser)
        self.for_all = detector | {"models", "config"} | {
            action.dest for each in (service, limits) for action in each._group_actions}

    @staticmethod
    def _server_group(parser: argparse.ArgumentParser) -> Any:
        group = parser.add_argument_group("service")
        group.add_argument("--host", default="127.0.0.1", metavar="ADDRESS",
                           help="address to listen on; 0.0.0.0 lets other machines connect")
        group.add_argument("--port", type=count, default=8000, metavar="N",
                           help="port to listen on, 0 for a free one")
        group.add_argument("--allowed_hosts", nargs="+", metavar="NAME",
                           help="host names that clients may use, *.NAME for all subdomains; "
                                "loopback names are always allowed when listening there (default: "
                                "those only, on other addresses any)").rare = True
        group.add_argument("--workers", type=positive_int, metavar="N",
                           help="threads that decode, detect, paste and encode (default: a quarter "
                                "of the CPU cores; the network gets the others)").rare = True
        group.add_argument("--batch_wait_ms", type=non_negative, default=5.0, metavar="MS",
                           help="max time to wait for faces of other requests before a batch is "
                                "run").rare = True
        group.add_argument("--access_log", action=argparse.BooleanOptionalAction, default=True,
                           help="log each request, without addresses and file names")
        return group

    @staticmethod
    def _limits_group(parser: argparse.ArgumentParser) -> Any:
        group = parser.add_argument_group("limits")
        group.rare = True
        group.add_argument("--queue", type=positive_int, default=64, metavar="N",
                           help="max requests running or waiting; others get status 429 at once")
        group.add_argument("--max_clients", type=positive_int, default=512, metavar="N",
                           help="max open connections; requests on others get status 503")
        group.add_argument("--max_bytes", type=positive_int, default=20_000_000, metavar="N",
                           help="max size of an uploaded file")
        group.add_argument("--max_pixels", type=positive_int, default=25_000_000, metavar="N",
                           help="max pixels of an uploaded image")
        group.add_argument("--max_result_pixels", type=positive_int, default=50_000_000,
                           metavar="N", help="max pixels of a result, after upscaling")
        group.add_argument("--timeout", type=positive, default=60.0, metavar="SECONDS",
                           help="max time from the end of the upload to the answer")
        group.add_argument("--receive_timeout", type=positive, default=20.0, metavar="SECONDS",
                           help="max time to receive a request: header and body, each")
        return group

    def _layers(self, first: argparse.Namespace) -> list[Layer]:
        if self.table is None:
            return super()._layers(first)
        for name in WHICH_MODEL:
            if getattr(first, name, None) is None:
                setattr(first, name, self.table.get(name))
        return [*super()._layers(first), Layer(self.table, self.source)]

    def finish(self, opt: argparse.Namespace, parser: OneLineParser) -> None:
        if opt.port > 65535:
            raise ValueError(f"--port must be at most 65535, got {opt.port}")
        wrong = next((name for name in opt.allowed_hosts or [] if not re.fullmatch(
            r"\*|(\*\.)?[\w.-]+|\[[0-9a-fA-F:]+\]", name)), None)
        if wrong is not None:
            raise ValueError(f"--allowed_hosts must be names without a port, like example.org or "
                             f"*.example.org, got {wrong!r}")
        if self.table is not None or not opt.models:    # else each entry is checked by itself
            super().finish(opt, parser)

    def parse_all(self, argv: list[str] | None = None,
                  ) -> tuple[argparse.Namespace, dict[str, argparse.Namespace]]:
        """The service's own options, and those of each model by its name.

        A model given by flags is called after its run or its model. On any mistake prints one
        line and exits with status 2.
        """
        opt = self.parse(argv)
        if not opt.models:
            return opt, {opt.name or opt.model: opt}
        parser = OneLineParser(prog=self.prog, add_help=False)
        self.initialize(parser)
        given, _ = parser.parse_known_args(argv, argparse.Namespace(
            **dict.fromkeys(("model", "engine"))))
        clash = next((name for name in WHICH_MODEL if getattr(given, name) is not None), None)
        try:
            if clash:
                raise ValueError(f"--{clash} and --models cannot be used together")
            tables = read_models(opt.models, self.for_all)
        except ValueError as error:
            parser.error(str(error))
        return opt, {name: ServeOptions(self.models, self.data, self.prog, table,
                                        f"--models {opt.models}: {name}").parse(argv)
                     for name, table in tables.items()}


def read_models(path: str, for_all: set[str]) -> dict[str, dict[str, Any]]:
    """Option values of each model in a file of --models.

    Args:
        for_all: flags that an entry may not have.

    Raises:
        ValueError: not such a file.
    """
    expected = f"--models {path}: expected lines `NAME: {{flag: value, ...}}`"
    try:
        tables = read_yaml(path)
    except ValueError as error:
        raise ValueError(str(error).replace("--config", "--models")) from error
    if not tables:
        raise ValueError(f"{expected}, got an empty file")
    for name, table in tables.items():
        if not re.fullmatch(r"[\w.-]{1,64}", name):
            raise ValueError(f"{expected}; names are letters, digits and ._-, got {name!r}")
        if not isinstance(table, dict) or not all(isinstance(key, str) for key in table):
            raise ValueError(f"{expected}, got {type(table).__name__} for {name}")
        wrong = sorted(for_all & set(table))
        if wrong:
            raise ValueError(f"--models {path}: {name}: {wrong[0]} applies to the whole service; "
                             f"give --{wrong[0]} on the command line")
    return tables
