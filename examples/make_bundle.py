"""Makes examples/bundle, the trained int8 model that anyone can try: `python examples/make_bundle.py`.

The default run on the full Fashion-MNIST (about a minute), exported for any 64-bit machine.
"""

from pathlib import Path

import edgeae
from edgeae.export import export_checkpoint


def main() -> None:
    """Train, export, replace."""
    here = Path(__file__).parent
    edgeae.train(edgeae.load_images("fashion-mnist"), "runs/examples")
    report = export_checkpoint("runs/examples", here / "bundle", quantize="int8", target="x86-vnni", overwrite=True)
    print(report.verdict)


if __name__ == "__main__":
    main()
