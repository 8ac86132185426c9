"""The story on the built-in world: parents, demo, report. It uses every other room and none uses it."""
