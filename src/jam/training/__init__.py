"""One trainer with one `train_step`; recipes, schedule and checkpoints of a run."""

from jam.training.config import DataSource, TrainConfig
from jam.training.report import StepReport
from jam.training.trainer import LEFT_OUT, RESULT, Trainer

__all__ = ["LEFT_OUT", "RESULT", "DataSource", "StepReport", "TrainConfig", "Trainer"]
