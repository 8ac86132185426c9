"""`python -m jam` is the command `jam`."""

from jam.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
