"""The program `edgeae`, also as `python -m edgeae`."""

import sys

from edgeae_runtime.command.exits import exit_status


def main() -> None:
    """Entry point; importing the libraries may fail or be interrupted as well."""

    def run() -> int:
        from edgeae.cli import main

        main()
        return 0

    sys.exit(exit_status(run))


if __name__ == "__main__":
    main()
