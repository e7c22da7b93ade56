"""What a person asks of the corpus: `python -m stages.corpus ledger`, and `export`, each with `--help`."""

import argparse
import importlib
import signal
import sys

COMMANDS = {
    # command: its module, which has `add_arguments(parser)` and `run(arguments) -> exit status`, and what it does
    "ledger": ("stages.corpus.account", "tell how many rows ended where and why, or the whole story of one row"),
    "export": ("stages.corpus.export.command", "write the rendered corpus for other trainers"),
}


def main() -> int:
    """Run the command that the process's arguments name; only that command's module is imported."""
    parser = argparse.ArgumentParser(prog="python -m stages.corpus", description="What a person asks of the corpus.")
    commands = parser.add_subparsers(dest="command", required=True)
    chosen = sys.argv[1] if len(sys.argv) > 1 else None
    for name, (module, does) in COMMANDS.items():
        command = commands.add_parser(name, help=does, description=f"{does[:1].upper()}{does[1:]}.")
        if name == chosen:
            importlib.import_module(module).add_arguments(command)
    arguments = parser.parse_args()
    status: int = importlib.import_module(COMMANDS[arguments.command][0]).run(arguments)
    return status


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` has seen enough, and that is no error
    sys.exit(main())
