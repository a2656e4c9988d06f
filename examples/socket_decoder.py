"""Decode latents that arrive over a socket: a device that receives a few bytes and shows a picture.

    python examples/socket_decoder.py examples/bundle --port 9000

One message is a latent's numbers as little-endian float32; the answer is the picture as uint8, row by row. Here a
latent is 8 bytes and a picture 1024. Only the decoder's file is read. Whoever sends nothing for half a minute, or reads
nothing, is hung up on; so is whoever comes while all places are taken.
"""

from __future__ import annotations

import argparse
import socketserver
import threading

import numpy as np
from edgeae_runtime import Autoencoder, InputError

PATIENCE_SECONDS = 30
MAX_CONNECTIONS = 64


def make_server(bundle: str, port: int) -> socketserver.ThreadingTCPServer:
    """A server whose connections share one decoder."""
    autoencoder = Autoencoder.load(bundle, parts=("decoder",))
    autoencoder.warmup()
    latent = autoencoder.manifest.latent
    message_bytes = 4 * latent.dim
    places = threading.BoundedSemaphore(MAX_CONNECTIONS)

    class Connection(socketserver.StreamRequestHandler):
        timeout = PATIENCE_SECONDS

        def handle(self) -> None:
            if not places.acquire(blocking=False):
                return
            try:
                while len(message := self.rfile.read(message_bytes)) == message_bytes:
                    image = np.asarray(autoencoder.decode(np.frombuffer(message, "<f4").reshape(latent.shape)))
                    pixels = image if image.dtype == np.uint8 else np.rint(image * 255).astype(np.uint8)
                    self.wfile.write(pixels.tobytes())
            except (InputError, OSError):
                return  # not finite, too slow, or gone: hang up, for nothing later can be trusted to be in step
            finally:
                places.release()

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = True
        daemon_threads = True  # a slow client does not keep the server from ending

    return Server(("127.0.0.1", port), Connection)


def main() -> None:
    """Serve until stopped."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle")
    parser.add_argument("--port", type=int, default=9000)
    options = parser.parse_args()
    with make_server(options.bundle, options.port) as server:
        print(f"listening on port {server.server_address[1]}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
