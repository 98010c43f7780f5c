"""LinearDecay: the learning rate with which pre-trained encoders are fine-tuned."""

from typing import Any

import keras
from keras import ops

from embkeras._checks import number, whole_number
from embkeras.errors import OptimizerError


@keras.saving.register_keras_serializable("embkeras")
class LinearDecay(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate that rises from 0 to its peak, and falls to 0 at the last step, along two straight lines.

    Encoders are fine-tuned with a peak of 2e-5 to 1e-4 over 2 to 4 epochs (Devlin et al. 2019), commonly in an AdamW
    without decay on biases and normalisations, and with smaller rates for lower layers: see the example. A `Phase` takes it
    as `learning_rate=` too, and counts its steps from the phase's first one.

    Args:
        learning_rate: the peak.
        steps: batches of the whole training; after them the rate is 0.
        warmup: the share of the steps in which it rises, from 0 up to but not including 1. A rise of
            less than one step is left out: the first step has the peak.

    Raises:
        OptimizerError: a rate that isn't above 0, no steps, or a share out of range.

    Examples:
        >>> rate = LinearDecay(5e-5, steps=1000, warmup=0.1)
        >>> [f"{float(rate(step)):.1e}" for step in (0, 50, 100, 550, 1000)]
        ['0.0e+00', '2.5e-05', '5.0e-05', '2.5e-05', '0.0e+00']
        >>> optimizer = RowWiseAdamW(  # doctest: +SKIP
        ...     LinearDecay(1e-4, steps=epochs * batches),
        ...     weight_decay=0.01,
        ...     decay_biases=False,
        ...     learning_rate_multipliers=layerwise_rates(model, 0.8, read.layer_groups),
        ... )
    """

    def __init__(self, learning_rate: float, steps: int, *, warmup: float = 0.1):
        super().__init__()
        self.learning_rate = number(learning_rate, "learning_rate", above=0, error=OptimizerError)
        self.steps = whole_number(steps, "steps", least=1, error=OptimizerError)
        self.warmup = number(warmup, "warmup", least=0, below=1, error=OptimizerError)

    def __call__(self, step: Any) -> Any:
        """The rate of a step, counted from 0."""
        rise = self.warmup * self.steps
        rise = rise if rise >= 1 else 0.0  # else the only step of a training may have the rate 0
        step = ops.cast(step, "float32")
        share = (self.steps - step) / (self.steps - rise)
        if rise:
            share = ops.minimum(share, step / rise)
        return self.learning_rate * ops.maximum(share, 0.0)

    def get_config(self) -> dict[str, Any]:
        """The settings."""
        return {"learning_rate": self.learning_rate, "steps": self.steps, "warmup": self.warmup}
