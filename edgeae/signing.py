"""Signing a bundle, so that others know its maker; `edgeae_runtime.bundle.signing` says what a signature covers."""

from __future__ import annotations

import getpass
import os
import sys
import tempfile
from pathlib import Path
from typing import Any, cast

from edgeae_runtime import open_bundle
from edgeae_runtime.bundle.signing import (
    MAX_KEY_BYTES,
    SIGNATURE_FILE,
    check_files,
    fingerprint_of,
    library,
    what_is_signed,
)
from edgeae_runtime.errors import InputError, shown
from edgeae_runtime.files.regular import read_regular
from edgeae_runtime.files.writing import write_atomically
from edgeae_runtime.terminal import name_of

PASSWORD = "EDGEAE_KEY_PASSWORD"
"""The environment variable with the password of an encrypted private key."""


def sign(bundle: str | Path, private_key: str | Path, password: bytes | None = None, *, overwrite: bool = False) -> str:
    """Sign every file of a bundle's folder; the signature is written beside them, as `model.sig`.

    Args:
        bundle: the folder; its files must be those that its manifest records.
        private_key: a PEM file with an elliptic-curve key on P-256, P-384 or P-521.
        password: the key's, where it is encrypted.
        overwrite: whether an earlier signature may be replaced.

    Returns:
        The fingerprint of the public key that belongs to it.

    Raises:
        InputError: the key cannot be used, the package is missing, or there is a signature already.
        BundleError: the bundle is damaged, or holds what is no file.
    """
    signing = library("model_signing.signing")
    config = signing.Config().set_hashing_config(what_is_signed())
    raw = read_regular(private_key, MAX_KEY_BYTES, "a private key in PEM form")
    if _is_encrypted(raw) and not password:
        raise InputError(f"The key {shown(private_key)} is encrypted: give its password in {PASSWORD}.")
    try:
        # The library hands it on to `cryptography`, which takes bytes, though it declares text.
        config.use_elliptic_key_signer(private_key=private_key, password=cast("Any", password))
    except Exception as error:  # cryptography's readers raise many types for what is no such key
        raise InputError(
            f"{shown(private_key)} cannot be used as a private key ({name_of(error)}). Expected PEM, an elliptic-curve "
            "key on P-256, P-384 or P-521, and its right password where it is encrypted. Make one with: openssl "
            "ecparam -name prime256v1 -genkey -noout -out private.pem"
        ) from error
    opened = open_bundle(bundle)
    for record in opened.manifest.records:
        opened.read(record)
    folder, signature = Path(bundle), Path(bundle) / SIGNATURE_FILE
    check_files(folder)
    if signature.exists() and not overwrite:
        raise InputError(f"{shown(signature)} is there already. Sign again with --overwrite to replace it.")
    with tempfile.TemporaryDirectory(prefix="edgeae-sign-") as temporary:
        made = Path(temporary) / SIGNATURE_FILE
        config.sign(folder, made)
        content = made.read_bytes()
    write_atomically(signature, lambda file: file.write(content))
    keys = library("cryptography.hazmat.primitives.serialization")
    return fingerprint_of(keys.load_pem_private_key(raw, password or None).public_key())


def password_of(private_key: str | Path) -> bytes | None:
    """An encrypted key's password: from the environment, else asked for at a terminal; None where none is needed."""
    raw = read_regular(private_key, MAX_KEY_BYTES, "a private key in PEM form")
    if not _is_encrypted(raw):
        return None
    if PASSWORD not in os.environ and sys.stdin is not None and sys.stdin.isatty():
        return getpass.getpass(f"Password of {shown(private_key)}: ").encode()
    return os.environ.get(PASSWORD, "").encode() or None


def _is_encrypted(private_key: bytes) -> bool:
    return b"ENCRYPTED" in private_key  # both of PEM's forms say it so
