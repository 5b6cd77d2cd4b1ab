"""Heads: from a pyramid of features to the outputs of a task, made of a `LayerSet`."""

from keras_resadapt.heads.box_head import BoxHead
from keras_resadapt.heads.classifier import ClassifierHead
from keras_resadapt.heads.fpn import FPN
from keras_resadapt.heads.mask_head import MaskHead
from keras_resadapt.heads.mask_rcnn import MaskRCNN
from keras_resadapt.heads.refinenet import LightWeightRefineNet, RefineNet
from keras_resadapt.heads.rpn import RPNHead
