"""Trains an MSNet: a high-resolution network on a low-resolution one.

By default on the package's own demo set, in minutes on a CPU:

    python examples/train_msnet.py --output_dir=runs/demo_msnet

The paper's ImageNet recipe (section 4), on the GPUs of one machine:

    python examples/train_msnet.py --dataset=imagenet2012 --data_dir=DIR \
        --model=resnet18 --resolutions=256,128 --crop_fraction=0.853 \
        --strategy=mirrored --output_dir=runs/msresnet18

An interrupted run goes on with `--resume` from its last finished epoch. At the
end, thresholds are calibrated on held-out training pictures;
`export_savedmodel.py --thresholds` takes them.
"""

import functools

import cascade_report
import training_script
from absl import app, flags

# Before keras: it chooses TensorFlow's convolutions.
import keras_resadapt
from keras_resadapt import training

MODELS = {
    # For the demo set and other small pictures
    "tiny": functools.partial(
        keras_resadapt.MSResNet18,
        depths=(1, 1, 1),
        filters=(16, 32, 64),
        stem="small",
        name="msnet_tiny",
    ),
    "resnet18": keras_resadapt.MSResNet18,
    "mobilenet": keras_resadapt.MSMobileNet,
    "densenet121": keras_resadapt.MSDenseNet121,
}

FLAGS = flags.FLAGS
flags.DEFINE_enum("model", "tiny", list(MODELS), "The network.")
flags.DEFINE_list("resolutions", ["48", "24"], "High and low, in pixels.")
flags.DEFINE_enum("preprocessing", "imagenet", ["imagenet", "unit"], "As MSNet's.")
flags.DEFINE_enum("stem", None, ["small", "imagenet"], "Default: the network's own.")
flags.DEFINE_list("depths", None, "ResNet: blocks a stage, likewise.")
flags.DEFINE_list("filters", None, "ResNet: channels a stage, likewise.")
flags.DEFINE_float("alpha", None, "MobileNet: width multiplier.")


def build_model(num_classes: int) -> keras_resadapt.MSNet:
    """The network that the flags describe."""
    architecture = {"stem": FLAGS.stem, "alpha": FLAGS.alpha}
    for name in ("depths", "filters"):
        values = getattr(FLAGS, name)
        architecture[name] = values and [int(value) for value in values]
    model = MODELS[FLAGS.model](
        num_classes,
        [int(r) for r in FLAGS.resolutions],
        FLAGS.preprocessing,
        **{k: v for k, v in architecture.items() if v is not None},
    )
    cascade_report.check_budget(model)
    return model


def main(_):
    training_script.run(
        training.MSNET,
        build_model,
        cascade_report.report,
        resolutions=lambda model: model.resolution,
        held_out=FLAGS.held_out,
    )


if __name__ == "__main__":
    app.run(main)
