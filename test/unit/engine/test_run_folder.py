"""Nothing in a run's folder is overwritten that the run has not written itself."""
from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from engine import run_folder


def fill(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_text(f"{folder.name}/{name}")
    return folder


def asides(folder: Path) -> list[Path]:
    return [path for path in folder.parent.iterdir()
            if re.fullmatch(rf"{folder.name}\.\d{{8}}-\d{{6}}(-\d+)?", path.name)]


@pytest.mark.parametrize("name", ["latest_net_G.pth", "metrics.jsonl", "tensorboard", "notes.txt",
                                  "weights.safetensors"])
def test_a_new_run_moves_whatever_is_there_aside(tmp_path: Path, name: str) -> None:
    folder = fill(tmp_path / "run", name, "train_opt.yaml")
    run_folder.prepare(folder, continuing=False)
    assert not (folder / name).exists()
    assert [(path / name).read_text() for path in asides(folder)] == [f"run/{name}"]


def test_two_runs_within_a_second_are_both_kept(tmp_path: Path) -> None:
    for _ in range(3):
        run_folder.prepare(fill(tmp_path / "run", "latest_net_G.pth"), continuing=False)
    assert len(asides(tmp_path / "run")) == 3


def test_a_start_that_saved_nothing_leaves_nothing_aside(tmp_path: Path) -> None:
    folder = fill(tmp_path / "run", "train_opt.yaml", ".latest_state.pth.x.tmp")
    run_folder.prepare(folder, continuing=False)
    assert asides(folder) == []
    assert sorted(os.listdir(folder)) == [".started", "train_opt.yaml"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    real = fill(tmp_path / "disk" / "real", "latest_net_G.pth")
    (tmp_path / "run").symlink_to(real)
    run_folder.prepare(tmp_path / "run", continuing=False)
    assert (tmp_path / "run").is_symlink() and real.is_dir()
    assert [path.name for path in asides(real)[0].iterdir()] == ["latest_net_G.pth"]


def test_a_link_to_nothing_gets_its_folder(tmp_path: Path) -> None:
    (tmp_path / "run").symlink_to(tmp_path / "gone" / "real")
    run_folder.prepare(tmp_path / "run", continuing=False)
    assert (tmp_path / "run").is_symlink() and (tmp_path / "gone" / "real").is_dir()


def test_the_contents_of_a_folder_that_cannot_be_moved_are(tmp_path: Path,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    folder, replace = fill(tmp_path / "run", "latest_net_G.pth"), os.replace

    def refuse_folders(source: Path, target: Path) -> None:
        if source == folder:
            raise OSError(16, "Device or resource busy")    # a mount point
        replace(source, target)
    monkeypatch.setattr(os, "replace", refuse_folders)
    for _ in range(2):
        fill(folder, "latest_net_G.pth")
        run_folder.prepare(folder, continuing=False)
    assert len(list(folder.glob("earlier.*/latest_net_G.pth"))) == 2
    assert not (folder / "latest_net_G.pth").exists()


def test_what_the_options_name_is_not_moved_away(tmp_path: Path) -> None:
    folder = fill(tmp_path / "run", "latest_net_G.pth")
    with pytest.raises(ValueError, match=r"--name run would move .*latest_net_G.pth with it"):
        run_folder.prepare(folder, False, ["sparnet", str(folder / "latest_net_G.pth")])
    assert asides(folder) == []


@pytest.mark.parametrize("names", [("latest_net_G.pth",), ("best_net_G.pth", "train_opt.yaml"),
                                   ("epoch_3_net_G.pth", "latest.info")])
def test_weights_without_a_state_are_not_continued(tmp_path: Path, names: tuple[str, ...]) -> None:
    folder = fill(tmp_path / "got", *names)
    with pytest.raises(ValueError, match=f"{names[0]}.* no training state.*--pretrain_model_path"):
        run_folder.prepare(folder, continuing=True)
    assert sorted(os.listdir(folder)) == sorted(names)


def test_a_misspelled_run_is_refused_with_those_there_are(tmp_path: Path) -> None:
    fill(tmp_path / "base", "train_opt.yaml")
    fill(tmp_path / "other", "latest.info")
    fill(tmp_path / "tensorboard", "events")
    with pytest.raises(ValueError, match=r"no run bsae in .*, only base, other; leave"):
        run_folder.prepare(tmp_path / "bsae", continuing=True)


def test_where_there_are_no_runs_continuing_starts_one(tmp_path: Path) -> None:
    fill(tmp_path / "images", "a.png")
    run_folder.prepare(tmp_path / "run", continuing=True)
    assert (tmp_path / "run").is_dir()


def test_a_run_killed_before_its_first_state_starts_again(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run_folder.prepare(folder, continuing=True)
    fill(folder, "train_opt.yaml", "best_net_G.pth")
    run_folder.prepare(folder, continuing=True)
    assert not (folder / "best_net_G.pth").exists()
    assert [(path / "best_net_G.pth").exists() for path in asides(folder)] == [True]


def test_after_its_first_state_a_run_is_no_longer_a_start(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run_folder.prepare(folder, continuing=True)
    fill(folder, "latest_net_G.pth", "latest_state.pth")
    run_folder.state_is_saved(folder)
    run_folder.prepare(folder, continuing=True)
    (folder / "latest_state.pth").unlink()      # by its user, to save space
    with pytest.raises(ValueError, match="no training state"):
        run_folder.prepare(folder, continuing=True)


def test_the_files_of_the_original_repository_keep_a_second_name(tmp_path: Path) -> None:
    names = ("latest_net_G.pth", "latest_opts.pth", "latest.info")
    folder = fill(tmp_path / "run", *names)
    run_folder.prepare(folder, continuing=True)
    run_folder.keep_originals(folder)
    temporary = folder / "new"
    temporary.write_text("this run's")
    os.replace(temporary, folder / "latest_net_G.pth")
    kept = next(folder.glob("original.*"))
    assert sorted(os.listdir(kept)) == sorted(names)
    assert (kept / "latest_net_G.pth").read_text() == "run/latest_net_G.pth"


def test_the_best_of_another_task_keeps_its_weights(tmp_path: Path) -> None:
    folder = fill(tmp_path / "run", "best_net_G.pth", "best_net_H.pth", "latest_net_G.pth")
    assert run_folder.keep_best(folder, 7)
    assert sorted(os.listdir(folder)) == ["best_before_step_7_net_G.pth",
                                          "best_before_step_7_net_H.pth", "latest_net_G.pth"]
    assert not run_folder.keep_best(folder, 7)


def test_changed_options_are_those_both_sides_know(tmp_path: Path) -> None:
    saved = {"lr": 1e-4, "seed": 1, "sizes": (1, 2), "gone": 3, "name": "a"}
    now = {"lr": 2e-4, "seed": 1, "sizes": [1, 2], "new": 4, "name": "b"}
    assert run_folder.changed(saved, now, ("name",)) == ["lr"]
