"""Torchvision's detections for BatchNormalization with an epsilon of 0.

`python torchvision_script.py > data/maskrcnn_epsilon_zero.json` makes the numbers of
`test_mask_rcnn.py`. It is a script of its own, because some versions of TensorFlow
and PyTorch crash in one process.
"""

import json

import golden
import numpy as np


def weights(shapes):
    """Returns arrays by key, with variances down to 1e-7."""
    arrays = {key: golden.array(key, shape) for key, shape in shapes.items()}
    for key in arrays:
        if key.endswith("running_var"):
            exponents = golden.array(f"{key}.exponent.running_var", shapes[key])
            arrays[key] = (10 ** (7 * (exponents - 1.5))).astype("float32")
            arrays[key.replace("running_var", "weight")] *= np.sqrt(arrays[key])
        if "inner_blocks" in key or "predictor" in key or "bbox_pred" in key:
            arrays[key] *= 0.1  # scores between 0 and 1
    return arrays


def image():
    """Returns one image of 64 x 64 pixels, (height, width, 3) in [0, 255]."""
    rng = np.random.default_rng(0)
    return rng.uniform(0, 255, (64, 64, 3)).astype("float32")


def make_detector():
    """Returns torchvision's Mask R-CNN on a small ResNet."""
    from torchvision.models import detection, resnet
    from torchvision.models.detection import backbone_utils, faster_rcnn, mask_rcnn
    from torchvision.ops.misc import FrozenBatchNorm2d

    body = resnet.ResNet(
        resnet.BasicBlock, [1] * 4, norm_layer=lambda n: FrozenBatchNorm2d(n, eps=0)
    )
    layers = {f"layer{i + 1}": str(i) for i in range(4)}
    channels = [64, 128, 256, 512]
    return detection.MaskRCNN(
        backbone_utils.BackboneWithFPN(body, layers, channels, 16),
        min_size=64,
        max_size=64,
        box_score_thresh=0.0,
        box_detections_per_img=8,
        box_head=faster_rcnn.TwoMLPHead(16 * 49, 16),
        box_predictor=faster_rcnn.FastRCNNPredictor(16, 3),
        mask_head=mask_rcnn.MaskRCNNHeads(16, (16,) * 4, 1),
        mask_predictor=mask_rcnn.MaskRCNNPredictor(16, 16, 3),
    ).eval()


def main():
    import torch

    model = make_detector()
    shapes = {key: list(value.shape) for key, value in model.state_dict().items()}
    arrays = {key: torch.tensor(value) for key, value in weights(shapes).items()}
    model.load_state_dict(arrays)
    with torch.no_grad():
        pixels = torch.tensor(image().transpose(2, 0, 1) / 255)
        (found,) = model([pixels])
    result = {key: found[key].tolist() for key in ("boxes", "labels", "scores")}
    result["mask_sums"] = found["masks"].sum((1, 2, 3)).tolist()
    print(json.dumps({"shapes": shapes, **result}))


if __name__ == "__main__":
    main()
