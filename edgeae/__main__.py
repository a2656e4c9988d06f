"""The program `edgeae`, also as `python -m edgeae`."""

import sys

from edgeae_runtime.command.exits import exit_status


def main() -> int:
    """Entry point; importing the libraries may fail or be interrupted as well."""

    def run() -> int:
        from edgeae.command.app import main

        return main()

    return exit_status(run)


if __name__ == "__main__":
    sys.exit(main())
