"""The Python API: what the commands do, as functions, and a model folder in memory."""
