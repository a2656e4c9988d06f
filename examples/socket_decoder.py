"""Decode latents that arrive over a socket: a device that receives a few bytes and shows a picture.

    python examples/socket_decoder.py examples/bundle --port 9000

One message is a latent's numbers as little-endian float32; the answer is the picture as uint8, row by row. Here a
latent is
8 bytes and a picture 1024. Only the decoder's file is read.
"""

from __future__ import annotations

import argparse
import socketserver

import numpy as np
from edgeae_runtime import Autoencoder, InputError


def make_server(bundle: str, port: int) -> socketserver.ThreadingTCPServer:
    """A server whose connections share one decoder."""
    autoencoder = Autoencoder.load(bundle, parts=("decoder",))
    autoencoder.warmup()
    message_bytes = 4 * autoencoder.manifest.latent.dim

    class Connection(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while len(message := self.rfile.read(message_bytes)) == message_bytes:
                try:
                    image = autoencoder.decode(np.frombuffer(message, "<f4"))
                except InputError:  # not finite: hang up, for nothing later can be trusted to be in step
                    return
                self.wfile.write(np.rint(np.asarray(image) * 255).astype(np.uint8).tobytes())

    socketserver.ThreadingTCPServer.allow_reuse_address = True
    return socketserver.ThreadingTCPServer(("127.0.0.1", port), Connection)


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
