"""A web service: images in, latents out, and back; concurrent requests share one model.

    pip install 'edgeae-runtime[cpu]' starlette uvicorn
    python examples/web_service.py examples/bundle --port 8000
    curl --data-binary @image.npy http://127.0.0.1:8000/encode > latent.npy

Bodies are .npy files. ONNX Runtime releases Python's lock while it computes, so requests run side by side in threads.
"""

from __future__ import annotations

import argparse
import io

import numpy as np
import uvicorn
from edgeae_runtime import Autoencoder
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

MAX_BODY_BYTES = 16 << 20


def make_app(autoencoder: Autoencoder) -> Starlette:
    """The service around one loaded bundle."""
    calls = {"encode": autoencoder.encode, "decode": autoencoder.decode, "reconstruct": autoencoder.reconstruct}

    async def answer(request: Request) -> Response:
        if int(request.headers.get("content-length", 0)) > MAX_BODY_BYTES:
            return PlainTextResponse(f"At most {MAX_BODY_BYTES} bytes, please.", status_code=413)
        try:
            array = np.load(io.BytesIO(await request.body()), allow_pickle=False)
            result = await run_in_threadpool(calls[request.path_params["call"]], array)
        except (ValueError, EOFError, OSError) as error:  # InputError is a ValueError: its text tells what to do
            return PlainTextResponse(str(error), status_code=400)
        buffer = io.BytesIO()
        np.save(buffer, result)
        return Response(buffer.getvalue(), media_type="application/octet-stream")

    return Starlette(routes=[Route("/{call:str}", answer, methods=["POST"])])


def main() -> None:
    """Load once, serve until stopped."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle")
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args()
    autoencoder = Autoencoder.load(options.bundle)
    autoencoder.warmup()
    uvicorn.run(make_app(autoencoder), host="127.0.0.1", port=options.port, log_level="warning")


if __name__ == "__main__":
    main()
