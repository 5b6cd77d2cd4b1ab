"""Trains an RS-Net: one network for several resolutions.

By default on the package's own demo set, in minutes on a CPU:

    python examples/train_rsnet.py --output_dir=runs/demo

The paper's ImageNet recipe (section 4.1), on the GPUs of one machine:

    python examples/train_rsnet.py --dataset=imagenet2012 --data_dir=DIR \
        --model=resnet50 --resolutions=224,192,160,128,96 \
        --strategy=mirrored --output_dir=runs/rsnet50

or any folder with train/CLASS/*.jpg and val/CLASS/*.jpg. An interrupted run
goes on with `--resume` from its last finished epoch.
"""

import functools
import json
import os

import training_script
from absl import app, flags

# Before keras: it chooses TensorFlow's convolutions.
import keras_resadapt
from keras_resadapt import analysis, inference, training

MODELS = {
    # For the demo set and other small pictures
    "tiny": functools.partial(
        keras_resadapt.RSNet18,
        depths=(1, 1, 1),
        filters=(16, 32, 64),
        stem="small",
        name="rsnet_tiny",
    ),
    "resnet18": keras_resadapt.RSNet18,
    "resnet34": keras_resadapt.RSNet34,
    "resnet50": keras_resadapt.RSNet50,
    "resnet101": keras_resadapt.RSNet101,
    "mobilenetv2": keras_resadapt.RSMobileNetV2,
}

FLAGS = flags.FLAGS
flags.DEFINE_enum("model", "tiny", list(MODELS), "The network.")
flags.DEFINE_list("resolutions", ["48", "32", "16"], "In pixels.")
flags.DEFINE_enum(
    "distillation", "full", keras_resadapt.losses.DISTILLATIONS, "As RSNet's."
)
flags.DEFINE_enum("preprocessing", "imagenet", ["imagenet", "unit"], "As RSNet's.")
flags.DEFINE_enum("stem", None, ["small", "imagenet"], "Default: the network's own.")
flags.DEFINE_list("depths", None, "ResNet: blocks a stage, likewise.")
flags.DEFINE_list("filters", None, "ResNet: channels a stage, likewise.")
flags.DEFINE_float("alpha", None, "MobileNetV2: width multiplier.")
flags.DEFINE_string(
    "init_from", None, "A PyTorch checkpoint (needs torch) to start from."
)
flags.DEFINE_bool("crop_per_resolution", False, "One crop a resolution (table 6).")


def build_model(num_classes: int) -> keras_resadapt.RSNet:
    """The network that the flags describe."""
    architecture = {"stem": FLAGS.stem, "alpha": FLAGS.alpha}
    for name in ("depths", "filters"):
        values = getattr(FLAGS, name)
        architecture[name] = values and [int(value) for value in values]
    model = MODELS[FLAGS.model](
        num_classes,
        [int(r) for r in FLAGS.resolutions],
        FLAGS.distillation,
        FLAGS.preprocessing,
        **{k: v for k, v in architecture.items() if v is not None},
    )
    if FLAGS.init_from:
        keras_resadapt.convert.load_pytorch_state_dict(model, FLAGS.init_from)
    return model


def report(model, sources) -> None:
    """Prints and saves the table and the plot of accuracy against cost."""
    batches = training_script.evaluation_batches(sources.validation, model.resolutions)
    logs = model.evaluate(batches, verbose=0, return_dict=True)
    latency = inference.measure_latency(model)
    table = [
        {
            "resolution": row.point.resolution,
            "madds": row.madds,
            "params": row.params,
            "accuracy": logs[f"{row.point.name}_accuracy"],
            "ms_per_image": latency[row.point.name],
            "ensemble_weight": float(weight),
        }
        for row, weight in zip(model.profile(), model.ensemble_weights)
    ]
    print("\nresolution  MAdds (M)  params (k)  accuracy  ms an image  alpha")
    for row in table:
        print(
            f"{row['resolution']:>10}{row['madds'] / 1e6:>11.1f}"
            f"{row['params'] / 1e3:>12.1f}{row['accuracy']:>10.3f}"
            f"{row['ms_per_image']:>13.2f}{row['ensemble_weight']:>7.2f}"
        )
    if "ensemble_accuracy" in logs:
        print(f"ensemble of all, accuracy {logs['ensemble_accuracy']:.3f}")
    with open(os.path.join(FLAGS.output_dir, "table.json"), "w") as file:
        json.dump(table, file, indent=1)
    analysis.plot_accuracy_cost(
        {
            model.name: [
                (f"r{row['resolution']}", row["madds"], row["accuracy"])
                for row in table
            ]
        },
        os.path.join(FLAGS.output_dir, "accuracy_cost.png"),
        title=f"One network, {len(table)} costs ({FLAGS.dataset})",
    )


def main(_):
    recipe = (
        training.RSNET_MOBILENET_V2
        if FLAGS.model == "mobilenetv2"
        else training.RSNET_RESNET
    )
    training_script.run(
        recipe,
        build_model,
        report,
        resolutions=lambda model: model.resolutions,
        crop_per_resolution=FLAGS.crop_per_resolution,
    )


if __name__ == "__main__":
    app.run(main)
