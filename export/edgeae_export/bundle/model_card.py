"""The bundle's README.md: a model card made from the manifest, for whoever finds the folder later."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_USE = """## Use it

```
pip install 'edgeae-runtime[cpu]'
edgeae-runtime verify .
edgeae-runtime sample 16 --bundle . --out samples.npy
```

```python
from edgeae_runtime import Autoencoder

autoencoder = Autoencoder.load("path/to/this/folder")
latents = autoencoder.encode(images)
images = autoencoder.decode(latents)
```
"""


def model_card(document: Mapping[str, Any]) -> str:
    """The card as Markdown, from a manifest's document."""
    shape = next(iter(document["parts"].values()))
    image = shape["inputs"][0] if shape["inputs"][0]["name"] == "image" else shape["outputs"][0]
    batch, *axes = image["shape"]
    axes = [axes[-1], *axes[:-1]] if image.get("layout") == "nhwc" else axes
    image = image | {"shape": [batch, *axes]}
    sizes, latent = (" x ".join(map(str, shape)) for shape in (image["shape"][1:], document["latent"]["shape"]))
    kind = "Variational autoencoder" if document["latent"]["prior"] else "Autoencoder"
    sections = [
        f"# {kind}: images of {sizes}, latents of {latent}",
        "This folder is an edgeae bundle. Everything below was measured when it was exported; the same figures stand "
        "in `manifest.json`.",
        _parts(document),
        _USE,
        _inputs(document),
        _quality(document),
        _checks(document),
        "## Made with\n\n" + ", ".join(f"{tool} {version}" for tool, version in document["versions"].items()),
    ]
    return "\n\n".join(section.strip() for section in sections) + "\n"


def _parts(document: Mapping[str, Any]) -> str:
    rows = ["| part | file | bytes | precision | layers in int8 |", "|---|---|---|---|---|"]
    for name, part in document["parts"].items():
        eight_bit = sum(layer["precision"] == "int8" for layer in part["layers"])
        rows.append(
            f"| {name} | `{part['file']}` | {part['bytes']:,} | {part['precision']} | "
            f"{eight_bit} of {len(part['layers'])} |"
        )
        rows += [
            f"| {name}, {form['name']} | `{form['file']}` | {form['bytes']:,} | {form['precision']} | "
            f"{sum(layer['precision'] == 'int8' for layer in form['layers'])} of {len(form['layers'])} |"
            for form in part.get("variants", ())
        ]
    return "\n".join(rows)


def _inputs(document: Mapping[str, Any]) -> str:
    preprocessing = document["preprocessing"]
    bounded = preprocessing["model_range"]["bounded"]
    images = "images: float32 in [0, 1], or uint8, which is divided by 255" if bounded else "finite float32 of any size"
    encoder = document["parts"].get("encoder")
    if encoder and encoder["inputs"][0]["dtype"] == "uint8":
        order = " x ".join(map(str, encoder["inputs"][0]["shape"][1:]))
        images = (
            f"images: uint8 pixels of {order}, which the graph takes as they are, or float32 in [0, 1], rounded to them"
        )
    lines = ["## What goes in", "", f"- {images}"]
    if preprocessing.get("source_size"):
        height, width = preprocessing["source_size"]
        lines.append(
            f"- pictures of {height} x {width} were padded with zeros by {preprocessing['pad']} "
            "(top, bottom, left, right)"
        )
    low, high = document["latent"]["low"], document["latent"]["high"]
    if low is not None and len(low) <= 8:
        ranges = ", ".join(f"{a:.2f} to {b:.2f}" for a, b in zip(low, high, strict=True))
        lines.append(f"- latents: 98 % of real images lie within {ranges}, per coordinate")
    return "\n".join(lines)


def _quality(document: Mapping[str, Any]) -> str:
    quality = document["quality"]
    return (
        "## Quality\n\n"
        f"Mean squared error against the real images: {quality['reconstruction_mse']:.5f} "
        f"(torch float32: {quality['reconstruction_mse_torch']:.5f}, "
        f"{100 * quality['reconstruction_error_rise']:+.2f} %), over {document['parity']['images']} images."
    )


def _checks(document: Mapping[str, Any]) -> str:
    rows = ["## Parity with torch", "", "| what | metric | measured | limit |", "|---|---|---|---|"]
    for check in document["parity"]["checks"]:
        measured = "no difference" if check["measured"] is None else f"{check['measured']:.3g}"
        rows.append(f"| {check['what']} | {check['metric']} | {measured} | {check['limit']:.3g} |")
    return "\n".join(rows)
