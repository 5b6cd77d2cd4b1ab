"""Running a trained network: what each operating point costs and gives."""

from keras_resadapt.inference.adaptive_predictor import AdaptivePrediction
from keras_resadapt.inference.adaptive_predictor import AdaptivePredictor
from keras_resadapt.inference.batch_norm_calibration import (
    calibrate_batch_norm,
)
from keras_resadapt.inference.calibration import METHODS
from keras_resadapt.inference.calibration import calibrate
from keras_resadapt.inference.evaluation import BudgetedRow
from keras_resadapt.inference.evaluation import anytime
from keras_resadapt.inference.evaluation import budgeted
from keras_resadapt.inference.evaluation import simulate
from keras_resadapt.inference.exit_latency import measure_exit_latency
from keras_resadapt.inference.latency import measure_latency
from keras_resadapt.inference.litert_network import LiteRTNetwork
from keras_resadapt.inference.point_logits import PointLogits
from keras_resadapt.inference.point_logits import collect_logits
from keras_resadapt.inference.query_table import QueryRow
from keras_resadapt.inference.query_table import QueryTable
from keras_resadapt.inference.temperature import fit_temperatures
from keras_resadapt.inference.thresholds import Thresholds
