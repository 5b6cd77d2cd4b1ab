"""Inference with a trained network, calibration and measurement.

The folders build on one another in this order: storing, running, calibrating,
measuring.
"""

from keras_resadapt.inference.calibrating.batch_norm_calibration import (
    calibrate_batch_norm,
)
from keras_resadapt.inference.calibrating.calibration import METHODS, calibrate
from keras_resadapt.inference.calibrating.temperature import fit_temperatures
from keras_resadapt.inference.measuring.evaluation import (
    BudgetedRow,
    anytime,
    budgeted,
    simulate,
)
from keras_resadapt.inference.measuring.exit_latency import measure_exit_latency
from keras_resadapt.inference.measuring.latency import measure_latency
from keras_resadapt.inference.measuring.query_row import QueryRow
from keras_resadapt.inference.measuring.query_table import QueryTable
from keras_resadapt.inference.running.adaptive_predictor import (
    AdaptivePrediction,
    AdaptivePredictor,
)
from keras_resadapt.inference.running.collecting import collect_logits
from keras_resadapt.inference.running.litert_network import LiteRTNetwork
from keras_resadapt.inference.storing.point_logits import PointLogits
from keras_resadapt.inference.storing.thresholds import Thresholds
