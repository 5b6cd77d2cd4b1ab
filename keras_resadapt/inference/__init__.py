"""Running a trained network: what each operating point costs and gives."""

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
from keras_resadapt.inference.measuring.query_table import QueryRow, QueryTable
from keras_resadapt.inference.running.adaptive_predictor import (
    AdaptivePrediction,
    AdaptivePredictor,
)
from keras_resadapt.inference.running.litert_network import LiteRTNetwork
from keras_resadapt.inference.storing.point_logits import (
    PointLogits,
    collect_logits,
)
from keras_resadapt.inference.storing.thresholds import Thresholds
