"""The program `edgeae-runtime`, also as `python -m edgeae_runtime`."""

import sys

from edgeae_runtime.command.exits import exit_status


def main() -> int:
    """Entry point; importing the libraries may fail or be interrupted as well."""

    def run() -> int:
        from edgeae_runtime.command.cli import main

        return main()

    return exit_status(run)


if __name__ == "__main__":
    sys.exit(main())
