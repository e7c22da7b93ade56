"""What a person asks of the benchmarks: `python -m stages.benchmarks score`, with `--help`."""

import argparse
import signal
import sys

from stages.benchmarks import scoring


def main() -> int:
    """Run the command that the process's arguments name."""
    parser = argparse.ArgumentParser(prog="python -m stages.benchmarks", description="What a person asks of the benchmarks.")
    commands = parser.add_subparsers(dest="command", required=True)
    does = "score existing predictions by the official rules, without a model"
    scoring.add_arguments(commands.add_parser("score", help=does, description=f"{does[:1].upper()}{does[1:]}."))
    return scoring.run(parser.parse_args())


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` has seen enough, and that is no error
    sys.exit(main())
