"""Weights in the published layout and training states that resume exactly.

A run's folder holds, for a suffix S = latest, best, iter_<step>, epoch_<n>:
    S_net_<name>.pth    plain fp32 state dict on the CPU, the published format
    latest_state.pth    everything needed to go on, weights included, so that one file is the
                        whole truth whatever instant a run is killed at
    previous_state.pth  the state before that
"""
from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine import integrity, weight_formats
from engine.run_folder import STATES
from utils.files import stamp_of, write_atomically
from utils.text import counted

logger = logging.getLogger("facezoo")
# Keys under which files hold a state dict, moving averages first.
WRAPPERS = ("params_ema", "params-ema", "g_ema", "ema", "params", "state_dict",
            "model_state_dict", "model", "net")
SPELLED = {"G": "generator", "D": "discriminator"}      # of networks, in files that hold several
# In front of every key: of wrapper modules, and of attributes of the program that saved them.
PREFIXES = ("module.", "netG.", "net_g.", "network.", "generator.", "model.", "net.")
COMPILED = "_orig_mod."     # torch.compile puts it in front of each module it has compiled
STATE_VERSION = 2       # since 2 a state carries a digest, see engine.integrity
# In place of a file: weights that are drawn, for smoke runs only.
RANDOM = "random"
# Content of files that `peek` had to read whole, by path, with the stamp of the file.
_peeked: dict[str, tuple[tuple[int, int], Any]] = {}


# ---- writing ------------------------------------------------------------------------------------

