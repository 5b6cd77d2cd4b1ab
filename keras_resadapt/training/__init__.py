"""Training: optimizer, recipes, devices, and resuming after an interruption."""

from keras_resadapt.training.checkpoint import Checkpoint
from keras_resadapt.training.checkpoint_file import (
    TrainingState,
    find_last_checkpoint,
    load_checkpoint,
    load_last_checkpoint,
)
from keras_resadapt.training.determinism import enable_determinism
from keras_resadapt.training.distributed_data import distribute
from keras_resadapt.training.lock import lock_folder
from keras_resadapt.training.lost_workers import (
    WorkerLostError,
    reporting_lost_workers,
)
from keras_resadapt.training.multi_step import MultiStepDecay
from keras_resadapt.training.preemption import PREEMPTED, Preemption
from keras_resadapt.training.recipe import (
    MSNET,
    MUTUALNET,
    MUTUALNET_VGG,
    RANET_CIFAR,
    RANET_IMAGENET,
    RSNET_LEARNED,
    RSNET_MOBILENET_V2,
    RSNET_RESNET,
    Recipe,
)
from keras_resadapt.training.sgd import SGD
from keras_resadapt.training.strategy import (
    STRATEGIES,
    WORKER_TIMEOUT,
    strategy_scope,
)
from keras_resadapt.training.watchdog import Watchdog
from keras_resadapt.training.workers import (
    check_shared_folder,
    check_workers_agree,
    gather_from_workers,
    is_chief,
    num_workers,
    run_on_all,
    run_on_chief,
    software_properties,
)
