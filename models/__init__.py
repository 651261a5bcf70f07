"""Models by name: `models/<name>_model.py` holds exactly one subclass of BaseModel."""
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from utils import plugins

# Names of our models in the original repositories.
ALIASES = {"enhance": "psfrgan", "fpn": "parse"}


def names() -> list[str]:
    """Names accepted by --model, from the files in this folder."""
    return plugins.names(Path(__file__).parent, "model")


def find(name: str) -> Any:
    """The model class called `name`.

    Raises:
        ValueError: no such model; names the nearest ones.
    """
    from models.base_model import BaseModel
    return plugins.load("models", name, "model", BaseModel, flag="--model")


def canonical(name: str) -> str:
    """The model's own name, for its name or that of an original repository."""
    return ALIASES.get(name, name)


def option_setter(name: str) -> Callable[..., None]:
    """The function that adds a model's own flags to a parser."""
    return find(name).modify_commandline_options


def create(opt: Any, device: Any) -> Any:
    """Build the model that `opt.model` names on a device; call its `setup` next."""
    return find(opt.model)(opt, device)


def find_weights(opt: Any) -> Path:
    """The weight file that the options name, or the one of the run they name.

    Raises:
        FileNotFoundError: there is none.
    """
    from engine import checkpoint
    model = find(opt.model)
    # Earlier versions chose "best" weights by a metric that is meaningless for this model.
    epoch = "latest" if opt.epoch == "best" and model.best_by is None else opt.epoch
    return checkpoint.find_weights(opt.pretrain_model_path, Path(opt.checkpoints_dir), opt.name,
                                   epoch, opt.load_iter, model.inference_network)


def settings_of(name: str, path: Path) -> dict[str, Any]:
    """What a weight file shows of the options that built its network, see BaseModel.settings_of.

    A file that cannot be read shows nothing: loading it says better what is wrong.

    Raises:
        ValueError: the file is of another model.
    """
    from engine import checkpoint
    model = find(name)
    letter = "G" if model.inference_network == "H" else model.inference_network     # H starts G
    try:
        state = checkpoint.unwrap(checkpoint.peek(path), path, letter)
    except (FileNotFoundError, ValueError):
        return {}
    try:
        return model.settings_of(state)
    except ValueError as error:
        owner = next((other for other in names() if other != name and _shows(other, state)), None)
        raise ValueError(f"{path} {error}" + (f"; it is of --model {owner}" if owner else "")
                         ) from error


def _shows(name: str, state: dict[str, Any]) -> bool:
    """Whether a state dict is of a network of this model."""
    try:
        return bool(find(name).settings_of(state))
    except ValueError:
        return False


def load_trained(opt: Any, device: Any) -> tuple[Any, Path]:
    """The model with the weights that the options name, ready to restore; and the weight file.

    Raises:
        ValueError, FileNotFoundError: no such weights, or they do not fit.
    """
    path = find_weights(opt)
    opt.pretrain_model_path = str(path)
    model = create(opt, device)
    model.setup()
    return model, path
