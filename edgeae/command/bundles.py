"""`edgeae inspect` and `edgeae sign`: what a bundle holds, and who stands for it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from edgeae_runtime.command.text import here
from edgeae_runtime.terminal import command_line

from edgeae.command import console, tables
from edgeae.command.defaults import DEFAULT_BUNDLE, Bundle


def inspect(bundle: Bundle = DEFAULT_BUNDLE) -> None:
    """Show what a bundle holds: layers and their precision, quality, versions."""
    from edgeae_runtime import open_bundle

    tables.show_manifest(open_bundle(bundle).manifest)
    console.next_command(command_line("edgeae", "verify", here(bundle)))


def sign(
    bundle: Bundle = DEFAULT_BUNDLE,
    *,
    key: Annotated[Path, typer.Option(help="Your private key: PEM, an elliptic-curve key on P-256, P-384 or P-521.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier signature.")] = False,
) -> None:
    """Sign every file of a bundle, so that others can check who made it: `verify --key` with your public key."""
    from edgeae_runtime.bundle.signing import SIGNATURE_FILE

    from edgeae.signing import password_of
    from edgeae.signing import sign as sign_bundle

    fingerprint = sign_bundle(bundle, key, password_of(key), overwrite=overwrite)
    console.say(f"Signed {bundle} with the key {fingerprint[:16]}…, in {bundle / SIGNATURE_FILE}")
    console.say("Give others the public key by another way than the bundle; with it they run verify --key.")
    public = key.with_suffix(".pub")
    if public.exists():
        console.next_command(command_line("edgeae-runtime", "verify", here(bundle), "--key", public))
    else:
        console.next_command(command_line("openssl", "pkey", "-in", key, "-pubout", "-out", public))
