"""What training scripts are made of: optimizer, recipes, devices, resuming."""

from keras_resadapt.training.checkpoint import EpochCheckpoint
from keras_resadapt.training.checkpoint import load_last_checkpoint
from keras_resadapt.training.multi_step import MultiStepDecay
from keras_resadapt.training.recipe import MSNET
from keras_resadapt.training.recipe import MUTUALNET
from keras_resadapt.training.recipe import MUTUALNET_VGG
from keras_resadapt.training.recipe import RANET_CIFAR
from keras_resadapt.training.recipe import RANET_IMAGENET
from keras_resadapt.training.recipe import RSNET_LEARNED
from keras_resadapt.training.recipe import RSNET_MOBILENET_V2
from keras_resadapt.training.recipe import RSNET_RESNET
from keras_resadapt.training.recipe import Recipe
from keras_resadapt.training.sgd import SGD
from keras_resadapt.training.strategy import STRATEGIES
from keras_resadapt.training.strategy import strategy_scope
