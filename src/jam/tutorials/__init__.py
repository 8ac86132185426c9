"""The built-in world: drawing tutorials made by program, their exact checker, and the tiny parents."""

from pathlib import Path

PARENTS = Path(__file__).parent / "parents"
