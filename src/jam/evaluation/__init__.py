"""Measures: perplexity by modality, and what a fused model kept of its parents."""

from jam.evaluation.perplexity import evaluate
from jam.evaluation.retention import Retention, compare_with_parents

__all__ = ["Retention", "compare_with_parents", "evaluate"]
