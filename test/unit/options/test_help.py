"""--help: quick, short, and complete as --help all."""
from __future__ import annotations

import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

import data
import models
import preparation
from options.base_options import BaseOptions
from options.enhance_options import EnhanceOptions
from options.evaluate_options import EvaluateOptions
from options.export_options import ExportOptions
from options.parser import OneLineParser
from options.sample_options import SampleOptions
from options.serve_options import ServeOptions
from options.train_options import TrainOptions

KINDS = (EnhanceOptions, EvaluateOptions, ExportOptions, SampleOptions, ServeOptions, TrainOptions)
COMMANDS = [path.name if path.parent == ROOT else f"tools.{path.stem}"
            for path in sorted([*ROOT.glob("*.py"), *(ROOT / "tools").glob("*.py")])
            if re.search(r"^if __name__ == .__main__.:", path.read_text(), flags=re.M)
            and path.stem != "probe"]       # which takes no options
TWO_SCREENS = 96
# Words for which the style guide has another one, and British spellings.
UNWANTED = re.compile(
    r"\b(pictures?|recipes?|shares?|least|critics?|enlarge[sd]?|outlines?|(?<!standard )deviations?"
    r"|grey|colour\w*|licence|centre\w*|\w*(normal|initial|color|optim|quant|equal)is(e|ing|ation)\w*"
    r")\b", re.IGNORECASE)


def help_of(capsys: pytest.CaptureFixture, kind: type[BaseOptions], *arguments: str) -> str:
    with pytest.raises(SystemExit) as stop:
        kind(models, data, "prog").parse(list(arguments))
    assert stop.value.code == 0
    return capsys.readouterr().out


def parser_of(kind: type[BaseOptions], **named: str) -> OneLineParser:
    """The parser of an entry with the flags of a model, a dataset and a degradation."""
    options, parser = kind(models, data, "prog"), OneLineParser(prog="prog")
    options.initialize(parser)
    options._add_plugin_flags(parser, {"model": "sparnet", **named})
    return parser


@cache
def parsers() -> dict[str, OneLineParser]:
    """Parsers that hold every flag of the entries, the plug-ins and the commands of prepare.py."""
    plugins = [*({"model": name} for name in models.names()),
               *({"dataset_name": name} for name in data.names()),
               *({"degradation": name} for name in data.degradation_names())]
    found = {f"{kind.__name__} {' '.join(named.values())}": parser_of(kind, **named)
             for kind in KINDS for named in plugins}
    for name in preparation.names():
        found[name] = OneLineParser(prog="prog")
        preparation.find(name).add_arguments(found[name])
    return found


@pytest.mark.parametrize("command", [*COMMANDS, "prepare.py crop", "newtrain.py --lr 1"])
def test_help_imports_no_torch(command: str) -> None:
    name, *arguments = command.split()
    run = "run_path" if name.endswith(".py") else "run_module"
    code = (f"import runpy, sys\nsys.argv = [{name!r}, *{arguments}, '--help']\ntry:\n"
            f"    runpy.{run}({name!r}, run_name='__main__')\n"
            f"finally:\n    print('torch' in sys.modules, 'cv2' in sys.modules)")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True,
                          timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: ")
    assert done.stdout.split()[-2] == "False"
    assert done.stdout.split()[-1] == "False" or command == "prepare.py crop"


@pytest.mark.parametrize("kind", KINDS)
def test_common_help_fits_two_screens(kind: type[BaseOptions], monkeypatch: pytest.MonkeyPatch,
                                      capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    lines = help_of(capsys, kind, "--help").splitlines()
    assert len(lines) <= TWO_SCREENS and max(map(len, lines)) <= 100
    assert len(lines[0]) <= 100 and lines[1] == ""      # usage is one line


def test_help_all_shows_every_flag() -> None:
    for name, parser in parsers().items():
        shown = re.findall(r"^ +(-.*?)(?:  |$)", parser.format_help(every_flag=True), flags=re.M)
        assert set(parser.flags()) == set(re.findall(r"--?\w[\w-]*", " ".join(shown))), name


def test_help_uses_the_fields_words() -> None:
    texts = {f"{name} --{action.dest}": action.help or "" for name, parser in parsers().items()
             for action in parser._actions}
    assert {name: text for name, text in texts.items()
            if not text or UNWANTED.search(text)} == {}


def test_rare_flags_and_other_spellings_are_shown_by_help_all_only(
        capsys: pytest.CaptureFixture) -> None:
    rare = ("--seed", "--init_gain", "--collective_timeout", "--learning_rate", "--no-debug")
    common, everything = (help_of(capsys, TrainOptions, *asked) for asked in (
        ("-h",), ("--help", "all")))
    assert [flag for flag in rare if flag in common] == []
    assert [flag for flag in rare if flag not in everything] == []


@pytest.mark.parametrize("kind", KINDS)
def test_help_without_a_model_says_how_to_see_a_models_flags(
        kind: type[BaseOptions], capsys: pytest.CaptureFixture) -> None:
    assert "--model NAME --help" in help_of(capsys, kind, "--help").splitlines()[-1]


def test_help_shows_the_flags_of_a_model_that_a_config_names(
        tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({"model": "gfpgan", "lambda_id": 3.5}))
    text = help_of(capsys, TrainOptions, "--config", str(path), "--help")
    assert "--lambda_id VALUE" in text and "(default: 3.5)" in text
    assert "--model NAME --help" not in text


def test_help_shows_the_flags_of_a_dataset_without_a_model(capsys: pytest.CaptureFixture) -> None:
    text = help_of(capsys, TrainOptions, "--help", "--dataset_name", "folder", "--degradation",
                   "bicubic")
    assert "--lq_dataroot" in text and "--scale_factor" in text and "--res_depth" not in text


def test_prepare_lists_its_commands_as_they_describe_themselves() -> None:
    for name in preparation.names():
        assert preparation.summary(name) == preparation.find(name).__doc__.splitlines()[0]
