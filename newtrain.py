"""Train a restoration network: python newtrain.py --model sparnet --scale_factor 8 --dataroot DIR

Everything about the task is in the model (models/<name>_model.py); this file is the loop.
"""
from __future__ import annotations

import os

# Before torch: an installed torch_npu must not be loaded on machines without a usable NPU.
os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")

import data
import models
from options.train_options import TrainOptions

# Parsed before the imports that take seconds, so that --help answers at once.
if __name__ == "__main__":
    options = TrainOptions(models, data, "newtrain.py").parse()

import logging
import math
import signal
import sys
import time
import zlib
from argparse import Namespace
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from data.base_dataset import BadImageCounter, BaseDataset
from data.degradation_preview import degradation_grid
from data.loader import STOP_SIGNALS, create_eval_loader, create_train_loader
from data.sampler import StepBatchSampler
from data.watched_loader import Lost
from engine import checkpoint, distributed, entry, run_folder
from engine import device as devices
from engine.prefetch import Prefetcher
from engine.training_log import (
    LossWindow,
    Progress,
    SpeedMeter,
    check_tensorboard,
    clock,
    spaced,
)
from metrics.evaluation import Column, evaluate_loader, extra_metrics, means
from metrics.psnr_ssim import PROTOCOLS
from options.base_options import summary, to_yaml
from options.layers import NOT_SAVED
from utils import lock
from utils.files import to_json, write_text
from utils.images.convert import image_grid, to_image
from utils.images.io import write_image
from utils.text import counted

logger = logging.getLogger("facezoo")
STOPPED = 75        # exit status after a signal: everything saved, --continue_train goes on
# Agreeing costs a wait for the device; launchers kill 30 s after the signal.
STOP_CHECK_SECONDS = 2
REPEAT_SECONDS = 3      # in which a second signal is taken for a copy of the first
LARGEST_FP16 = 65504.0
DIVERGED = 4        # exit status when too many losses were not finite
# Options that say where and how a run goes on, not what it is.
NOT_COMPARED = (*NOT_SAVED, "checkpoints_dir", "config")


class Diverged(Exception):
    """Too many steps with a non-finite loss."""


class StopSignal:
    """Notes a signal to stop for the end of the running step; a second one ends at once.

    A second one does nothing while files are written, and within REPEAT_SECONDS: launchers pass
    on what their processes have received themselves. SIGHUP stays ignored where nohup has it so.
    """

    def __init__(self) -> None:
        self.name, self.noted, self.saving = "", 0.0, False
        for number in STOP_SIGNALS:
            if number.name != "SIGHUP" or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._note)

    def _note(self, number: int, frame: Any) -> None:
        now = time.monotonic()
        if not self.name:
            self.name, self.noted = signal.Signals(number).name, now
        elif not self.saving and now - self.noted > REPEAT_SECONDS:
            raise KeyboardInterrupt

    @contextmanager
    def wait_for_files(self) -> Iterator[None]:
        """Inside, a second signal does not end the process."""
        self.saving = True
        try:
            yield
        finally:
            self.saving = False


