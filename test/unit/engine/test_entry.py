"""Exit statuses and messages of whatever an entry's body raises."""
from __future__ import annotations

from argparse import Namespace

import pytest

from engine import entry


def raising(error: BaseException):
    def body(opt: Namespace) -> int:
        raise error
    return body


@pytest.mark.parametrize("error, status", [
    (ValueError("two\nlines"), 2), (FileNotFoundError("two\nlines"), 2),
    (ChildProcessError("two\nlines"), 5)])
def test_what_the_user_can_change_is_one_line(error: Exception, status: int,
                                              capsys: pytest.CaptureFixture) -> None:
    assert entry.run(raising(error), Namespace(), "work.py") == status
    assert capsys.readouterr().err == "work.py: error: two lines\n"


def test_a_defect_shows_its_traceback(capsys: pytest.CaptureFixture) -> None:
    assert entry.run(raising(KeyError("gone")), Namespace(), "work.py") == 1
    said = capsys.readouterr().err
    assert said.startswith("Traceback") and said.endswith("KeyError: 'gone'\n")


@pytest.mark.parametrize("code, status", [(2, 2), (0, 0), (None, 0), ("why", 1)])
def test_leaving_early_keeps_its_status(code: int | str | None, status: int,
                                        capsys: pytest.CaptureFixture) -> None:
    assert entry.run(raising(SystemExit(code)), Namespace(), "work.py") == status
    assert capsys.readouterr().err == ("why\n" if code == "why" else "")


def test_interrupting_is_one_line(capsys: pytest.CaptureFixture) -> None:
    assert entry.run(raising(KeyboardInterrupt()), Namespace(), "work.py") == 130
    assert capsys.readouterr().err == "work.py: interrupted\n"
