"""An argument parser that reports a mistake in one line."""
from __future__ import annotations

import argparse
import difflib
import re
import shutil
import sys
from typing import Any, NoReturn

RETIRED = {
    "--gpus": "use --device, and torchrun for several cards",
    "--phase": "newtrain.py trains, evaluate.py measures, enhance.py restores",
    "--resume_epoch": "--continue_train finds the last step itself",
    "--resume_iter": "--continue_train finds the last step itself",
    "--niter_decay": "it had no effect; see --lr_policy",
    "--epoch_count": "it had no effect; see --lr_policy",
    "--save_by_iter": "it had no effect; see --save_iter_freq",
    "--input_nc": "the input is always RGB",
    "--output_nc": "the output is always RGB",
    "--ngf": "the network's width is fixed by the published architecture",
    "--ndf": "the network's width is fixed by the published architecture",
    "--eval": "evaluate.py always uses eval mode",
    "--num_test": "use --max_dataset_size",
    "--ntest": "use --max_dataset_size",
    "--preprocess": "images are resized to --load_size",
}


SWITCHES = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
EMPTY = "expected a value, got an empty one; is a shell variable unset?"


class OneLineParser(argparse.ArgumentParser):
    """No abbreviations; errors are one line on stderr with the nearest valid names, status 2.

    `--help` leaves out the flags that are marked as rare, and `--help all` shows every flag. A flag
    is marked where it is added, alone or with all of its group; any argparse parser will do:

        parser.add_argument("--init_gain", ...).rare = True
        parser.add_argument_group("precision").rare = True
    """

    def __init__(self, *, add_help: bool = True, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=HelpFormatter, add_help=False,
                         **settings)
        if add_help:
            self.add_help_flag()

    def add_help_flag(self) -> None:
        """Add -h and --help; everything that help is to show must be added before it is parsed."""
        self.add_argument("-h", "--help", nargs="?", choices=("all",), metavar="all",
                          default=argparse.SUPPRESS, action=_HelpAction,
                          help="show the common options, or all of them, and exit")

    def format_help(self, every_flag: bool = False) -> str:
        """The text of --help, or of --help all."""
        formatter = self._get_formatter()
        formatter.every_flag = every_flag
        formatter.add_usage(self.usage or self._short_usage(), (), ())
        formatter.add_text(self.description)
        for group in self._action_groups:
            shown = [action for action in group._group_actions
                     if every_flag or not (is_rare(action) or is_rare(group))]
            formatter.start_section(group.title)
            formatter.add_text(group.description)
            formatter.add_arguments(sorted(shown, key=is_rare))
            formatter.end_section()
        formatter.add_text(self.epilog)
        return formatter.format_help()

    def _short_usage(self) -> str:
        """What must be given, then [options]."""
        spelled = self._get_formatter()._format_action_invocation
        words = [spelled(action) for action in self._actions if action.required]
        words += [f"({' | '.join(map(spelled, group._group_actions))})"
                  for group in self._mutually_exclusive_groups if group.required]
        return " ".join(["%(prog)s", *words, "[options]"])

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
        """Values by Python name of the options on the command line."""
        unset = object()
        found, _ = self.parse_known_args(argv, argparse.Namespace(
            **{action.dest: unset for action in self._actions}))
        return {name: value for name, value in vars(found).items() if value is not unset}

    def reject_unknown(self, unknown: list[str]) -> None:
        """Exit with status 2 if the command line has unknown arguments."""
        if not unknown:
            return
        word = unknown[0].split("=")[0]
        if not word.startswith("-"):
            self.error(f"unexpected argument {word!r}; options are written --name value")
        if word in RETIRED:
            self.error(f"{word} was removed: {RETIRED[word]}")
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
            switch = SWITCHES.get(str(value).lower())
            if switch is None:
                raise ValueError(f"{source}: {name} must be true or false, got {value!r}")
            return action.dest, switch
        if isinstance(value, (bool, dict)) or (isinstance(value, list) and not action.nargs):
            raise ValueError(f"{source}: {name} takes a single value, got a "
                             f"{type(value).__name__}")
        try:
            if isinstance(value, list):
                return action.dest, [self._checked(action, item) for item in value]
            return action.dest, self._checked(action, value)
        except (argparse.ArgumentError, argparse.ArgumentTypeError) as error:
            text = error.message if isinstance(error, argparse.ArgumentError) else error
            raise ValueError(f"{source}: {name}: {text}") from error

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:
        if any(not text.strip() for text in arg_strings):
            raise argparse.ArgumentError(action, EMPTY)
        return super()._get_values(action, arg_strings)

    def _checked(self, action: argparse.Action, value: Any) -> Any:
        if not str(value).strip():
            raise argparse.ArgumentTypeError(EMPTY)
        converted = self._get_value(action, str(value))
        self._check_value(action, converted)
        return converted


