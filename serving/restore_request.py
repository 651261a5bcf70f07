"""What a client asks for: the image it sends, and the parameters beside it."""
from __future__ import annotations

import asyncio
import difflib
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from serving.limits import Limits
from serving.request_error import RequestError

FORMATS = {"png": "image/png", "jpg": "image/jpeg", "webp": "image/webp"}
MAX_FIELD = 4096            # bytes of a parameter in a form
FORM_OVERHEAD = 65_536      # what a form may have beside its image
MIN_UPSCALE, MAX_UPSCALE = 0.25, 8.0


@dataclass(frozen=True)
class RestoreRequest:
    """A checked request.

    Attributes:
        data: the image's file.
        faces: numbers of the faces to restore, None for all.
        strength, upscale: None takes the model's.
        aligned: the image is one aligned face.
        extension: of the result's format, without a dot.
    """
    data: bytes
    model: str
    faces: tuple[int, ...] | None = None
    strength: float | None = None
    upscale: float | None = None
    aligned: bool = False
    extension: str = "png"


async def read_request(request: Request, limits: Limits, models: list[str], names: tuple[str, ...],
                   grow: Callable[[int], None]) -> RestoreRequest:
    """Receive a request's image and parameters.

    Args:
        models: their names, the default first.
        names: parameters this route takes.
        grow: told of every piece received, before it is kept.

    Raises:
        RequestError: 400, 408, 413 or 415.
    """
    given = _unique([(name, value) for name, value in request.query_params.multi_items()])
    check_names(given, names)
    try:
        data, fields = await asyncio.wait_for(_receive(request, limits.max_bytes, grow),
                                              limits.receive_timeout)
    except asyncio.TimeoutError:
        raise RequestError(408, f"the request did not arrive within {limits.receive_timeout:g} s"
                      ) from None
    check_names(fields, names)
    given = _unique([*given.items(), *fields.items()])
    if not data:
        raise RequestError(400, "the image is empty (0 bytes)")
    return RestoreRequest(data, **parameters(given, models))


# ---- the body -----------------------------------------------------------------------------------

async def _receive(request: Request, max_bytes: int, grow: Callable[[int], None],
                   ) -> tuple[bytes, dict[str, str]]:
    """The image's bytes and the fields of the form it came in, if it came in one."""
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    form = kind == "multipart/form-data"
    if not (form or kind.startswith("image/") or kind == "application/octet-stream"):
        raise RequestError(415, "Content-Type must be multipart/form-data with the image in the "
                           "field `image`, or the image's own type such as image/png, got "
                           f"{kind[:60] or 'none'!r}")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise RequestError(415, "the body must not be compressed; leave Content-Encoding out")
    pieces = _pieces(request, max_bytes + (FORM_OVERHEAD if form else 0), grow)
    if form:
        return await _read_form(request.headers["content-type"], pieces, max_bytes)
    return b"".join([piece async for piece in pieces]), {}


async def _pieces(request: Request, max_bytes: int, grow: Callable[[int], None],
                  ) -> AsyncIterator[bytes]:
    too_large = RequestError(413, f"the request is larger than the limit of {max_bytes} bytes")
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > max_bytes:
        raise too_large
    received = 0
    async for piece in request.stream():
        received += len(piece)
        if received > max_bytes:
            raise too_large
        grow(len(piece))
        yield piece


class _InMemory(MultiPartParser):
    """Never writes an upload to disk; what it holds is limited by the pieces it is fed."""
    spool_max_size = 0      # SpooledTemporaryFile: never rolled over


async def _read_form(content_type: str, pieces: AsyncIterator[bytes], max_bytes: int,
                     ) -> tuple[bytes, dict[str, str]]:
    boundary = parse_options_header(content_type)[1].get(b"boundary", b"").decode("latin-1")
    if not re.fullmatch(r"[0-9A-Za-z'()+_,./:=? -]{1,70}", boundary):
        raise RequestError(400, "the form has no valid boundary")
    # Written anew: a charset the client chose would pick the codec its fields are decoded with.
    headers = Headers({"content-type": f'multipart/form-data; boundary="{boundary}"'})
    try:
        form = await _InMemory(headers, pieces, max_files=1, max_fields=16,
                               max_part_size=MAX_FIELD).parse()
    except (MultiPartException, FormParserError) as error:
        message = " ".join(str(getattr(error, "message", "") or error).split())
        raise RequestError(400, f"the form cannot be read: {message[:200]}") from error
    try:
        items = form.multi_items()
        files = [(name, value) for name, value in items if isinstance(value, UploadFile)]
        if [name for name, _ in files] != ["image"]:
            raise RequestError(400, "the form must hold one file, in the field `image`")
        data = files[0][1].file.read()
        if len(data) > max_bytes:
            raise RequestError(413, f"the image is larger than the limit of {max_bytes} bytes")
        return data, _unique([(name, value) for name, value in items if isinstance(value, str)])
    finally:
        await form.close()


# ---- parameters ---------------------------------------------------------------------------------

def _unique(pairs: list[tuple[str, str]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in pairs:
        if name in found:
            raise RequestError(400, f"the parameter {name[:40]!r} is given twice")
        found[name] = value
    return found


def check_names(given: dict[str, str], names: tuple[str, ...]) -> None:
    """Raise RequestError for a parameter that the route does not take."""
    wrong = next((name for name in given if name not in names), None)
    if wrong is not None:
        near = difflib.get_close_matches(wrong[:40], names, n=1)
        raise RequestError(400, f"unknown parameter {wrong[:40]!r}" + (
            f"; did you mean {near[0]}?" if near
            else f"; this route takes {', '.join(names) or 'no parameters'}"))


def parameters(given: dict[str, str], models: list[str]) -> dict[str, Any]:
    """Checked values of the parameters, as RestoreRequest has them."""
    def number(name: str, low: float, high: float) -> float | None:
        text = given.get(name)
        if text is None:
            return None
        # Not float() alone, which takes 1_0, nan and Arabic digits.
        value = float(text) if re.fullmatch(r"[0-9]{0,9}\.?[0-9]{0,9}", text) and text.strip(
            ".") else -1.0
        if not low <= value <= high:
            raise RequestError(400, f"{name} must be a number from {low:g} to {high:g}, got "
                               f"{text[:40]!r}")
        return value

    def one_of(name: str, choices: list[str]) -> str:
        value = given.get(name, choices[0])
        if value not in choices:
            raise RequestError(
                400, f"{name} must be one of {', '.join(choices)}, got {value[:40]!r}")
        return value
    found = {"model": one_of("model", models), "extension": one_of("format", list(FORMATS)),
             "aligned": one_of("aligned", ["0", "1"]) == "1",
             "strength": number("strength", 0, 1),
             "upscale": number("upscale", MIN_UPSCALE, MAX_UPSCALE),
             "faces": _numbers(given.get("faces", "all"))}
    useless = [name for name in ("faces", "strength", "upscale") if name in given]
    if found["aligned"] and useless:
        raise RequestError(400, f"{useless[0]} has no effect on an aligned face; "
                           f"leave out {useless[0]} or aligned=1")
    return found


def _numbers(text: str) -> tuple[int, ...] | None:
    """`all` is None, `none` nothing, else numbers between commas."""
    if text in ("all", "none"):
        return None if text == "all" else ()
    if len(text) > MAX_FIELD or not re.fullmatch(r"[0-9]{1,4}(,[0-9]{1,4})*", text):
        raise RequestError(400, "faces must be all, none, or numbers from 0 like 0,2; got "
                           f"{text[:40]!r}")
    return tuple(sorted({int(part) for part in text.split(",")}))
