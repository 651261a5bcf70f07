"""An argument parser whose mistakes cost the user one line."""
from __future__ import annotations

import argparse
import difflib
import sys
from typing import Any, NoReturn

RETIRED = {
    "--gpus": "use --device, and torchrun for several cards",
    "--phase": "newtrain.py trains, evaluate.py measures, enhance.py restores",
    "--resume_epoch": "--continue_train finds the position by itself",
    "--resume_iter": "--continue_train finds the position by itself",
    "--niter_decay": "it never had an effect; see --lr_policy",
    "--epoch_count": "it never had an effect; see --lr_policy",
    "--save_by_iter": "it never had an effect; see --save_iter_freq",
    "--input_nc": "the networks take RGB only",
    "--output_nc": "the networks give RGB only",
    "--ngf": "the network's width is fixed by the published architecture",
    "--ndf": "the network's width is fixed by the published architecture",
    "--eval": "evaluation always uses eval mode",
    "--num_test": "use --max_dataset_size",
    "--ntest": "use --max_dataset_size",
    "--preprocess": "pictures are resized to --load_size",
}


class OneLineParser(argparse.ArgumentParser):
    """No abbreviations; errors are one line on stderr with the nearest valid names, status 2."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=HelpFormatter, **settings)

    def error(self, message: str) -> NoReturn:
        sys.stderr.write(f"{self.prog}: error: {' '.join(message.split())}\n")
        raise SystemExit(2)

    def flags(self) -> list[str]:
        """Every option string this parser knows."""
        return [string for action in self._actions for string in action.option_strings]

    def by_name(self) -> dict[str, argparse.Action]:
        """Actions by Python name and by flag spelling without dashes, as YAML files use them."""
        found = {}
        for action in self._actions:
            if action.dest not in ("help", argparse.SUPPRESS):
                found[action.dest] = action
                for string in action.option_strings:
                    found[string.removeprefix("--").replace("-", "_")] = action
        return {name: action for name, action in found.items() if not name.startswith("no_")}

    def given(self, argv: list[str] | None = None) -> dict[str, Any]:
        """Values by Python name of what the command line names."""
        unset = object()
        found, _ = self.parse_known_args(argv, argparse.Namespace(
            **{action.dest: unset for action in self._actions}))
        return {name: value for name, value in vars(found).items() if value is not unset}

    def reject_unknown(self, unknown: list[str]) -> None:
        """End with status 2 if anything on the command line was not understood."""
        if not unknown:
            return
        word = unknown[0].split("=")[0]
        if not word.startswith("-"):
            self.error(f"unexpected argument {word!r}; options are written --name value")
        if word in RETIRED:
            self.error(f"{word} does not exist any more: {RETIRED[word]}")
        self.error(f"unknown option {word}{nearest(word, self.flags())}")

    def from_yaml(self, name: str, value: Any, source: str) -> tuple[str, Any]:
        """Python name and checked value of one YAML entry.

        Raises:
            ValueError: unknown name, or a value the flag would not accept.
        """
        action = self.by_name().get(name)
        if action is None:
            raise ValueError(f"{source}: unknown option {name}{nearest(name, self.by_name())}")
        if value is None or value == action.default:
            return action.dest, value
        if action.nargs == 0:
            if not isinstance(value, bool):
                raise ValueError(f"{source}: {name} must be true or false, got {value!r}")
            return action.dest, value
        if isinstance(value, (bool, dict)) or (isinstance(value, list) and not action.nargs):
            raise ValueError(f"{source}: {name} takes a single value, got {value!r}")
        try:
            if isinstance(value, list):
                return action.dest, [self._checked(action, item) for item in value]
            return action.dest, self._checked(action, value)
        except (argparse.ArgumentError, argparse.ArgumentTypeError) as error:
            text = error.message if isinstance(error, argparse.ArgumentError) else error
            raise ValueError(f"{source}: {name}: {text}") from error

    def _checked(self, action: argparse.Action, value: Any) -> Any:
        converted = self._get_value(action, str(value))
        self._check_value(action, converted)
        return converted


class HelpFormatter(argparse.HelpFormatter):
    """Shows each default once, unless the text speaks of it or there is none."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        silent = action.default in (None, argparse.SUPPRESS, False) or "default" in text
        return text if silent else f"{text} (default: %(default)s)"


def nearest(word: str, valid: Any) -> str:
    """'; did you mean a, b?' for close names, else an empty string."""
    found = difflib.get_close_matches(word, list(valid), n=3, cutoff=0.6)
    return f"; did you mean {', '.join(found)}?" if found else ""


# ---- types --------------------------------------------------------------------------------------

def _number(text: str, kind: type, low: float, open_end: bool, what: str) -> Any:
    try:
        value = kind(text)
    except ValueError:
        value = None
    # The comparison also refuses NaN.
    if value is None or not (value > low if open_end else value >= low) or value == float("inf"):
        raise argparse.ArgumentTypeError(f"expected {what}, got {text!r}")
    return value


def positive_int(text: str) -> int:
    return _number(text, int, 0, True, "a positive integer")


def count(text: str) -> int:
    return _number(text, int, 0, False, "a non-negative integer")


def positive(text: str) -> float:
    return _number(text, float, 0, True, "a positive number")


def non_negative(text: str) -> float:
    return _number(text, float, 0, False, "a non-negative number")


def fraction(text: str) -> float:
    value = _number(text, float, 0, False, "a number from 0 to 1")
    if value > 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, got {text!r}")
    return value