class _HelpAction(argparse.Action):
    def __call__(self, parser: OneLineParser, namespace: argparse.Namespace, values: Any,
                 option_string: str | None = None) -> NoReturn:
        sys.stdout.write(parser.format_help(every_flag=values == "all"))
        parser.exit()


def is_rare(flag_or_group: Any) -> bool:
    """Whether only `--help all` shows this flag, or the flags of this group."""
    return getattr(flag_or_group, "rare", False)


class HelpFormatter(argparse.HelpFormatter):
    """Lines of at most 100 columns. Shows each default once, unless the text speaks of it or there
    is none, and other spellings of a flag in `--help all` only."""
    every_flag = False

    def __init__(self, prog: str) -> None:
        width = min(100, shutil.get_terminal_size((100, 24)).columns)
        super().__init__(prog, max_help_position=30, width=width)

    def _get_default_metavar_for_optional(self, action: argparse.Action) -> str:
        known = {None: action.dest.upper(), int: "N", count: "N", positive_int: "N"}
        return known.get(action.type, "VALUE")

    def _format_action_invocation(self, action: argparse.Action) -> str:
        strings = action.option_strings
        if not strings:
            return super()._format_action_invocation(action)
        if not self.every_flag:
            long = [each for each in strings if each.startswith("--")]
            switched_on = (isinstance(action, argparse.BooleanOptionalAction)
                           and action.default is True)
            strings = [*long[:2 if switched_on else 1],
                       *(each for each in strings if each not in long)]
        values = "" if action.nargs == 0 else " " + self._format_args(
            action, self._get_default_metavar_for_optional(action))
        return ", ".join(strings) + values

    def _get_help_string(self, action: argparse.Action) -> str:
        # Python 3.10 appends the default to the text of switches.
        text = (action.help or "").removesuffix(" (default: %(default)s)")
        silent = (action.default is None or action.default is False or not action.option_strings
                  or action.default == argparse.SUPPRESS or "default" in text)
        return text if silent else f"{text} (default: {_shown(action.default)})"


def _shown(default: Any) -> str:
    """A default as it is written on the command line; percent signs doubled for argparse."""
    if default is True:
        return "on"
    if isinstance(default, (list, tuple)):
        return " ".join(map(_shown, default)) or "none"
    return (f"{default:g}" if isinstance(default, float) else str(default)).replace("%", "%%")


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
    if kind is int and value >= 1 << 63:    # what torch and NumPy count with
        raise argparse.ArgumentTypeError(f"expected {what} below 2**63, got {text!r}")
    return value


def positive_int(text: str) -> int:
    return _number(text, int, 0, True, "a positive integer")


def count(text: str) -> int:
    return _number(text, int, 0, False, "a non-negative integer")


def positive(text: str) -> float:
    return _number(text, float, 0, True, "a positive number")


def non_negative(text: str) -> float:
    return _number(text, float, 0, False, "a non-negative number")


def add_memory_flag(group: Any) -> None:
    """The flag that `engine.entry.run` obeys."""
    group.add_argument("--max_image_memory", type=positive_int, default=1024, metavar="MIB",
                       help="refuse images that would take more memory than this to decode, by "
                            "what their headers say").rare = True


def anchors(text: str) -> tuple[tuple[int, int], ...] | None:
    """Two sides in pixels for each of three levels, written 16,32/64,128/256,512; auto is None."""
    if text == "auto":
        return None
    found = re.fullmatch("/".join([r"(\d{1,4}),(\d{1,4})"] * 3), text)
    sizes = [int(digits) for digits in found.groups()] if found else [0]
    if min(sizes) < 1:
        raise argparse.ArgumentTypeError("expected auto or three pairs of sizes in pixels like "
                                         f"16,32/64,128/256,512, got {text!r}")
    return tuple(zip(sizes[::2], sizes[1::2], strict=True))


def fraction(text: str) -> float:
    value = _number(text, float, 0, False, "a number from 0 to 1")
    if value > 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, got {text!r}")
    return value
