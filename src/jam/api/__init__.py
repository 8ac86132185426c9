"""The Python API: the commands as functions, and a model folder in memory."""
