"""Measures: perplexity by modality, and differences between a fused model and its parents."""

from jam.evaluation.perplexity import evaluate
from jam.evaluation.proof import Proof, verify
from jam.evaluation.retention import Kept, Retention, compare_with_parents

__all__ = ["Kept", "Proof", "Retention", "compare_with_parents", "evaluate", "verify"]
