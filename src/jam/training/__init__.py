"""Training: the trainer, and recipes, schedule and checkpoints of a run."""

from jam.training.config import DataSource, TrainConfig
from jam.training.report import StepReport
from jam.training.run_folder import LEFT_OUT, RESULT
from jam.training.trainer import Trainer

__all__ = ["LEFT_OUT", "RESULT", "DataSource", "StepReport", "TrainConfig", "Trainer"]
