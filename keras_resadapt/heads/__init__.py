"""Heads: from a pyramid of features to the outputs of a task, made of a `LayerSet`."""

from keras_resadapt.heads.classifier import ClassifierHead
from keras_resadapt.heads.refinenet import LightWeightRefineNet, RefineNet
