"""Illustrated lessons of the built-in world as JSON lines, to try `jam prepare` and `jam train` with.

python examples/lessons.py --out lessons.jsonl [--documents 1500]
"""

from __future__ import annotations

import argparse
from itertools import islice
from pathlib import Path

from jam.documents import write_documents
from jam.tutorials.corpora import interleaved_tutorials


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--documents", type=int, default=1500)
    arguments = parser.parse_args()
    write_documents(arguments.out, islice(interleaved_tutorials(seed=7), arguments.documents))


if __name__ == "__main__":
    main()
