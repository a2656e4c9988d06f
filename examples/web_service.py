"""A web service: images in, latents out, and back; concurrent requests share one model.

    pip install 'edgeae-runtime[cpu]' starlette uvicorn
    python examples/web_service.py examples/bundle --port 8000
    curl --data-binary @image.npy http://127.0.0.1:8000/encode > latent.npy

Bodies are .npy files. ONNX Runtime releases Python's lock while it computes, so requests run side by side in threads.
Everything that a client decides on is bounded: bytes in, bytes out, time, connections, and calls at once. What is
refused gets 400 (not a good array), 404 (no such call), 408 (too slow), 413 (too much) or 503 (busy).
"""

from __future__ import annotations

import argparse
import asyncio
import io
import math
import os

import numpy as np
import uvicorn
from edgeae_runtime import Autoencoder, EdgeAEError, InputError, TimeLimitError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

MAX_BYTES = 4 << 20
"""Of a body, and of an answer: each connection holds one of both."""
MAX_CONNECTIONS = 64
AT_ONCE = max(os.cpu_count() or 1, 2)
"""Calls that run; as many again may wait, four times over, before others are told to come back."""
HEAD_SECONDS, BODY_SECONDS, CALL_SECONDS, LIFE_SECONDS, STOP_SECONDS = 5, 10, 10, 60, 3


class Impatient(H11Protocol):
    """A connection that must send a request's head in time, and is ended when it is old: uvicorn waits for ever."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clocks."""
        super().connection_made(transport)
        self.loop.call_later(HEAD_SECONDS, self._end_silent)
        self.loop.call_later(LIFE_SECONDS, self._end_old)

    def _end_silent(self) -> None:
        if self.cycle is None:
            self.transport.abort()

    def _end_old(self) -> None:
        """At once where nothing is under way; else after the request, or when that and its answer take too long."""
        if self.cycle is None or (self.cycle.response_complete and not self.transport.get_write_buffer_size()):
            self.transport.abort()
        else:
            self.cycle.keep_alive = False
            self.loop.call_later(BODY_SECONDS + CALL_SECONDS, self.transport.abort)


def make_app(autoencoder: Autoencoder) -> Starlette:
    """The service around one loaded bundle."""
    manifest = autoencoder.manifest
    image, latent = manifest.image_shape, manifest.latent.shape
    calls = {  # what is called, the axes of a batch, and the bytes of one answer
        "encode": (autoencoder.encode, len(image) + 1, 4 * math.prod(latent)),
        "decode": (autoencoder.decode, len(latent) + 1, 4 * math.prod(image)),
        "reconstruct": (autoencoder.reconstruct, len(image) + 1, 4 * math.prod(image)),
    }
    most = max(MAX_BYTES, 8 * math.prod(image) + 4096)  # one image always fits
    turns, waiting = asyncio.Semaphore(AT_ONCE), 0

    async def answer(request: Request) -> Response:
        nonlocal waiting
        if request.path_params["call"] not in calls:
            raise HTTPException(404, f"There is no such call, only {', '.join(calls)}.")
        call, axes, answer_bytes = calls[request.path_params["call"]]
        array = parse(await read_body(request, most))
        rows = len(array) if array.ndim == axes else 1
        if rows * answer_bytes > most:
            raise HTTPException(413, f"Got {rows} rows, at most {most // answer_bytes} are answered at once.")
        if waiting >= 4 * AT_ONCE:
            raise HTTPException(503, "Busy: try again.", {"retry-after": "1"})
        waiting += 1
        try:
            async with turns:
                result = await run_in_threadpool(call, array)
        except InputError as error:  # its text tells what to do
            raise HTTPException(400, str(error)) from error
        except TimeLimitError as error:
            raise HTTPException(503, "The call took too long.", {"retry-after": "10"}) from error
        except EdgeAEError as error:
            raise HTTPException(500, str(error)) from error
        finally:
            waiting -= 1
        buffer = io.BytesIO()
        np.save(buffer, result)
        return Response(buffer.getvalue(), media_type="application/octet-stream")

    return Starlette(routes=[Route("/{call}", answer, methods=["POST"])], exception_handlers={HTTPException: refuse})


async def refuse(request: Request, error: Exception) -> Response:
    """The refusal as text; the connection ends, for the rest of the body may still be on its way."""
    assert isinstance(error, HTTPException)
    headers = {**(error.headers or {}), "connection": "close"}
    return PlainTextResponse(error.detail + "\n", status_code=error.status_code, headers=headers)


async def read_body(request: Request, most: int) -> bytes:
    """The body, counted as it comes, for a chunked one tells no length.

    The rest of what is too much is read and dropped, so that the client hears why.
    """
    body, received = bytearray(), 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                received += len(chunk)
                if received <= most:
                    body += chunk
                else:
                    body.clear()
    except TimeoutError:
        if received <= most:
            raise HTTPException(408, f"The body took longer than {BODY_SECONDS} s.") from None
    except ClientDisconnect:
        raise HTTPException(400, "The body ended early.") from None
    if received > most:
        raise HTTPException(413, f"At most {most} bytes, please.")
    return bytes(body)


def parse(body: bytes) -> np.ndarray:
    """The array of a .npy file whose header promises just what is there: nothing is allocated for it."""
    file = io.BytesIO(body)
    try:
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[np.lib.format.read_magic(file)]
        shape, fortran, dtype = read_header(file)
        promised = math.prod(shape) * dtype.itemsize
        if dtype.hasobject or min(shape, default=0) < 0 or promised != len(body) - file.tell():
            raise ValueError(f"its header promises {dtype} {list(shape)[:8]}, {len(body) - file.tell()} bytes follow")
        return np.frombuffer(body, dtype, offset=file.tell()).reshape(shape, order="F" if fortran else "C")
    except Exception as error:  # numpy's parser raises whatever Python's raises on a stranger's text
        raise HTTPException(400, f"The body is no .npy file: {str(error)[:200]}.") from error


def main() -> None:
    """Load once, serve until stopped."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle")
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args()
    autoencoder = Autoencoder.load(options.bundle, timeout_s=CALL_SECONDS)
    autoencoder.warmup()
    uvicorn.run(
        make_app(autoencoder),
        host="127.0.0.1",
        port=options.port,
        log_level="warning",
        http=Impatient,
        ws="none",
        limit_concurrency=MAX_CONNECTIONS,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=STOP_SECONDS,
    )


if __name__ == "__main__":
    main()
