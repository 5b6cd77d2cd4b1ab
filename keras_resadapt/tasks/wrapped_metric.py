"""A metric that gives its inputs another form and passes them to another metric."""

from typing import Any

import keras


class WrappedMetric(keras.metrics.Metric):
    """The result of another metric, which `update_state` of a subclass feeds.

    Args:
        metric: The other metric, a `keras.metrics.Metric`.
        num_classes: Number of classes.
    """

    def __init__(self, metric: keras.metrics.Metric, num_classes: int, **kwargs: Any):
        super().__init__(name=kwargs.pop("name", metric.name), **kwargs)
        self.metric = metric
        self.num_classes = num_classes

    def result(self):
        return self.metric.result()

    def reset_state(self):
        self.metric.reset_state()

    def get_config(self):
        return {
            **super().get_config(),
            "metric": keras.metrics.serialize(self.metric),
            "num_classes": self.num_classes,
        }

    @classmethod
    def from_config(cls, config):
        metric = keras.metrics.deserialize(config["metric"])
        return cls(**{**config, "metric": metric})