class Trainer:
    """One run: data, model, and the loop over optimizer steps."""

    def __init__(self, opt: Namespace, device: torch.device, stop: StopSignal,
                 dataset: BaseDataset, val_dataset: BaseDataset) -> None:
        self.opt, self.device, self.stop = opt, device, stop
        self.dataset, self.val_dataset = dataset, val_dataset
        # Links are resolved now: what they lead to may be deleted while the run goes on.
        self.folder = Path(os.path.realpath(folder_of(opt)))
        self.saved: int | None = None       # the last step that can be continued
        # Another number for other validation images.
        self.validation = zlib.crc32(
            repr(list(val_dataset.items)).encode(errors="backslashreplace"))
        self.began = time.perf_counter()
        self.best: float | None = None
        self.bad_images = BadImageCounter(opt.max_bad_images, (
            len(self.dataset) + len(self.val_dataset)) // distributed.world_size())
        self.model = models.create(opt, device)
        state = self._find_state() if opt.continue_train else None
        self.sampler = StepBatchSampler(
            len(self.dataset), opt.batch_size * opt.accumulate, opt.seed,
            shuffle=not opt.serial_batches, rank=distributed.rank(),
            world_size=distributed.world_size())
        self.total_steps = opt.train_steps or opt.total_epochs * self.sampler.steps_per_epoch
        self.visual_freq = spaced(opt.visual_freq, self.total_steps, opt.max_visuals)
        self.model.setup(state)
        if distributed.world_size() > 1:    # equal weights on every rank, but noise of its own
            devices.seed_everything(opt.seed + 1_000_003 * distributed.rank(), device)
        self.step = self._restore_position(state) if state else 0
        self.sampler.start_step, self.sampler.total_steps = self.step, self.total_steps
        self.warmup = min(opt.warmup_steps, max(0, self.total_steps - self.step) // 2)
        self.speed = SpeedMeter(device, self.warmup)
        self.window, self.bad_steps = LossWindow(), self.model.bad_steps()
        self.stop_check = 1         # steps between agreements of all processes to stop
        self.losses: dict[str, float] = {}
        self.validated: dict[str, float] = {}
        self.lost: Lost | None = None       # why a rank's loader workers deliver no more

    # -- resuming ---------------------------------------------------------------------------------

    def _find_state(self) -> dict[str, Any] | None:
        state = checkpoint.load_state(self.folder)
        if state is None:
            state = checkpoint.load_published_state(
                self.folder, "latest", list(self.model.weights()), self.model.optimizer_names())
        if state is None:
            logger.info("nothing to continue in %s; starting at step 1", self.folder)
        elif state.get("model", self.opt.model) != self.opt.model:
            raise ValueError(f"--continue_train: {self.folder} was trained with --model "
                             f"{state['model']}, not {self.opt.model}; choose another --name")
        elif "published" in state:
            distributed.on_main(lambda: run_folder.keep_originals(self.folder))
        return state

    def _restore_position(self, state: dict[str, Any]) -> int:
        per_epoch = self.sampler.steps_per_epoch
        if "published" in state:
            step = state["published"]["epoch"] * per_epoch + state["published"]["iter"]
        else:
            step = state["step"]
            if state["steps_per_epoch"] != per_epoch:
                step = round(step / state["steps_per_epoch"] * per_epoch)
                logger.warning("an epoch has %d steps now instead of %d (other data, batch size "
                               "or number of cards); going on at the same epoch, step %d",
                               per_epoch, state["steps_per_epoch"], step)
            ranks = state["rng"]
            devices.set_rng_state(self.device, ranks[distributed.rank() % len(ranks)])
            self.best = self._best_of(state, step)
        self.saved = step
        logger.info("continuing after step %d, epoch %d", step, step // per_epoch + 1)
        return step

    def _best_of(self, state: dict[str, Any], step: int) -> float | None:
        """What the best weights of a state reached; None where this run measures something else.

        Says which options have changed.
        """
        before, options = state.get("options", {}), vars(self.opt)
        changed = run_folder.changed(before, options, NOT_COMPARED)
        for name in changed:
            logger.info("changed since step %d: --%s is %s, it was %s", step, name, options[name],
                        before[name])
        task = data.option_names(self.opt.dataset_name, self.opt.degradation)
        if "validation" in state:       # known itself, wherever it lies now
            task -= {"dataroot", "val_dataroot"}
        if task.isdisjoint(changed) and state.get("validation") in (None, self.validation):
            return state["best"]
        if distributed.on_main(lambda: run_folder.keep_best(self.folder, step)):
            logger.info("this run validates on another task, so it looks for its own best; the "
                        "earlier weights are kept as best_before_step_%d", step)
        return None

    # -- the loop ---------------------------------------------------------------------------------

    def run(self) -> str:
        """Train to the last step, to a signal or the loss of loader workers; returns which."""
        opt, model = self.opt, self.model
        self.loader = create_train_loader(
            self.dataset, self.sampler, num_threads=opt.num_threads, seed=opt.seed,
            pin_memory=devices.pins_memory(self.device))
        self.batches = Prefetcher(self.loader, self.device, model.prepare)
        self.progress = Progress(self.folder, self.step, self.total_steps, opt.tensorboard)
        self.reported, self.report_time, self.report_wait = self.step, time.perf_counter(), 0.0
        model.train()
        self.speed.resume()
        try:
            for batch in self.batches:
                self.bad_images.add(batch["bad"])
                if not batch["path"]:
                    raise ValueError(f"every image drawn for step {self.step + 1} is unreadable: "
                                     f"{'; '.join(batch['bad'][:3])}")
                self._train_step(batch)
                if self.step == self.sampler.start_step + 1:
                    self._announce()
                interrupted = self._stop_requested()
                self._after_step(interrupted)
                if interrupted:
                    self.stop.saving = True     # all is saved; what is left takes no time
                    self.lost = next(filter(None, distributed.gather_from_ranks(
                        self.loader.lost)), None)
                    return (self.lost.cause if self.lost else
                            self.stop.name or "another rank's signal")
        finally:
            self.progress.close()
        return ""

    def _train_step(self, batch: dict[str, Any]) -> None:
        self.step += 1
        self.model.start_step(self.step, self.sampler.steps_per_epoch, self.total_steps)
        self.window.add(self.model.run_step(batch))
        self.speed.count_step()

    def _due(self, every: int, last: bool = True) -> bool:
        """Whether something that happens every so many steps, 0 for never, happens now."""
        return bool(every) and (self.step % every == 0 or (last and self.step == self.total_steps))

    def _after_step(self, interrupted: bool) -> None:
        opt = self.opt
        last = self.step == self.total_steps
        if self._due(opt.print_freq) or interrupted:
            self._report()
        images, validation = self._due(self.visual_freq, last=False), self._due(opt.eval_freq)
        numbered = self._due(opt.save_iter_freq, last=False)
        per_epoch = self.sampler.steps_per_epoch
        epoch_end = self._due(opt.save_epoch_freq * per_epoch, last=False)
        saving = self._due(opt.save_latest_freq) or last or interrupted
        if not (images or validation or numbered or epoch_end or saving):
            return
        self.speed.pause()
        paused = time.perf_counter()
        if images:
            self._show_images()
        if validation and not interrupted:
            self._validate()
        if numbered:
            self._save_weights(f"iter_{self.step}")
        if epoch_end:
            self._save_weights(f"epoch_{self.step // per_epoch}")
        if saving or numbered or epoch_end:
            self._save()
        self.speed.resume()
        self.report_time += time.perf_counter() - paused

    def _stop_requested(self) -> bool:
        """Whether to leave after this step; several processes agree, every STOP_CHECK_SECONDS."""
        last = self.step == self.total_steps
        wanted = bool(self.stop.name) or (self.loader.lost is not None and not last)
        if distributed.world_size() == 1:
            return wanted
        return ((last or self.step % self.stop_check == 0)
                and distributed.any_rank(wanted, self.device))

    # -- reporting --------------------------------------------------------------------------------

    def _announce(self) -> None:
        """Say after the first step how it goes: the first line may be minutes away on a CPU."""
        devices.synchronize(self.device)
        every = self.opt.print_freq
        self.progress.say(f"the first step took {time.perf_counter() - self.report_time:.1f} s "
                          f"including loading; progress is printed every "
                          f"{'step' if every == 1 else f'{every} steps'}")

    def _report(self) -> None:
        """Print one line; this is where the host waits for the device."""
        opt, steps = self.opt, self.step - self.reported
        if not steps:
            return
        now, wait = time.perf_counter(), self.batches.wait_seconds
        spent = max(now - self.report_time, 1e-9)
        self.losses, (elapsed, waited) = self.window.take(spent, wait - self.report_wait)
        self.stop_check = max(1, min(opt.print_freq, int(STOP_CHECK_SECONDS * steps / elapsed)))
        norms = self.model.gradient_norms()
        self._check(norms)
        images = steps * opt.batch_size * opt.accumulate * distributed.world_size()
        self.progress.step({
            "step": self.step, "epoch": self.sampler.epoch_of(self.step - 1) + 1,
            "loss": sum(self.losses.values()), "losses": self.losses,
            "learning_rate": self.model.learning_rates(), "gradient_norm": norms,
            "seconds_per_step": elapsed / steps, "fps": images / elapsed,
            "data_wait": min(1.0, waited / elapsed),
            "peak_memory": devices.peak_memory(self.device)})
        self.reported, self.report_time, self.report_wait = self.step, now, wait

    def _check(self, norms: dict[str, float]) -> None:
        """Count the steps with a non-finite loss; too many mean that training has diverged.

        First-generation Ascend chips turn overflow into the largest number, so there a finite loss
        proves nothing and the gradients are looked at.
        """
        if devices.overflow_saturates(self.device) and max(norms.values()) >= LARGEST_FP16:
            raise Diverged(f"the gradient norm has reached {max(norms.values()):.3g} at step "
                           f"{self.step}: overflow on this chip. Lower --loss_scale or --lr, or "
                           f"use --opt_level O1")
        found = self.model.bad_steps()
        if found > self.bad_steps:
            self.progress.say(
                f"warning: {counted(found - self.bad_steps, 'step')} up to step {self.step} had a "
                f"non-finite loss and no effect where the device allows it; {found} so far, "
                f"--max_bad_steps is {self.opt.max_bad_steps}")
            self.bad_steps = found
        if found > self.opt.max_bad_steps:
            raise Diverged(
                f"training has diverged: {counted(found, 'step')} had a non-finite loss, "
                f"--max_bad_steps {self.opt.max_bad_steps} allows fewer. Lower --lr, set "
                f"--grad_clip 1, use --loss_scale dynamic, --opt_level O1 or O0; {self.intact()}")

    def _validation_batches(self, indices: range) -> Any:
        dataset = torch.utils.data.Subset(self.val_dataset, indices)
        loader = create_eval_loader(dataset, batch_size=min(self.opt.batch_size, 16))
        for batch in Prefetcher(loader, self.device, self.model.prepare):
            self.bad_images.add(batch["bad"])
            if batch["path"]:
                yield batch

    def _validate(self) -> None:
        """Quality on the held-out part, shared among the processes; the best weights so far
        are kept."""
        if not len(self.val_dataset) or self.model.best_by is None:     # nothing to compare with
            return
        self.model.share_buffers()
        self.model.eval()
        protocol = PROTOCOLS["published"]
        batches = self._validation_batches(distributed.share(len(self.val_dataset)))
        mine = [row for row, _ in evaluate_loader(self.model.restore, batches, [protocol],
                                                  self.model.measure)]
        self.model.train()
        rows = [row for part in distributed.gather_from_ranks(mine) for row in part]
        mean = means(rows)
        values = {f"{metric}{suffix}": mean[Column(method, metric, protocol.name)]
                  for metric in ("psnr", "ssim")
                  for method, suffix in (("restored", ""), ("bicubic", "_bicubic"))}
        if math.isinf(values["psnr_bicubic"]):      # inputs are targets: nothing is restored
            values.clear()
        extra = extra_metrics(mean)
        values.update(extra)
        reached = values.get(self.model.best_by, math.nan)
        best = math.isfinite(reached) and (self.best is None or reached > self.best)
        self.validated = values
        self.progress.validation(self.step, values, extra, best)
        if best:
            self.best = reached
            self._save_weights("best")
        distributed.barrier()

    def _show_images(self) -> None:
        if not (self.progress.writer and len(self.val_dataset)):
            return
        self.model.eval()
        batch = next(self._validation_batches(range(min(4, len(self.val_dataset)))), None)
        if batch is not None:
            with torch.inference_mode():
                restored = to_image(self.model.restore(batch["lq"]))
            rows = list(zip(to_image(batch["lq"]), restored, to_image(batch["gt"]), strict=True))
            self.progress.image("lq_restored_gt", image_grid(rows), self.step)
        self.model.train()

    # -- saving -----------------------------------------------------------------------------------

    def _save_weights(self, suffix: str) -> None:
        with self.stop.wait_for_files():
            distributed.on_main(lambda: self._write_weights(suffix))

    def _write_weights(self, suffix: str) -> None:
        checkpoint.save_weights(self.folder, suffix, self.model.weights(), self.model.file_keys)
        checkpoint.prune(self.folder, self.opt.keep_last)

    def _save(self) -> None:
        """Write the weights and the resumable state, unless the weights are ruined."""
        rng = distributed.gather_from_ranks(devices.rng_state(self.device))
        with self.stop.wait_for_files():
            self.saved = distributed.on_main(lambda: self._write_state(rng))

    def _write_state(self, rng: list[Any]) -> int | None:
        """Write everything to go on from this step; the last step that can be continued."""
        if not self.model.weights_are_finite():
            self.progress.say(f"warning: not saving at step {self.step}, weights are not finite; "
                              f"the files keep an earlier step")
            return self.saved
        self._write_weights("latest")
        checkpoint.save_state(self.folder, {
            **self.model.state_dict(), "model": self.opt.model, "step": self.step,
            "steps_per_epoch": self.sampler.steps_per_epoch, "rng": rng, "best": self.best,
            "validation": self.validation, "options": dict(vars(self.opt))})
        run_folder.state_is_saved(self.folder)
        if not (self.folder / run_folder.OPTIONS).exists():     # the folder was deleted
            write_text(self.folder / run_folder.OPTIONS, to_yaml(self.opt))
        return self.step

    def intact(self) -> str:
        """What an error leaves of the run, for its message."""
        if self.saved is None:
            return "nothing of this run is saved yet"
        return f"step {self.saved} is saved and intact; --continue_train goes on from there"

    def result(self) -> dict[str, Any]:
        """The figures the launch scripts report, all measured in this run."""
        per_step = self.speed.seconds_per_step()
        world = distributed.world_size()
        return {"model": self.opt.model, "step": self.step, "steps_timed": self.speed.steps,
                "fps": (self.opt.batch_size * self.opt.accumulate * world / per_step
                        if per_step else None),
                "sec_per_step": per_step, "warmup": self.warmup,
                "batch_size": self.opt.batch_size, "accumulate": self.opt.accumulate,
                "world_size": world,
                "device": self.device.type, "device_name": devices.name_of(self.device),
                "opt_level": self.model.precision.opt_level,
                "precision": self.model.precision.describe(),
                "losses": self.losses, "loss": sum(self.losses.values()) if self.losses else None,
                **self.validated,
                **({f"best_{self.model.best_by}": self.best} if self.model.best_by else {}),
                "bad_steps": self.bad_steps, "bad_images": len(self.bad_images),
                "peak_memory": devices.peak_memory(self.device),
                "seconds": time.perf_counter() - self.began}


def folder_of(opt: Namespace) -> Path:
    """The folder of the run."""
    return Path(opt.checkpoints_dir) / opt.name


def prepare_folder(opt: Namespace) -> None:
    """Make the run's folder with its options; an earlier run is moved aside, never lost."""
    run_folder.prepare(folder_of(opt), opt.continue_train,
                       [value for value in vars(opt).values() if value and isinstance(value, str)])
    write_text(folder_of(opt) / run_folder.OPTIONS, to_yaml(opt))


def datasets_of(opt: Namespace) -> tuple[BaseDataset, BaseDataset]:
    """The images to train on and those to validate on.

    Raises:
        ValueError: there are none, or they have no targets.
    """
    train, val = (data.create_dataset(opt.dataset_name, split, opt.degradation, vars(opt))
                  for split in ("train", "val"))
    if not train.has_targets:
        raise ValueError(f"--dataset_name must be a dataset with targets, got {opt.dataset_name}")
    return train, val


def check_files(opt: Namespace) -> None:
    """Raise ValueError for weights that are not there, before networks are built."""
    for name, value in vars(opt).items():
        if name.endswith("_weights") and value and value != checkpoint.RANDOM and not (
                Path(value).is_file()):
            raise ValueError(f"--{name}: checkpoint {value} does not exist")


def preview(opt: Namespace) -> int:
    """Write the image of --preview_degradation instead of training; returns the exit status."""
    dataset = data.create_dataset(opt.dataset_name, "train", opt.degradation, vars(opt))
    write_image(opt.preview_degradation, degradation_grid(dataset))
    logger.info("what the network will see is in %s", opt.preview_degradation)
    return 0


def train(opt: Namespace) -> int:
    """The run that the options describe; returns the exit status."""
    distributed.adopt_modelzoo_environment()
    if opt.local_rank is not None:
        os.environ.setdefault("LOCAL_RANK", str(opt.local_rank))
    entry.set_up_logging(main=os.environ.get("RANK", "0") == "0")
    if opt.preview_degradation:
        return preview(opt)
    check_files(opt)
    if opt.tensorboard:
        check_tensorboard()
    stop = StopSignal()
    datasets = datasets_of(opt)     # refused before anything is printed, moved or made
    logger.info("%s", summary(opt))
    if opt.dataset_name == "synthetic":
        logger.info("training on embedded synthetic faces; give your own with --dataroot DIR")
    device = entry.open_device(opt)
    distributed.start(device, opt.collective_timeout)
    devices.seed_everything(opt.seed, device)
    with ExitStack() as lasting:
        distributed.on_main(lambda: lasting.enter_context(
            lock.held(folder_of(opt), f"--name {opt.name}: the run {folder_of(opt)}")))
        distributed.on_main(lambda: prepare_folder(opt))
        status = conclude_run(Trainer(opt, device, stop, *datasets))
    distributed.stop()
    return status


def conclude_run(trainer: Trainer) -> int:
    """Train and report; returns the exit status. What ends the run says what is saved."""
    try:
        return conclude(trainer, trainer.run())
    except Diverged as error:       # noticed by every process at once
        print(f"newtrain.py: error: {error}", file=sys.stderr)
        return DIVERGED
    except OSError as error:        # a full disk, for example
        where = f": {error.filename}" if error.filename else ""
        raise OSError(f"stopped at step {trainer.step}, {error.strerror or error}{where}; "
                      f"{trainer.intact()}") from error
    except KeyboardInterrupt:
        raise KeyboardInterrupt(trainer.intact()) from None


def conclude(trainer: Trainer, interrupted: str) -> int:
    """Write result.json and the closing lines; returns the exit status."""
    if trainer.sampler.start_step >= trainer.total_steps:
        logger.info("nothing left to do: the run stands at step %d of %d", trainer.step,
                    trainer.total_steps)
        return 0
    trainer.speed.pause()
    result = {**trainer.result(), "interrupted": interrupted}
    if distributed.is_main():
        write_text(trainer.folder / "result.json", to_json(result) + "\n")
    if trainer.lost:
        if distributed.is_main():
            print(f"newtrain.py: error: {trainer.lost.cause}; step {trainer.step} is saved; go on "
                  f"with --continue_train and {trainer.lost.remedy}", file=sys.stderr)
        return entry.WORKER_LOST
    if interrupted:
        logger.info("stopped by %s after step %d; everything is saved, go on with "
                    "--continue_train", interrupted, trainer.step)
        return STOPPED
    logger.info("finished step %d in %s; weights and result.json are in %s", trainer.step,
                clock(result["seconds"]), trainer.folder)
    for label, key in (("images/sec", "fps"), ("sec/step", "sec_per_step"), ("loss", "loss"),
                       ("PSNR (Y)", "psnr"), ("SSIM (Y)", "ssim")):
        if result.get(key) is not None:
            logger.info("final %s: %.4f", label, result[key])
    return 0


if __name__ == "__main__":
    distributed.leave(entry.run(distributed.recorded(train), options, "newtrain.py"))
