"""Needs of a training run from configs alone: parameters, memory of a GPU, operations, days."""

from jam.planning.gpus import GPUS, Gpu, find_gpu
from jam.planning.plan import Plan, make_plan

__all__ = ["GPUS", "Gpu", "Plan", "find_gpu", "make_plan"]