def _portable(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """CPU, contiguous copies: readable on machines without the device, in the published layout."""
    return {key: value.detach().to("cpu", copy=True).contiguous() for key, value in state.items()}


def _to_cpu(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, dict):
        return {key: _to_cpu(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_to_cpu(item) for item in value)
    return value


def write(path: str | Path, content: Any, previous: Path | None = None) -> None:
    """Write a `.pth` file with a digest of itself, as a whole or not at all.

    Args:
        content: what torch.save takes.
        previous: name under which the file replaced is kept.

    Raises:
        OSError: it cannot be written, for example because the disk is full.
    """
    write_atomically(path, lambda file: integrity.save(content, file), previous=previous)


def save_weights(folder: Path, suffix: str, networks: dict[str, dict[str, Tensor]],
                 keys: dict[str, str] | None = None) -> None:
    """Write `<suffix>_net_<name>.pth` for every network's state dict.

    Args:
        keys: by network, the key under which its file holds the state dict; others have none.
    """
    for name, state in networks.items():
        portable = _portable(state)
        if keys and name in keys:
            portable = {keys[name]: portable}
        write(folder / f"{suffix}_net_{name}.pth", portable)


def save_state(folder: Path, state: dict[str, Any]) -> None:
    """Write `latest_state.pth`, keeping the one before as `previous_state.pth`."""
    state = {"version": STATE_VERSION, **_to_cpu(state)}
    latest, previous = STATES
    write(folder / latest, state, previous=folder / previous)


def prune(folder: Path, keep_last: int) -> None:
    """Remove all but the newest `keep_last` numbered snapshots of each kind; 0 keeps all."""
    if keep_last <= 0:
        return
    for kind in ("iter", "epoch"):
        found: dict[int, list[Path]] = {}
        for path in folder.glob(f"{kind}_*_net_*.pth"):
            match = re.fullmatch(rf"{kind}_(\d+)_net_.+\.pth", path.name)
            if match:
                found.setdefault(int(match[1]), []).append(path)
        for number in sorted(found)[:-keep_last]:
            for path in found[number]:
                path.unlink(missing_ok=True)


# ---- reading ------------------------------------------------------------------------------------

def read(path: str | Path) -> Any:
    """Content of a `.pth` or `.safetensors` file, on the CPU, without executing anything in it.

    Raises:
        FileNotFoundError: no such file.
        ValueError: damaged, empty, no checkpoint, or a pickle that holds program code.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint {path} does not exist")
    stamp, content = _peeked.pop(str(path), (None, None))
    return content if stamp == stamp_of(path) else weight_formats.read_file(path)


def peek(path: str | Path) -> Any:
    """What `read` gives, for a look at names and shapes.

    Where the format allows it the numbers stay in the file; otherwise the next `read` of the
    unchanged file takes over what was read here, so that nothing is read twice.

    Raises:
        FileNotFoundError, ValueError: as `read`.
    """
    try:
        return weight_formats.read_file(Path(path), mmap=True)
    except (ValueError, OSError):
        content = read(path)        # formats that cannot stay in the file, or what is wrong
    _peeked[str(Path(path))] = stamp_of(path), content
    return content


@contextmanager
def named_by(flag: str) -> Iterator[None]:
    """Put the flag that named a file in front of what is wrong with it."""
    try:
        yield
    except (FileNotFoundError, ValueError) as error:
        raise type(error)(f"{flag}: {error}") from error


def unwrap(content: Any, path: str | Path, name: str = "",
           expected: Collection[str] = ()) -> dict[str, Tensor]:
    """The state dict inside a file's content; says what was stripped.

    Understands nesting under a key of WRAPPERS or under a network's own name, prefixes of all keys
    (PREFIXES), what torch.compile inserts, and numbers and texts beside the tensors.

    Args:
        name: network letter to look for in files that hold several, e.g. "G".
        expected: the network's own keys; a prefix that they have, too, stays.

    Raises:
        ValueError: there are no tensors by name.
    """
    own = (name, name.lower(), f"net{name}", f"net_{name.lower()}", SPELLED.get(name, ""))
    stripped, names = [], (*WRAPPERS, *filter(None, own))
    while isinstance(content, dict):
        key = next((key for key in names if isinstance(content.get(key), dict)), None)
        if key is None:
            break
        stripped.append(f"[{key!r}]")
        content = content[key]
    state = _tensors_of(content)
    if not state:
        keys = list(content)[:3] if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"{path} holds no state dict; found {keys}, expected tensors by name or "
                         f"one of {', '.join(WRAPPERS)}")
    if len(state) < len(content):
        logger.info("%s: left out what is no tensor: %s", path,
                    ", ".join(sorted(str(key) for key in content.keys() - state.keys())[:5]))
    if any(COMPILED in key for key in state):
        stripped.append(COMPILED)
        state = {key.replace(COMPILED, ""): value for key, value in state.items()}
    for prefix in PREFIXES * 2:     # netG.module. and module.netG. both occur
        if (all(key.startswith(prefix) for key in state)
                and not any(key.startswith(prefix) for key in expected)):
            stripped.append(prefix)
            state = {key[len(prefix):]: value for key, value in state.items()}
    if stripped:
        logger.info("%s: took the weights from %s", path, " ".join(stripped))
    return state


def _tensors_of(content: Any) -> dict[str, Tensor]:
    """The tensors of a flat dict, which may have a step number or a text beside; else nothing."""
    if not isinstance(content, dict):
        return {}
    plain = (Tensor, int, float, str, bytes, type(None))
    if not all(isinstance(key, str) and isinstance(value, plain)
               for key, value in content.items()):
        return {}
    return {key: value for key, value in content.items() if isinstance(value, Tensor)}


def check_match(state: dict[str, Tensor], expected: dict[str, Tensor], path: str | Path,
                hint: str = "") -> None:
    """Require exactly the expected keys and shapes.

    Args:
        hint: appended to the message, e.g. the options the file seems to need.

    Raises:
        ValueError: counts missing, unexpected and differently shaped entries, three of each; names
            those that hold infinite numbers or none.
    """
    missing = [key for key in expected if key not in state]
    unexpected = [key for key in state if key not in expected]
    shapes = [f"{key} {tuple(state[key].shape)} instead of {tuple(expected[key].shape)}"
              for key in expected if key in state and state[key].shape != expected[key].shape]
    if not (missing or unexpected or shapes):
        _check_finite(state, path)
        return
    parts = [f"{len(found)} {what} ({', '.join(found[:3])}{' ...' if len(found) > 3 else ''})"
             for what, found in (("missing", missing), ("unexpected", unexpected),
                                 ("of another shape", shapes)) if found]
    raise ValueError(f"{path} does not fit the network: {'; '.join(parts)}"
                     + (f". {hint}" if hint else ""))


def _check_finite(state: dict[str, Tensor], path: str | Path) -> None:
    wrong = [key for key, value in state.items()
             if value.is_floating_point() and not torch.isfinite(value).all()]
    if wrong:
        raise ValueError(f"{path} must hold finite numbers, got NaN or infinity in "
                         f"{counted(len(wrong), 'tensor')} ({', '.join(wrong[:3])}"
                         f"{', ...' if len(wrong) > 3 else ''}); the training has diverged or the "
                         "file is damaged")


def load_weights(path: str | Path, expected: dict[str, Tensor], name: str = "",
                 hint: Any = None) -> dict[str, Tensor]:
    """Read a weight file and check it strictly against a network's state dict.

    Args:
        expected: state dict of the network.
        name: network letter, for files that hold several networks.
        hint: function from the file's state dict to advice for a mismatch, or None.
    """
    state = with_counters(unwrap(read(path), path, name, expected), expected, path)
    try:
        check_match(state, expected, path)
    except ValueError:
        check_match(state, expected, path, hint(state) if hint else "")
    return state


def with_counters(state: dict[str, Tensor], expected: dict[str, Tensor], path: str | Path
                  ) -> dict[str, Tensor]:
    """The state dict, with the batch norms' counters that files from before PyTorch 0.4.1 lack.

    They count batches and matter only for norms that average over all of them, which none is.
    """
    missing = [key for key in expected if key not in state]
    if not all(key.endswith("num_batches_tracked") for key in missing):
        return state        # a file of another network
    if missing:
        logger.info("%s has no num_batches_tracked; taken as 0", path)
    return state | {key: torch.zeros_like(expected[key]) for key in missing}


def find_weights(path: str | None, runs: Path, name: str | None, epoch: str = "best",
                 load_iter: int = 0, network: str = "G") -> Path:
    """The weight file that options describe: `path`, or one of the run `name` below `runs`.

    Args:
        epoch: `best` (else `latest`), `latest` or a number.
        load_iter: a step's numbered weights instead, 0 for none.

    Raises:
        FileNotFoundError: it does not exist; names those there are.
    """
    if path:
        if not Path(path).is_file():
            raise FileNotFoundError(f"--pretrain_model_path {path} does not exist")
        return Path(path)
    folder = runs / str(name)
    suffixes = [f"iter_{load_iter}"] if load_iter else (
        ["best", "latest"] if epoch == "best" else
        [epoch if epoch == "latest" else f"epoch_{epoch}"])
    for suffix in suffixes:
        if (found := folder / f"{suffix}_net_{network}.pth").is_file():
            return found
    there = ", ".join(sorted(p.name for p in folder.glob(f"*_net_{network}.pth"))) or "none"
    raise FileNotFoundError(f"no {suffixes[0]} weights in {folder}; there are: {there}")


def load_state(folder: Path) -> dict[str, Any] | None:
    """The newest readable training state of a run, or None if there is none.

    Raises:
        ValueError: states exist but none is readable, or they come from a newer version.
    """
    errors = []
    for name in STATES:
        path = folder / name
        if not path.exists():
            continue
        try:
            state = _read_state(path)
        except ValueError as error:
            errors.append(str(error))
            logger.warning("%s; trying the state before it", error)
            continue
        if state["version"] > STATE_VERSION:
            raise ValueError(f"{path} was written by a newer FaceZoo (state version "
                             f"{state['version']}, this one reads up to {STATE_VERSION})")
        return state
    if errors:
        raise ValueError("; ".join(errors))
    return None


def _read_state(path: Path) -> dict[str, Any]:
    """A training state; ValueError if the file holds none or is damaged."""
    state = read(path)
    if not isinstance(state, dict) or "version" not in state:
        raise ValueError(f"{path} is no training state")
    if state["version"] >= 2 and not integrity.has_digest(path):
        raise ValueError(f"{path} is damaged; its digest is gone")
    return state


def load_published_state(folder: Path, suffix: str, names: list[str],
                         optimizers: list[str]) -> dict[str, Any] | None:
    """Training state from the original repository's three files, or None if they are not there.

    `<suffix>_net_<name>.pth`, `<suffix>_opts.pth` (list in optimizer order) and `<suffix>.info`
    (resume_epoch, resume_iter). Source: chaofengc/Face-SPARNet, models/base_model.py.
    """
    info_path, optimizer_path = folder / f"{suffix}.info", folder / f"{suffix}_opts.pth"
    if not info_path.exists() or not optimizer_path.exists():
        return None
    info, states = read(info_path), read(optimizer_path)
    if len(states) != len(optimizers):
        raise ValueError(f"{optimizer_path} holds {len(states)} optimizers, the model has "
                         f"{len(optimizers)} ({', '.join(optimizers)})")
    networks = {}
    for name in names:
        path = folder / f"{suffix}_net_{name}.pth"
        networks[name] = unwrap(read(path), path, name)
    return {"networks": networks, "optimizers": dict(zip(optimizers, states, strict=True)),
            "published": {"epoch": int(info["resume_epoch"]), "iter": int(info["resume_iter"])}}
