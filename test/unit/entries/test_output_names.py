"""Every input of enhance.py has outputs of its own."""
from __future__ import annotations

from pathlib import Path

import pytest

import enhance
from utils.images.names import folder_beside, output_stems

ROOT = Path("in")


@pytest.mark.parametrize("names", [
    ["a.png", "a.jpg", "a.png.jpg"], ["a.png", "a.jpg"], ["a.jpg", "A.png"],
    ["s/a.png", "s/a.gif", "a.gif"], ["a.b.png", "a.b.jpg", "a.b", "a.b.png.gif"],
    ["x.png.png", "x.png"], ["a.png", "a.gif", "a.gif.tif"]])
@pytest.mark.parametrize("ext", ["png", "same"])
def test_no_two_inputs_share_an_output(names: list[str], ext: str) -> None:
    inputs = [ROOT / name for name in names]
    stems = output_stems(ROOT, inputs)
    results = enhance.output_paths(ROOT, inputs, Path("out"), ext)
    for written in (stems, [str(path) for path in results]):
        assert len({name.casefold() for name in written}) == len(names)


def test_a_name_is_as_short_as_it_can_be() -> None:
    inputs = [ROOT / name for name in ("b.jpg", "a.png", "a.jpg", "a.png.jpg")]
    assert output_stems(ROOT, inputs) == ["b", "a.png", "a.jpg", "a.png.jpg"]


def test_two_results_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="two inputs have the same result"):
        enhance.refuse_overwriting([], [tmp_path / "a.png", tmp_path / "a.png"])


@pytest.mark.parametrize("results, name", [
    (["a.png"], "compare"), (["Compare/a.png"], "compare_2"),
    (["compare/a.png", "compare_2/b.png"], "compare_3"), (["x/compare/a.png"], "compare")])
def test_a_folder_beside_the_results_holds_none_of_them(results: list[str], name: str) -> None:
    out = Path("out")
    assert folder_beside([out / result for result in results], out, "compare") == out / name
