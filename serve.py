"""Restore images over HTTP: python serve.py --name RUN, then open http://127.0.0.1:8000

POST an image to /v1/restore, or drop it on the page; see docs/serve.md. Needs
requirements-serve.txt.
"""
from __future__ import annotations

import os

# Before torch: an installed torch_npu must not be loaded on machines without a usable NPU.
os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")

import data
import models
from options.serve_options import LOOPBACK, ServeOptions

# Parsed before the imports that take seconds, so that --help answers at once.
if __name__ == "__main__":
    options, per_model = ServeOptions(models, data, "serve.py").parse_all()

import logging
import signal
import socket
import sys
from argparse import Namespace
from importlib.util import find_spec
from ipaddress import ip_address
from typing import Any

import cv2
import torch

import inference
from engine import entry

logger = logging.getLogger("facezoo")
PACKAGES = {"starlette": "starlette", "uvicorn": "uvicorn", "python_multipart": "python-multipart",
            "prometheus_client": "prometheus-client"}
GRACE = 5       # seconds beyond --timeout for answers to be sent when stopping


def check_packages() -> None:
    """Raise ValueError where requirements-serve.txt is not installed."""
    missing = [name for module, name in PACKAGES.items() if find_spec(module) is None]
    if missing:
        raise ValueError(f"serve.py needs {' and '.join(missing)}; "
                         "run pip install -r requirements-serve.txt")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def bind(host: str, port: int) -> socket.socket:
    """A socket bound to that address, not listening yet.

    Raises:
        ValueError: the address does not exist, or the port is taken.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except (OSError, UnicodeError) as error:
        raise ValueError(f"serve.py cannot listen on --host {host} --port {port}: "
                         f"{getattr(error, 'strerror', '') or error}") from error
    return bound


def split_cores(workers: int | None) -> int:
    """Number of worker threads; the network's operators get the cores they leave."""
    cores = torch.get_num_threads()
    workers = workers or max(1, cores // 4)
    torch.set_num_threads(max(1, cores - workers))
    cv2.setNumThreads(1)        # the workers run in parallel already
    return workers


def open_model(name: str, opt: Namespace, device: torch.device) -> Any:
    """The network that the options name, ready to restore."""
    from serving.service import Model
    settings = inference.paste_settings(opt)    # before the network, which takes long
    restorer = inference.open_restorer(opt, device)
    mask = inference.open_mask(opt, device)
    return Model(name, opt.model, restorer, settings, mask, opt.min_face, opt.max_faces,
                 opt.only_center_face, opt.strip_metadata)


def open_service(opt: Namespace, tables: dict[str, Namespace], workers: int) -> Any:
    """Load the networks and detectors, and run each once."""
    from serving.limits import Limits
    from serving.service import Service
    device = entry.open_device(opt)
    detectors = [inference.open_detector(opt, device) for _ in range(workers)]
    opened = {name: open_model(name, each, device) for name, each in tables.items()}
    limits = Limits(opt.queue, opt.max_bytes, opt.max_pixels, opt.max_result_pixels, opt.timeout,
                    opt.receive_timeout)
    service = Service(opened, detectors, limits, opt.batch_wait_ms / 1000)
    service.warm_up()
    return service


def serve(opt: Namespace, tables: dict[str, Namespace]) -> int:
    """Answer requests until SIGTERM or Ctrl-C; returns the exit status."""
    entry.set_up_logging()
    check_packages()
    import uvicorn

    from serving.app import create_app
    from serving.protocol import protocol
    local = is_loopback(opt.host)
    hosts = [*(opt.allowed_hosts or []), *([*LOOPBACK, "[::1]", opt.host] if local else [])]
    if not local:
        logger.warning("--host %s serves other machines without passwords or encryption; put a "
                       "proxy with both in front", opt.host)
    with bind(opt.host, opt.port) as bound:     # before the networks, which take long
        service = open_service(opt, tables, split_cores(opt.workers))
        server = uvicorn.Server(uvicorn.Config(
            create_app(service, hosts or None, opt.access_log), loop="asyncio",
            http=protocol(opt.receive_timeout, opt.max_clients), ws="none", lifespan="off",
            log_config=None, access_log=False, server_header=False, proxy_headers=False,
            limit_concurrency=opt.max_clients,
            timeout_graceful_shutdown=int(opt.timeout) + GRACE))
        logging.getLogger("uvicorn").setLevel(logging.ERROR)    # clients' mistakes get an answer
        # uvicorn handles these and raises them again when it ends; stopping is no failure.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: setattr(server, "should_exit", True))
        try:
            bound.listen(2048)
        except OSError as error:
            raise ValueError(f"serve.py cannot listen on --port {opt.port}: "
                             f"{error.strerror}") from error
        host, port = bound.getsockname()[:2]
        logger.info("serving %s on http://%s:%d", ", ".join(tables),
                    f"[{host}]" if ":" in host else host, port)
        try:
            server.run(sockets=[bound])
        finally:
            service.close()
    logger.info("the service has stopped")
    return 0


if __name__ == "__main__":
    sys.exit(entry.run(lambda opt: serve(opt, per_model), options, "serve.py"))
