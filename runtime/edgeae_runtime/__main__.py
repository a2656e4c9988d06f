"""`python -m edgeae_runtime` is `edgeae-runtime`."""

import sys

from edgeae_runtime.cli import main

sys.exit(main())
