"""Plots of what a network does, and their numbers."""

from keras_resadapt.analysis.accuracy_cost import plot_accuracy_cost
from keras_resadapt.analysis.agreement import (
    Agreement,
    plot_agreement,
    precision_and_coverage,
)
from keras_resadapt.analysis.bn_statistics import (
    BNStatistics,
    bn_statistics,
    plot_bn_statistics,
)
from keras_resadapt.analysis.complementarity import plot_complementarity
from keras_resadapt.analysis.detections import plot_detections
from keras_resadapt.analysis.exit_difficulty import plot_exit_difficulty
from keras_resadapt.analysis.exit_gallery import ExitGallery, plot_exit_gallery
from keras_resadapt.analysis.feature_spectrum import (
    Spectrum,
    feature_spectrum,
    last_features,
    plot_feature_spectrum,
)
from keras_resadapt.analysis.iou_per_class import plot_iou_per_class
from keras_resadapt.analysis.query_table import plot_query_table
from keras_resadapt.analysis.resolution_table import plot_resolution_table
from keras_resadapt.analysis.segmentation import class_colors, plot_segmentation
