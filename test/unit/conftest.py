"""Shared fixtures; every test runs without GPU, network, weights or data."""
from __future__ import annotations

import os

# As in every entry: an installed torch_npu must not be loaded by `import torch`.
os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")

import signal
import socket
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import data
import enhance
import evaluate
import models
import newtrain
import preparation
import prepare
from data.loader import STOP_SIGNALS
from engine import entry
from options.enhance_options import EnhanceOptions
from options.evaluate_options import EvaluateOptions
from options.train_options import TrainOptions


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With FACEZOO_DEEP_HALF=0 or 1, as .ci/run sets it, half of the deep tests are left out."""
    if half := os.environ.get("FACEZOO_DEEP_HALF"):
        config.hook.pytest_deselected(
            items=[item for item in items if not in_half(item, int(half))])
        items[:] = [item for item in items if in_half(item, int(half))]


def in_half(item: pytest.Item, half: int) -> bool:
    """Whether a test is no deep one, or one of this half, by its name."""
    return "deep" not in item.keywords or zlib.crc32(item.nodeid.encode()) % 2 == half


ROOT = Path(__file__).resolve().parents[2]
# The smallest network and images that exercise everything.
TINY = ["--load_size", "64", "--batch_size", "2", "--num_threads", "0", "--num_val_images", "2",
        "--device", "cpu"]
# Without lazy regularizers, whose steps come on top; their own tests switch them on.
TINY_STYLE = ["--load_size", "16", "--narrow", "0.03125", "--style_dim", "16", "--n_mlp", "2",
              "--stddev_group", "1", "--d_reg_every", "0", "--g_reg_every", "0"]
TINY_MODEL = {
    "fan": ["--fan_width", "8", "--load_size", "32"],
    "gfpgan": ["--load_size", "16", "--narrow", "0.03125", "--style_dim", "16", "--num_mlp", "1",
               "--stddev_group", "1", "--component_channels", "8", "--no-fix_decoder",
               "--no-randomize_noise", "--lambda_pcp", "0", "--lambda_style", "0", "--lambda_id",
               "0"],
    "gpen": [*TINY_STYLE, "--lambda_id", "0", "--lambda_pix", "10"],
    "parse": ["--parse_channels", "16", "--parse_depth", "1", "--load_size", "32", "--lq_size", "8",
              "32"],
    # Stage 3 at once: earlier ones leave parameters without gradient.
    "pfsrnet": ["--width", "16", "--stage_steps", "0", "0", "100", "--load_size", "32",
                "--fan_weights", "random", "--fan_width", "8", "--lambda_pcp", "0", "0", "0"],
    "psfrgan": ["--max_channels", "16", "--D_num", "2", "--n_layers_D", "2", "--ndf", "8",
                "--load_size", "32", "--lq_size", "8", "32", "--parse_weights", "random",
                "--parse_channels", "16", "--parse_depth", "1", "--lambda_ss", "0"],
    "stylegan2": [*TINY_STYLE, "--noise_from", "host"],
    "sparnet": ["--scale_factor", "8", "--res_depth", "0", "--bottleneck_size", "16",
                "--load_size", "32"],
    "sparnethd": ["--res_depth", "1", "--bottleneck_size", "8", "--max_channels", "32", "--num_D",
                  "2", "--n_layers_D", "2", "--ndf", "8", "--load_size", "32", "--lq_size", "8",
                  "32", "--lambda_pcp", "0"]}


def tiny_arguments(name: str, without: str = "") -> list[str]:
    """Command-line arguments that make a model small enough for a unit test, but for a flag."""
    arguments = ["--model", name, *TINY, *TINY_MODEL.get(name, [])]
    if without:
        at = arguments.index(without)
        del arguments[at:at + 2]
    return arguments


def models_and_levels() -> list:
    """(model, opt_level) of all; fp16 convolutions are slow on a CPU, so those of most models are
    deep."""
    quick = ("fan", "gfpgan")
    return [pytest.param(name, level, marks=pytest.mark.deep if level == "O2" and name not in quick
                         else ()) for name in models.names() for level in ("O0", "O1", "O2")]


def torchrun_command(script: str | Path, processes: int = 2) -> list[str]:
    """Command line that starts so many processes of a script on this machine, on a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={processes}",
            f"--master_port={port}", str(script)]


