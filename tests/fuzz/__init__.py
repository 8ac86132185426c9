"""The breaker: damaged files, wrong calls and odd requests, of which each must be done or answered in one clear line.

`python -m fuzz` (from tests/, or `make fuzz`) tries as many as fit into some minutes; docs/robustness.md says what is
promised. A case is known by its target, the seed and its number: the same three make the same case.
"""
