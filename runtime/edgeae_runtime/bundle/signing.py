"""Who made a bundle: a signature over the whole folder, by OpenSSF model signing and an elliptic-curve key.

The manifest's hashes show that a bundle is whole; whoever can change a file can change them as well. A signature shows
that the holder of a key saw the bundle as it is. It covers every file of the folder, but for the signature itself and
`tuning.json`, which each machine writes for itself and which can only choose among listed forms. It does not tell which
of its publisher's bundles a bundle is: an older one, signed by the same key, is accepted too.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import importlib
import io
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeae_runtime.bundle.tuning import TUNING_FILE
from edgeae_runtime.errors import InputError, SignatureError, gist, shown
from edgeae_runtime.files.documents import parse_json
from edgeae_runtime.files.regular import read_regular
from edgeae_runtime.terminal import name_of

if TYPE_CHECKING:
    from model_signing.hashing import Config

SIGNATURE_FILE = "model.sig"
UNSIGNED = (SIGNATURE_FILE, TUNING_FILE)
"""The files of a bundle's folder that no signature covers."""
INSTALL = "pip install 'edgeae-runtime[signing]'"
_MAX_SIGNATURE_BYTES, MAX_KEY_BYTES = 4 << 20, 1 << 16
_MAX_FILES, _MAX_BYTES = 10_000, 16 << 30


def check_signature(bundle: str | Path, public_key: str | Path) -> str:
    """Check that the holder of a key signed a bundle exactly as it is, before anything else of it is read.

    Args:
        bundle: the folder, with `model.sig` in it.
        public_key: the publisher's, a PEM file, which did not come with the bundle.

    Returns:
        The fingerprint of the key: SHA-256 of its DER form, in hexadecimal.

    Raises:
        SignatureError: there is no signature, it is of another key, or a file was changed, added or removed.
        InputError: the key cannot be used, or the package is missing.
    """
    verifying = library("model_signing.verifying")
    raw = read_regular(public_key, MAX_KEY_BYTES, "a publisher's public key in PEM form")
    config = verifying.Config().set_hashing_config(what_is_signed())
    try:
        config.use_elliptic_key_verifier(public_key=public_key)
        fingerprint = fingerprint_of(library("cryptography.hazmat.primitives.serialization").load_pem_public_key(raw))
    except Exception as error:  # as above
        raise InputError(
            f"{shown(public_key)} cannot be used as a public key ({name_of(error)}). Expected PEM, an elliptic-curve "
            "key on P-256, P-384 or P-521. Get it from the publisher, not with the bundle."
        ) from error
    folder, signature = Path(bundle), Path(bundle) / SIGNATURE_FILE
    if not folder.is_dir():
        raise InputError(f"There is no folder {shown(folder)}, expected a bundle with {SIGNATURE_FILE} in it.")
    if not signature.exists():
        raise SignatureError(
            f"{shown(folder)} is not signed: it holds no {SIGNATURE_FILE}. Get the signed bundle from its publisher; "
            "without --key, verify shows that a bundle is whole, but not who made it."
        )
    check_files(folder)
    try:
        _check_exceptions(read_regular(signature, _MAX_SIGNATURE_BYTES, "a signature"))
        with contextlib.redirect_stdout(io.StringIO()):  # the library prints warnings
            config.verify(folder, signature)
    except Exception as error:  # a stranger's file: whatever its readers raise, it is not a signature by this key
        reason = name_of(error) or "it was not made with it"
        raise SignatureError(
            f"{shown(folder)} is not as the holder of {shown(public_key)} signed it ({reason}). Its signature is of "
            "another key or damaged, or a file was changed, added or removed. Get the bundle from its publisher again."
        ) from error
    return fingerprint


def what_is_signed() -> Config:
    """What is signed: every file of the folder, those of git included, by SHA-256."""
    hashing = library("model_signing.hashing")
    config: Config = hashing.Config().set_ignored_paths(paths=UNSIGNED, ignore_git_paths=False)
    return config.set_allow_symlinks(True)  # the bytes count; `_check_files` refuses links to anything but files


def check_files(folder: Path) -> None:
    """Refuse what hashing would wait for, or would take for ever."""
    count = total = 0
    for path in folder.rglob("*"):
        found = path.stat() if path.exists() else path.lstat()
        if stat.S_ISDIR(found.st_mode) and not path.is_symlink():
            continue
        count, total = count + 1, total + found.st_size
        if not stat.S_ISREG(found.st_mode):
            raise SignatureError(f"{shown(path)} is no regular file, which no bundle holds. Remove it.")
        if count > _MAX_FILES or total > _MAX_BYTES:
            raise SignatureError(f"{shown(folder)} holds more files or bytes than any bundle. Give a bundle's folder.")


def _check_exceptions(signature: bytes) -> None:
    """A signature that leaves out further files says less than is claimed here.

    Raises:
        ValueError, KeyError, TypeError: it does, or is no signature.
    """
    document: Any = parse_json(signature)
    statement: Any = parse_json(base64.b64decode(document["dsseEnvelope"]["payload"]))
    left_out = set(statement["predicate"]["serialization"].get("ignore_paths", ()))
    if not left_out <= set(UNSIGNED):
        raise ValueError(f"it leaves out {', '.join(sorted(map(str, left_out - set(UNSIGNED))))}")


def fingerprint_of(public_key: Any) -> str:  # noqa: ANN401 - any of cryptography's keys
    """SHA-256 of a key's DER form, in hexadecimal: what people compare over another way than the bundle's."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return hashlib.sha256(public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def library(module: str) -> Any:  # noqa: ANN401 - a module of an optional package
    """A module that only signatures need.

    Raises:
        InputError: it, or what it needs, is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(
            f"Signatures need the package model-signing, which cannot be imported ({gist(error)}). Install the extra: "
            f"{INSTALL}"
        ) from error
