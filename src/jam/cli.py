"""The command line: parse the arguments, and run the command."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence

from jam.checkpoints.manifest import version
from jam.commands import COMMANDS, overview, parse, told
from jam.console import Console


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status of `jam`: 0 done, 1 a user's error or a failed proof, 2 a wrong call, 130 interrupted."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    warnings.filterwarnings("ignore", "torch.distributed is disabled")  # one process needs no group for its checkpoints
    errors = Console(stderr=True, soft_wrap=True, highlight=False)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(overview())
        return 0
    if arguments == ["--version"]:
        print(f"jam {version()}")
        return 0
    try:
        command, settings = parse(arguments)
    except (ValueError, OSError) as error:  # OSError: a recipe's name that no file can have
        errors.print(f"jam: {told(error)}", markup=False)
        return 2
    try:
        return COMMANDS[command].run(settings) or 0
    except (ValueError, OSError) as error:  # OSError: a folder without write permission, and the like
        errors.print(f"jam {command}: {told(error)}", markup=False)
        return 1
    except KeyboardInterrupt:
        errors.print(f"jam {command}: interrupted", markup=False)
        return 130


if __name__ == "__main__":
    raise SystemExit(main())
