"""The command line of the benchmarks."""

from __future__ import annotations

import sys

import tyro

from benchmarks import faults, precision, report, sampling, scale, tokenize, train, watch
from isoloss.errors import IsolossError

if __name__ == "__main__":
    verbs = {
        "train": train.run,
        "sampling": sampling.run,
        "scale": scale.run,
        "precision": precision.run,
        "report": report.run,
        "watch": watch.run,
        "faults": faults.run,
        "tokenize": tokenize.run,
    }
    try:
        tyro.extras.subcommand_cli_from_dict(verbs, prog="python -m benchmarks")
    except IsolossError as error:
        sys.exit(str(error))
