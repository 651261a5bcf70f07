"""What the entries share: logging, and user errors reported in one line."""
from __future__ import annotations

import logging
import sys
import traceback
from argparse import Namespace
from collections.abc import Callable

import torch

from engine import device as devices
from engine import distributed
from utils.images import memory

DEFECT = 1          # a traceback
BAD_INPUT = 2       # wrong options, files or data
WORKER_LOST = 5     # a worker process was killed, or stood still
INTERRUPTED = 130   # Ctrl-C where there was nothing to save


def set_up_logging(main: bool = True) -> None:
    """Plain lines on stdout; only warnings from ranks other than the main one."""
    if hasattr(sys.stdout, "reconfigure"):      # file names may hold what cannot be encoded
        sys.stdout.reconfigure(errors="backslashreplace")
    root = logging.getLogger("facezoo")
    root.handlers[:] = [logging.StreamHandler(sys.stdout)]
    root.handlers[0].setFormatter(_Formatter())
    root.setLevel(logging.INFO if main else logging.WARNING)
    root.propagate = False


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return text if record.levelno < logging.WARNING else f"{record.levelname.lower()}: {text}"


def open_device(opt: Namespace) -> torch.device:
    """The device that an entry's options name; see `engine.device.open_device`."""
    return devices.open_device(opt.device, npu_jit=opt.npu_jit, allow_hf32=opt.allow_hf32,
                               npu_strict=opt.npu_strict, deterministic=opt.deterministic)


def run(entry: Callable[[Namespace], int], opt: Namespace, name: str) -> int:
    """Run an entry's body and turn its exceptions into an exit status.

    ValueError and OSError are what our code raises for bad input: one line, to which --verbose
    adds the traceback. ChildProcessError stands for lost worker processes. Everything else is a
    defect and shows its traceback; it ends here, too, since a process that has used gloo must
    end by `engine.distributed.leave`.
    """
    if hasattr(opt, "max_image_memory"):
        memory.limit(opt.max_image_memory)
    try:
        return entry(opt)
    except (ValueError, OSError) as error:
        if getattr(opt, "verbose", False):
            traceback.print_exc()
        sys.stdout.flush()
        print(f"{name}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return WORKER_LOST if isinstance(error, ChildProcessError) else BAD_INPUT
    except distributed.FailedElsewhere:
        return BAD_INPUT
    except KeyboardInterrupt as interrupt:
        print(": ".join([name, "interrupted", *map(str, interrupt.args)]), file=sys.stderr)
        return INTERRUPTED
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
            return DEFECT
        return end.code or 0
    except Exception:
        traceback.print_exc()
        return DEFECT
