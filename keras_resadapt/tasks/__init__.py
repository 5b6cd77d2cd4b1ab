"""Tasks: what a network of any family is trained to do.

A family knows no task by name, and a task no family; see `Task`.
"""

from keras_resadapt.tasks.classification import Classification
from keras_resadapt.tasks.coco_metric import CocoMetric
from keras_resadapt.tasks.detection_loss import DetectionLoss, MeanTerms
from keras_resadapt.tasks.detection_scorer import DetectionScorer, binary_masks
from keras_resadapt.tasks.features import Features
from keras_resadapt.tasks.instance_segmentation import InstanceSegmentation
from keras_resadapt.tasks.pixel_loss import PixelLoss
from keras_resadapt.tasks.pixel_metrics import ConfusionScores, confusion_scores
from keras_resadapt.tasks.segmentation import Segmentation
from keras_resadapt.tasks.task import Task
