"""``python -m camcli`` and the ``camcli`` command."""

from __future__ import annotations


def main() -> None:
    """Run the command line; ends the process with one of the documented exit codes."""
    from camcli.cli.app import main as run

    run()


if __name__ == "__main__":
    main()
