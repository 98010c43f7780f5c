"""What trains in which epoch, and at which learning rate: phases and the actions they are made of."""

from embkeras.training.schedule.actions import Action, Freeze, Rate, Train, TrainVariables
from embkeras.training.schedule.callback import TrainabilitySchedule, gradual_unfreeze, unfreeze_at
from embkeras.training.schedule.phases import Phase
from embkeras.training.schedule.rows import Rows, unfreeze_rows

__all__ = [
    "Action",
    "Freeze",
    "Phase",
    "Rate",
    "Rows",
    "Train",
    "TrainVariables",
    "TrainabilitySchedule",
    "gradual_unfreeze",
    "unfreeze_at",
    "unfreeze_rows",
]
