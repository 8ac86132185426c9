"""Parents, demo and report on the built-in world. This room uses every other room, and no room uses it."""
