"""From an image's bytes to the restored one's: stages in threads, networks in their batchers."""
from __future__ import annotations

import asyncio
import base64
import json
import queue
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from faces.detect import Detector, Face, select
from faces.paste import size_at, upscale
from faces.photograph import Mask, Settings, align_crop, paste_back
from faces.restorer import FaceRestorer
from serving.batching import Batcher
from serving.limits import UPLOADS, ConcurrencyLimiter, Limits, PixelBudget, Uploads
from serving.metrics import Metrics
from serving.request_error import RequestError
from serving.restore_request import FORMATS, RestoreRequest
from utils.images.convert import NotFinite
from utils.images.decode import is_deep
from utils.images.deep import Layers, decode_layers, encode_layers
from utils.images.errors import ImageError, NotWritten
from utils.images.io import BadImage, TooManyPixels, image_size

# A progressive JPEG may go over its pixels any number of times; cameras and editors take 10 or so.
MAX_SCANS = 100


@dataclass(frozen=True)
class Model:
    """A network that can be asked for.

    Attributes:
        settings: how photographs are treated where the request says nothing.
        mask: how much of a face is pasted, see `faces.parsing_mask`.
        min_size, max_faces, only_center: which faces are taken, see `faces.detect.select`.
        strip_metadata: answer without the profile, EXIF and resolution of the image sent.
    """
    name: str
    model_name: str
    restorer: FaceRestorer
    settings: Settings
    mask: Mask | None = None
    min_size: float = 0
    max_faces: int | None = None
    only_center: bool = False
    strip_metadata: bool = False

    def describe(self) -> dict[str, Any]:
        """What GET /v1/models says of it."""
        return {"name": self.name, "model": self.model_name, "size": self.settings.size,
                "template": self.settings.template, "device": str(self.restorer.device),
                "batch_size": self.settings.batch_size, "upscale": self.settings.scale,
                "strength": self.settings.strength}


@dataclass
class Answer:
    """What goes back to the client."""
    body: bytes
    media_type: str
    num_faces: int


