"""One trainer with one `train_step`; recipes, schedule and checkpoints of a run."""

from jam.training.config import DataSource, TrainConfig
from jam.training.trainer import RESULT, StepReport, Trainer

__all__ = ["RESULT", "DataSource", "StepReport", "TrainConfig", "Trainer"]
