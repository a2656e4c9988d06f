"""`python -m edgeae` is `edgeae`."""

from edgeae.cli import main

main()
