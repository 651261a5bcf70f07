"""The routes of the service, and what every answer has in common."""
from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.metrics import CONTENT_TYPE
from serving.request_error import RequestError
from serving.restore_request import (
    FORMATS,
    MAX_UPSCALE,
    MIN_UPSCALE,
    RestoreRequest,
    read_request,
)
from serving.service import Answer, Service

PAGE = Path(__file__).parent / "page"
PAGE_FILES = {"/": ("index.html", "text/html"), "/page.css": ("page.css", "text/css"),
              "/page.js": ("page.js", "text/javascript"),
              "/icon.svg": ("icon.svg", "image/svg+xml")}
RESTORE = ("model", "faces", "strength", "upscale", "aligned", "format")
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src "
                               "'self' blob:; connect-src 'self'; base-uri 'none'; "
                               "form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin", "Cache-Control": "no-store"}
logger = logging.getLogger("facezoo.access")


def create_app(service: Service, allowed_hosts: list[str] | None = None,
               access_log: bool = True) -> ASGIApp:
    """The ASGI application.

    Args:
        allowed_hosts: names in the Host header that are answered; None answers any.
        access_log: a line for each request.
    """
    app = Starlette(
        routes=routes(service),
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=allowed_hosts or ["*"],
                               www_redirect=False)],
        exception_handlers={RequestError: refuse, HTTPException: refuse_route,
                            ClientDisconnect: gone, Exception: fail})
    app.router.redirect_slashes = False
    return AccessMiddleware(app, service, access_log)


def routes(service: Service) -> list[Route]:
    """All routes, bound to the service."""
    names = list(service.models)

    async def restore(request: Request) -> Response:
        as_json = wants_json(request)
        return await answer(request, service, RESTORE,
                            lambda ask: service.restore(ask, as_json))

    async def detect(request: Request) -> Response:
        return await answer(request, service, ("model",), service.detect)

    async def models(request: Request) -> Response:
        limits = service.limits
        return JSONResponse({
            "models": [model.describe() for model in service.models.values()],
            "default": names[0], "formats": list(FORMATS),
            "limits": {"max_bytes": limits.max_bytes, "max_pixels": limits.max_pixels,
                       "max_result_pixels": limits.max_result_pixels,
                       "least_upscale": MIN_UPSCALE, "most_upscale": MAX_UPSCALE}})

    async def alive(request: Request) -> Response:
        return JSONResponse({"status": "alive"})

    async def ready(request: Request) -> Response:
        busy = service.gate.full
        return JSONResponse({"status": "busy" if busy else "ready"}, 503 if busy else 200)

    async def metrics(request: Request) -> Response:
        return Response(service.metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    return [Route("/v1/restore", restore, methods=["POST"]),
            Route("/v1/detect", detect, methods=["POST"]),
            Route("/v1/models", models), Route("/healthz", alive), Route("/readyz", ready),
            Route("/metrics", metrics),
            *(Route(path, page_file(*file)) for path, file in PAGE_FILES.items())]


def page_file(name: str, media_type: str) -> Callable[[Request], Awaitable[Response]]:
    """A route that answers with one of the page's files, read once."""
    content = (PAGE / name).read_bytes()

    async def serve(request: Request) -> Response:
        return Response(content, media_type=media_type)
    return serve


def wants_json(request: Request) -> bool:
    """Does the client prefer JSON to an image?"""
    kinds = [part.split(";")[0].strip().lower()
             for part in request.headers.get("accept", "").split(",")]
    return "application/json" in kinds


async def answer(request: Request, service: Service, names: tuple[str, ...],
                 work: Callable[[RestoreRequest], Awaitable[Answer]]) -> Response:
    """Receive an image, do the work on it within the limits, answer with what came out."""
    refuse_other_sites(request)
    service.gate.check()        # before the image is received
    with service.uploads.account() as grow:
        ask = await read_request(request, service.limits, list(service.models), names, grow)
        with service.gate.place():
            done = await within(service.limits.timeout, request, work(ask))
    return Response(done.body, media_type=done.media_type,
                    headers={"X-Faces": str(done.num_faces)})


def refuse_other_sites(request: Request) -> None:
    """Browsers let any page post an image here; only the service's own page may."""
    origin = request.headers.get("origin")
    if origin is None:
        return
    try:
        site = urlsplit(origin).netloc
    except ValueError:      # such as http://[
        site = ""
    if not site or site != request.headers.get("host"):
        raise RequestError(403, "only this service's own page may send requests from a browser")


async def within(seconds: float, request: Request, work: Awaitable[Answer]) -> Answer:
    """The work's answer; it is given up when time is over or the client has gone."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(disconnected(request))
    try:
        await asyncio.wait({working, leaving}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        if leaving.done():
            raise ClientDisconnect
        raise RequestError(504, f"the request was not finished within {seconds:g} s")
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def disconnected(request: Request) -> None:
    """Returns when the client has gone; its whole request must have been received."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


# ---- errors -------------------------------------------------------------------------------------

async def refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return JSONResponse({"error": error.message}, error.status, headers=error.headers)


async def refuse_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, headers=error.headers)


async def gone(request: Request, error: Exception) -> Response:
    return Response(status_code=499)    # as nginx's log has it; nobody is there to be told


async def fail(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": "the service failed; its log has the reason"}, 500)


class AccessMiddleware:
    """Around everything: headers of every answer, counts, the access log."""

    def __init__(self, app: Starlette, service: Service, log: bool) -> None:
        self.app, self.service, self.log = app, service, log
        self.paths = {route.path for route in app.routes}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        began, status, sent = time.perf_counter(), 0, 0

        async def send_on(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *(
                    (name.lower().encode(), value.encode()) for name, value in HEADERS.items())]
            sent += len(message.get("body", b""))
            await send(message)
        try:
            await self.app(scope, receive, send_on)
        except Exception:       # answered by `fail`
            logging.getLogger("facezoo").exception("a request failed")
        finally:
            route = scope["path"] if scope["path"] in self.paths else "other"
            seconds = time.perf_counter() - began
            self.service.metrics.requests.labels(route, status).inc()
            self.service.metrics.seconds.labels(route).observe(seconds)
            if self.log:
                logger.info(json.dumps({"method": scope["method"][:16], "route": route,
                                        "status": status, "ms": round(seconds * 1000),
                                        "bytes": sent}))
