"""The built-in world: generated drawing tutorials, their exact checker, and the tiny parents."""

from pathlib import Path

PARENTS = Path(__file__).parent / "parents"