def children_of(process: int) -> list[int]:
    """Ids of the processes that a process has started and that live, in order."""
    return [int(number) for number
            in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


@pytest.fixture(autouse=True)
def _same_environment() -> Iterator[None]:
    """Opening a device and joining processes set variables, which no other test shall see."""
    before = dict(os.environ)
    yield
    for name in set(os.environ) - set(before):
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture
def tiny_options(tmp_path: Path) -> Callable[..., object]:
    """Options of a tiny training run: tiny_options("sparnet", "--opt_level", "O2")."""
    def make(name: str = "sparnet", *arguments: str, without: str = "") -> object:
        return TrainOptions(models, data, "test").parse(
            [*tiny_arguments(name, without), "--checkpoints_dir", str(tmp_path / "runs"),
             "--name", "tiny", *arguments])
    return make


@pytest.fixture
def tiny_run(tiny_options: Callable) -> Callable[..., tuple[object, dict]]:
    """A model that is ready to train and a batch from its dataset."""
    def make(name: str = "sparnet", *arguments: str) -> tuple[object, dict]:
        from data.base_dataset import collate
        opt = tiny_options(name, *arguments)
        torch.manual_seed(0)
        model = models.create(opt, torch.device("cpu"))
        model.setup()
        model.train()
        dataset = data.create_dataset(opt.dataset_name, "train", opt.degradation, vars(opt))
        batch = model.prepare(collate([dataset[0], dataset[1]]))
        model.start_step(1, 100, 100)
        return model, batch
    return make


@pytest.fixture
def run_script() -> Callable[..., subprocess.CompletedProcess]:
    """Run an entry, run_script("newtrain.py", "--help"), or a tool, run_script("tools.doctor")."""
    def run(script: str, *arguments: object, timeout: float = 240,
            **settings: object) -> subprocess.CompletedProcess:
        what = [str(ROOT / script)] if script.endswith(".py") else ["-m", script]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT),
                       **settings.pop("env", {})}
        return subprocess.run([sys.executable, *what, *map(str, arguments)],
                              capture_output=True, text=True, timeout=timeout, env=environment,
                              **settings)
    return run


@pytest.fixture
def run_here(capsys: pytest.CaptureFixture) -> Callable[..., subprocess.CompletedProcess]:
    """As `run_script`, in this process, which is some seconds faster."""
    entries = {"newtrain.py": (TrainOptions, newtrain.train),
               "evaluate.py": (EvaluateOptions, evaluate.evaluate),
               "enhance.py": (EnhanceOptions, enhance.enhance)}

    def parsed(script: str, argv: list[str]) -> tuple[object, Callable]:
        if script == "prepare.py":
            opt = prepare.parse(argv)
            return opt, preparation.find(opt.command).run
        options, body = entries[script]
        return options(models, data, script).parse(argv), body

    def run(script: str, *arguments: object) -> subprocess.CompletedProcess:
        handlers = {number: signal.getsignal(number) for number in STOP_SIGNALS}
        capsys.readouterr()
        try:
            opt, body = parsed(script, [str(each) for each in arguments])
            status = entry.run(body, opt, script)
        except SystemExit as end:
            status = end.code
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        said = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, status, said.out, said.err)
    return run


@pytest.fixture
def train(run_script: Callable, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess]:
    """newtrain.py with a tiny SPARNet; the run is tmp_path/runs/tiny."""
    def run(*arguments: object, **settings: object) -> subprocess.CompletedProcess:
        return run_script("newtrain.py", *tiny_arguments("sparnet"), "--checkpoints_dir",
                          tmp_path / "runs", "--name", "tiny", "--no-tensorboard", *arguments,
                          **settings)
    return run
