"""Signatures: made with real keys, checked, and everything that must break them."""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from edgeae_runtime import verify
from edgeae_runtime.bundle import signing
from edgeae_runtime.bundle.signing import check_signature
from edgeae_runtime.command.cli import main
from edgeae_runtime.errors import BundleError, InputError, IntegrityError, SignatureError

from edgeae.signing import PASSWORD, sign

BUNDLE = Path(__file__).parent.parent.parent / "examples" / "bundle"


def write_keys(folder, name="publisher", key=None, password=None):
    key = key or ec.generate_private_key(ec.SECP256R1())
    locked = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    private.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked))
    public.write_bytes(
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return private, public


@pytest.fixture
def broken(tmp_path):
    """A copy to damage."""
    return shutil.copytree(BUNDLE, tmp_path / "bundle")


@pytest.fixture
def keys(tmp_path):
    return write_keys(tmp_path)


@pytest.fixture
def signed(broken, keys):
    sign(broken, keys[0])
    return broken


def test_a_signed_bundle_is_accepted_with_the_publishers_key(signed, keys, capsys):
    assert main(["verify", str(signed), "--key", str(keys[1])]) == 0
    told = capsys.readouterr().out
    assert "✓ signed, as it is, by the holder of the key" in told
    assert "Verified: " in told
    assert main(["verify", str(signed), "--key", str(keys[1]), "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["signed_by"] == check_signature(signed, keys[1])
    assert main(["verify", str(signed)]) == 0, "a signature is no foreign file"


@pytest.mark.slow
def test_what_each_machine_writes_for_itself_breaks_nothing(signed, keys):
    assert main(["tune", str(signed)]) == 0
    assert main(["verify", str(signed), "--key", str(keys[1])]) == 0


@pytest.mark.parametrize("file", ["encoder.onnx", "decoder.onnx", "golden.npz", "manifest.json", "README.md"])
def test_a_changed_byte_of_any_file_is_seen(signed, keys, file):
    raw = bytearray((signed / file).read_bytes())
    for place in (0, len(raw) // 2, len(raw) - 1):
        raw[place] ^= 1
        (signed / file).write_bytes(raw)
        with pytest.raises(SignatureError, match="not as the holder"):
            check_signature(signed, keys[1])
        raw[place] ^= 1
    (signed / file).write_bytes(raw)
    check_signature(signed, keys[1])


@pytest.mark.parametrize(
    "name",
    [".hidden", ".gitignore", ".gitattributes", ".git/config", ".github/x", "deep/er/file", "model.sig.bak", "x\nfile"],
)
def test_an_added_file_is_seen_wherever_it_lies(signed, keys, name):
    path = signed / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    with pytest.raises(SignatureError):
        check_signature(signed, keys[1])


def test_removed_and_renamed_files_are_seen(signed, keys):
    (signed / "README.md").rename(signed / "readme.md")
    with pytest.raises(SignatureError):
        check_signature(signed, keys[1])
    (signed / "readme.md").unlink()
    with pytest.raises(SignatureError):
        check_signature(signed, keys[1])


def test_every_flipped_byte_of_the_signature_counts(signed, keys):
    path = signed / "model.sig"
    document = json.loads(path.read_text())
    envelope = document["dsseEnvelope"]
    for field in ("payload", "signature"):
        holder = envelope if field == "payload" else envelope["signatures"][0]
        key = "payload" if field == "payload" else "sig"
        raw = base64.b64decode(holder[key])
        for place in range(0, len(raw), 7):
            wrong = bytearray(raw)
            wrong[place] ^= 1
            holder[key] = base64.b64encode(wrong).decode()
            path.write_text(json.dumps(document))
            with pytest.raises(SignatureError):
                check_signature(signed, keys[1])
        holder[key] = base64.b64encode(raw).decode()
    path.write_text(json.dumps(document))
    check_signature(signed, keys[1])


@pytest.mark.parametrize(
    "raw", [b"", b"{}", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b"{" * 9, b'{"dsseEnvelope": {"payload": "!"}}']
)
def test_what_is_no_signature_is_none(signed, keys, raw, capsys):
    (signed / "model.sig").write_bytes(raw)
    assert main(["verify", str(signed), "--key", str(keys[1])]) == 1
    told = capsys.readouterr()
    assert told.err.startswith("error: ")
    assert told.out == ""


def test_a_missing_signature_and_another_key_give_1(broken, keys, tmp_path, capsys):
    assert main(["verify", str(broken), "--key", str(keys[1])]) == 1
    assert "is not signed" in capsys.readouterr().err
    _, other = write_keys(tmp_path, "other")
    sign(broken, keys[0])
    assert main(["verify", str(broken), "--key", str(other)]) == 1
    assert "another key" in capsys.readouterr().err


def test_a_key_hint_that_was_taken_out_or_changed_helps_nobody(signed, keys, tmp_path, capsys):
    """The signature file names its key outside of what is signed: whoever rewrites that gains nothing."""
    path = signed / "model.sig"
    private, _ = write_keys(tmp_path, "forger")
    forged = shutil.copytree(signed, tmp_path / "forged")
    sign(forged, private, overwrite=True)
    document = json.loads((forged / "model.sig").read_text())
    honest = json.loads(path.read_text())["verificationMaterial"]
    for material in (honest, {"publicKey": {}}, {"publicKey": {"hint": ""}}, {}):
        document["verificationMaterial"] = material
        (forged / "model.sig").write_text(json.dumps(document))
        with pytest.raises(SignatureError):
            check_signature(forged, keys[1])
    assert capsys.readouterr().out == ""


def test_a_signature_that_leaves_more_files_out_is_refused(broken, keys):
    """The library would let the signature itself say what it does not cover."""
    from model_signing import hashing
    from model_signing.signing import Config

    lax = hashing.Config().set_ignored_paths(paths=["model.sig", "README.md"])
    Config().use_elliptic_key_signer(private_key=keys[0]).set_hashing_config(lax).sign(broken, broken / "model.sig")
    with pytest.raises(SignatureError, match=r"leaves out .*README.md"):
        check_signature(broken, keys[1])


def test_links_and_devices_are_not_followed_into_trouble(signed, keys, tmp_path):
    moved = tmp_path / "blob"
    (signed / "encoder.onnx").rename(moved)
    (signed / "encoder.onnx").symlink_to(moved)
    check_signature(signed, keys[1])  # the bytes are those that were signed
    (signed / "folder").symlink_to("/")
    with pytest.raises(SignatureError, match="no regular file"):
        check_signature(signed, keys[1])
    (signed / "folder").unlink()
    os.mkfifo(signed / "fifo")
    with pytest.raises(SignatureError, match="no regular file"):
        check_signature(signed, keys[1])


def test_nothing_is_run_before_the_signature_is_good(signed, keys, monkeypatch, capsys):
    (signed / "README.md").write_text("changed")
    monkeypatch.setattr("edgeae_runtime.command.actions.verify_bundle", lambda *_: pytest.fail("it was run"))
    assert main(["verify", str(signed), "--key", str(keys[1])]) == 1
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("curve", [ec.SECP384R1(), ec.SECP521R1()], ids=lambda curve: curve.name)
def test_the_other_curves(broken, tmp_path, curve):
    private, public = write_keys(tmp_path, key=ec.generate_private_key(curve))
    assert sign(broken, private) == check_signature(broken, public)


def test_an_encrypted_key_needs_its_password(broken, tmp_path):
    private, public = write_keys(tmp_path, password=b"secret")
    for wrong in (None, b"", b"wrong"):
        with pytest.raises(InputError, match="password"):
            sign(broken, private, wrong)
    assert not (broken / "model.sig").exists()
    sign(broken, private, b"secret")
    check_signature(broken, public)


def test_keys_that_cannot_be_used(broken, tmp_path, capsys):
    sign(broken, write_keys(tmp_path)[0])
    (tmp_path / "text").write_text("no key")
    (tmp_path / "large").write_bytes(b"x" * 100_000)
    unfit = {
        "rsa": rsa.generate_private_key(65537, 2048),
        "ed": ed25519.Ed25519PrivateKey.generate(),
        "k1": ec.generate_private_key(ec.SECP256K1()),
    }
    pairs = [write_keys(tmp_path, name, key) for name, key in unfit.items()]
    pairs += [(tmp_path / name, tmp_path / name) for name in ("text", "large", "none")]
    pairs += [tuple(reversed(write_keys(tmp_path, "swapped")))]
    for private, public in pairs:
        with pytest.raises(InputError, match=r"[Ee]xpected"):
            sign(broken, private, overwrite=True)
        assert main(["verify", str(broken), "--key", str(public)]) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_only_a_sound_bundle_is_signed_and_only_once(broken, keys, tmp_path):
    with pytest.raises(BundleError):
        sign(tmp_path, keys[0])
    sign(broken, keys[0])
    first = (broken / "model.sig").read_bytes()
    with pytest.raises(InputError, match="--overwrite"):
        sign(broken, keys[0])
    assert (broken / "model.sig").read_bytes() == first
    raw = bytearray((broken / "encoder.onnx").read_bytes())
    raw[-1] ^= 1
    (broken / "encoder.onnx").write_bytes(raw)
    with pytest.raises(IntegrityError):
        sign(broken, keys[0], overwrite=True)
    assert (broken / "model.sig").read_bytes() == first


def test_the_libraries_own_command_accepts_the_signature(signed, keys):
    """A standard's signature is one that others' tools read."""
    done = subprocess.run(
        [
            sys.executable, "-m", "model_signing", "verify", "key", signed,
            "--signature", signed / "model.sig", "--public_key", keys[1], "--ignore-paths", signed / "model.sig",
        ],
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert verify(signed)


def test_a_missing_package_is_a_paragraph_that_names_the_extra(signed, keys, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "model_signing.verifying", None)
    assert main(["verify", str(signed), "--key", str(keys[1])]) == 2
    told = capsys.readouterr().err
    assert signing.INSTALL in told
    assert told.count("\n") == 1


def edgeae(*arguments, **environment):
    command = [sys.executable, "-m", "edgeae", *map(str, arguments)]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
    )


def test_the_command_signs_and_says_what_to_do_next(broken, tmp_path):
    private, public = write_keys(tmp_path, password=b"secret")
    done = edgeae("sign", broken, "--key", private)
    assert done.returncode == 2
    assert PASSWORD in done.stderr
    done = edgeae("sign", broken, "--key", private, **{PASSWORD: "secret"})
    assert done.returncode == 0, done.stderr
    assert f"Next: edgeae-runtime verify {broken} --key {public}" in done.stdout
    assert edgeae("verify", broken, "--key", public).returncode == 0
    public.unlink()
    done = edgeae("sign", broken, "--key", private, "--overwrite", **{PASSWORD: "secret"})
    (command,) = (line.removeprefix("Next: ") for line in done.stdout.splitlines() if line.startswith("Next: "))
    if shutil.which("openssl"):
        made = subprocess.run(["bash", "-c", f"{command} -passin pass:secret"], capture_output=True, check=False)
        assert made.returncode == 0, made.stderr
        assert edgeae("verify", broken, "--key", public).returncode == 0
    (broken / "README.md").write_text("changed")
    _, other = write_keys(tmp_path, "other")
    done = edgeae("verify", broken, "--key", other)
    assert (done.returncode, done.stdout) == (1, ""), done.stderr


@pytest.mark.skipif(not shutil.which("openssl"), reason="the commands are OpenSSL's")
def test_the_commands_of_the_page_on_security(broken, tmp_path):
    text = (BUNDLE.parent.parent / "docs" / "security.md").read_text()
    lines = re.findall(r"^(openssl .*|edgeae.* --key .*?)(?:  #.*)?$", text, re.MULTILINE)
    assert len(lines) == 4
    programs = "".join(
        f'{name}() {{ "{sys.executable}" -m {module} "$@"; }}; '
        for name, module in (("edgeae", "edgeae"), ("edgeae-runtime", "edgeae_runtime"))
    )
    done = subprocess.run(
        ["bash", "-ec", programs + "\n".join(lines)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Verified" in done.stdout
