"""Backbones: from images to a pyramid of features, made of a `LayerSet`."""

from keras_resadapt.backbones.backbone import Backbone
from keras_resadapt.backbones.densenet import DenseNet
from keras_resadapt.backbones.mobilenet_v1 import MobileNetV1
from keras_resadapt.backbones.mobilenet_v2 import MobileNetV2
from keras_resadapt.backbones.resnet import ResNet
from keras_resadapt.backbones.vgg import VGG