class Service:
    """Restores images for many clients at a time; nothing of a request outlives its answer.

    Args:
        models: by name, the default first.
        detectors: one for each thread, since none may be used by two at a time.
        batch_wait: seconds a batch waits for faces of other requests.
    """

    def __init__(self, models: dict[str, Model], detectors: list[Detector],
                 limits: Limits | None = None, batch_wait: float = 0.005) -> None:
        self.models, self.limits, self.metrics = models, limits or Limits(), Metrics()
        self.gate = ConcurrencyLimiter(self.limits.queue, self.metrics.queue.set)
        self.uploads = Uploads(UPLOADS * self.limits.max_bytes, self.metrics.uploading.set)
        largest = self.limits.max_pixels + self.limits.max_result_pixels
        self._pixels = PixelBudget(max(2, len(detectors)) * largest)
        self._detectors: queue.LifoQueue[Detector] = queue.LifoQueue()
        for detector in detectors:
            self._detectors.put(detector)
        self._pool = ThreadPoolExecutor(len(detectors), thread_name_prefix="images")
        self._batchers = {
            name: Batcher(model.restorer.restore, model.settings.batch_size, batch_wait,
                          self.metrics.batches.labels(name).observe)
            for name, model in models.items()}

    def warm_up(self) -> None:
        """Run each network on its largest batch: what does not fit shows before a client does."""
        for name, model in self.models.items():
            crop = np.zeros((model.settings.size, model.settings.size, 3), np.uint8)
            images = [model.restorer.preprocess(crop)] * model.settings.batch_size
            self._batchers[name].submit(images).result()

    def close(self) -> None:
        """Finish what is running and end all threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        for batcher in self._batchers.values():
            batcher.close()

    # -- requests ---------------------------------------------------------------------------------

    async def restore(self, ask: RestoreRequest, as_json: bool) -> Answer:
        """The restored image, or JSON that holds it.

        Raises:
            RequestError: 400 for no image or no such face, 413 for too many pixels.
        """
        model = self.models[ask.model]
        settings = replace(
            model.settings,
            scale=model.settings.scale if ask.upscale is None else ask.upscale,
            strength=model.settings.strength if ask.strength is None else ask.strength)
        async with self._pixels.hold(await self._in_thread(self._check_size, ask, settings)):
            if ask.aligned:
                return await self._aligned(ask, model, as_json)
            photo, faces = await self._in_thread(self._find, ask, model, stage="find")
            taken, space = chosen(ask.faces, len(faces)), photo.metadata.space

            def prepare() -> tuple[list[np.ndarray], ...]:
                matrices, crops = align_crop(photo.pixels, [faces[index] for index in taken],
                                             settings, space)
                return matrices, crops, [model.restorer.preprocess(crop) for crop in crops]
            matrices, crops, images = await self._in_thread(prepare)
            restored = await self._restored(model, images)

            def finish() -> Answer:
                pixels = paste_back(photo.pixels, matrices, crops, restored, settings, model.mask,
                                    space)
                alpha = None if photo.alpha is None else upscale(photo.alpha, settings.scale)
                image = Layers(pixels, alpha, photo.metadata)
                if not as_json:
                    return encoded(image, ask.extension, len(taken))
                crop_of = dict(zip(taken, matrices, strict=True))
                return as_answer({
                    "model": model.name, "strength": settings.strength, "upscale": settings.scale,
                    "faces": [described(face, index) | {"restored": index in crop_of} | (
                        {"crop": {"size": settings.size, "matrix": crop_of[index].tolist()}}
                        if index in crop_of else {}) for index, face in enumerate(faces)],
                }, image, ask.extension, len(taken))
            return await self._in_thread(finish, stage="paste")

    async def detect(self, ask: RestoreRequest) -> Answer:
        """JSON with the faces of a photograph, numbered as `faces` takes them."""
        model = self.models[ask.model]
        async with self._pixels.hold(await self._in_thread(self._check_size, ask, None)):
            photo, faces = await self._in_thread(self._find, ask, model, stage="find")
            height, width = photo.pixels.shape[:2]
            return as_answer({"model": model.name, "width": width, "height": height,
                              "faces": [described(face, i) for i, face in enumerate(faces)]},
                             None, "", len(faces))

    async def _aligned(self, ask: RestoreRequest, model: Model, as_json: bool) -> Answer:
        def read() -> np.ndarray:
            return model.restorer.preprocess(self._decode(ask).srgb())
        image = await self._in_thread(read, stage="find")
        face, = await self._restored(model, [image])

        def finish() -> Answer:
            image = Layers(face)
            if not as_json:
                return encoded(image, ask.extension, 1)
            return as_answer({"model": model.name, "faces": []}, image, ask.extension, 1)
        return await self._in_thread(finish, stage="paste")

    async def _restored(self, model: Model, images: list[np.ndarray]) -> list[np.ndarray]:
        """Restored faces; the batch they are in may hold those of other requests."""
        with self._timed("restore"):
            try:
                faces = await asyncio.wrap_future(self._batchers[model.name].submit(images))
            except NotFinite as error:
                raise RequestError(500, f"this image cannot be restored: {error}") from error
        self.metrics.faces.labels(model.name).inc(len(faces))
        return faces

    # -- stages, each in a thread -----------------------------------------------------------------

    async def _in_thread(self, work: Callable[..., Any], *arguments: Any,
                         stage: str | None = None) -> Any:
        def timed() -> Any:
            with self._timed(stage) if stage else nullcontext():
                return work(*arguments)
        return await asyncio.get_running_loop().run_in_executor(self._pool, timed)

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self.metrics.stages.labels(stage).observe(time.perf_counter() - began)

    def _check_size(self, ask: RestoreRequest, settings: Settings | None) -> int:
        """Pixels in memory at a time for this request, from the image's header alone.

        Those of more than 8 bits count twice.
        """
        if ask.data.startswith(b"\xff\xd8") and ask.data.count(b"\xff\xda") > MAX_SCANS:
            raise RequestError(400, f"the JPEG has more than {MAX_SCANS} scans")
        try:
            width, height = image_size(ask.data, "the image")
        except BadImage as error:
            status = 413 if isinstance(error, TooManyPixels) else 400
            raise RequestError(status, str(error)) from error
        if width * height > self.limits.max_pixels:
            raise RequestError(413, f"the image has {width} x {height} pixels; the limit is "
                               f"{self.limits.max_pixels} pixels")
        weight = 2 if is_deep(ask.data) else 1
        if settings is None or ask.aligned:
            return weight * width * height
        try:
            wide, high = size_at(settings.scale, (height, width))
        except ImageError as error:
            raise RequestError(400, str(error)) from error
        if wide * high > self.limits.max_result_pixels:
            raise RequestError(413, f"the result would have {wide} x {high} pixels; the limit is "
                               f"{self.limits.max_result_pixels} pixels")
        return weight * (width * height + wide * high)

    def _decode(self, ask: RestoreRequest) -> Layers:
        try:
            return decode_layers(ask.data, "the image")
        except BadImage as error:
            raise RequestError(400, str(error)) from error

    def _find(self, ask: RestoreRequest, model: Model) -> tuple[Layers, list[Face]]:
        photo = self._decode(ask).for_file(f".{ask.extension}", model.strip_metadata)
        seen = photo.srgb()
        detector = self._detectors.get()
        try:
            faces = detector(seen)
        finally:
            self._detectors.put(detector)
        return photo, select(faces, seen.shape, min_size=model.min_size, max_faces=model.max_faces,
                             only_center=model.only_center)


def chosen(asked: tuple[int, ...] | None, number: int) -> list[int]:
    """Numbers of the faces to restore, of so many.

    Raises:
        RequestError: there is no such face.
    """
    if asked is None:
        return list(range(number))
    wrong = next((index for index in asked if index >= number), None)
    if wrong is not None:
        there = ("are no faces" if not number else "is only face 0" if number == 1
                 else f"are faces 0 to {number - 1}")
        raise RequestError(400, f"there {there} in the image, got face {wrong}")
    return list(asked)


def described(face: Face, index: int) -> dict[str, Any]:
    """A face as JSON has it; pixels of the image sent."""
    return {"index": index, "box": [round(float(x), 2) for x in face.box],
            "points": [[round(float(x), 2) for x in point] for point in face.points],
            "score": round(float(face.score), 4)}


def encoded(image: Layers, extension: str, num_faces: int) -> Answer:
    """The image as a file's bytes.

    Raises:
        RequestError: the format does not hold an image of this size.
    """
    try:
        body = encode_layers(image, f".{extension}")
    except NotWritten as error:
        raise RequestError(413, f"{error}; ask for another format") from error
    return Answer(body, FORMATS[extension], num_faces)


def as_answer(about: dict[str, Any], image: Layers | None, extension: str,
              num_faces: int) -> Answer:
    """JSON; with an image also its size, type and base64."""
    if image is not None:
        file = encoded(image, extension, num_faces)
        height, width = image.pixels.shape[:2]
        about |= {"width": width, "height": height,
                  "media_type": file.media_type,
                  "picture": base64.b64encode(file.body).decode("ascii")}
    return Answer(json.dumps(about).encode(), "application/json", num_faces)
