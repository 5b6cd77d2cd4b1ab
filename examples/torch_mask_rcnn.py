"""Mask R-CNN in torchvision, a contestant of `benchmark_detection.py`.

As a script, it runs what its argument names, a JSON object with the arguments of
`main`. It does not import TensorFlow, because some versions of TensorFlow and
PyTorch crash in one process, and because the memory of the process is measured.
"""

import json
import sys

import detection_batch
import torch
from contestants import work
from torch import nn
from torchvision import ops
from torchvision.models import resnet
from torchvision.models.detection import MaskRCNN, faster_rcnn, mask_rcnn, rpn
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool


def make_backbone(filters, channels):
    """Returns a ResNet-50 with these channels of its stages, and an FPN."""
    body = resnet.ResNet(resnet.Bottleneck, (3, 4, 6, 3))
    body.conv1 = nn.Conv2d(3, filters[0], 7, 2, 3, bias=False)
    body.bn1 = nn.BatchNorm2d(filters[0])
    body.inplanes = filters[0]
    for i, (width, depth) in enumerate(zip(filters, (3, 4, 6, 3)), 1):
        stage = body._make_layer(resnet.Bottleneck, width, depth, 1 if i == 1 else 2)
        setattr(body, f"layer{i}", stage)
    for module in body.modules():
        if isinstance(module, resnet.Bottleneck):
            nn.init.zeros_(module.bn3.weight)
    return BackboneWithFPN(
        body,
        {f"layer{i}": str(i - 1) for i in range(1, 5)},
        [4 * width for width in filters],
        channels,
        LastLevelMaxPool(),
    )


def make_network(filters, channels, units, num_classes, size):
    """Returns a Mask R-CNN for square images of one size."""
    outputs = num_classes + 1
    rpn_head = rpn.RPNHead(channels, 3)
    # Proposals are anchors: equally many in both contestants.
    nn.init.zeros_(rpn_head.bbox_pred.weight)
    return MaskRCNN(
        make_backbone(filters, channels),
        min_size=size,
        max_size=size,
        rpn_head=rpn_head,
        box_head=faster_rcnn.TwoMLPHead(channels * 7**2, units),
        box_predictor=faster_rcnn.FastRCNNPredictor(units, outputs),
        mask_head=mask_rcnn.MaskRCNNHeads(channels, (channels,) * 4, 1),
        mask_predictor=mask_rcnn.MaskRCNNPredictor(channels, channels, outputs),
    )


def training_step(network, images, targets, sgd):
    """Returns a function that runs one step and returns its loss."""
    optimizer = torch.optim.SGD(network.parameters(), **sgd)
    network.train()

    def step():
        loss = sum(network(images, targets).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def inference(network, images):
    """Returns a function that detects objects, with masks of the boxes' own size."""
    network.eval()
    # As in the other contestant, masks are not pasted into whole images.
    network.transform.postprocess = lambda result, *sizes: result

    @torch.inference_mode()
    def step():
        return network(images)

    return step


def roi_align(features, rois, images):
    """Returns a function that runs ROI align and its gradient."""
    features = torch.tensor(features.transpose(0, 3, 1, 2)).requires_grad_()
    rois = torch.tensor(detection_batch.with_images(rois, images))

    def step():
        features.grad = None
        ops.roi_align(features, rois, 7, 0.25, 2).sum().backward()

    return step


def nms(boxes, scores, levels):
    """Returns a function that runs NMS within each level of each image."""
    boxes, scores, levels = map(torch.tensor, (boxes, scores, levels))

    def step():
        for image in zip(boxes, scores, levels):
            ops.batched_nms(*image, 0.7)[:1000]

    return step


def main(name, network, batch_size, sgd, threads):
    torch.set_num_threads(threads)
    if name == "torch_roi_align":
        work(roi_align(*detection_batch.features_and_boxes()))
        return
    if name == "torch_nms":
        work(nms(*detection_batch.candidates()))
        return
    size, num_classes = network["size"], network["num_classes"]
    images, targets = detection_batch.batch(size, batch_size, num_classes)
    images = [torch.tensor(x.transpose(2, 0, 1)) for x in images]
    targets = [
        {
            "boxes": torch.tensor(boxes),
            "labels": torch.tensor(classes) + 1,
            "masks": torch.tensor(masks),
        }
        for boxes, classes, masks in zip(*targets)
    ]
    model = make_network(**network)
    count = sum(p.numel() for p in model.parameters())
    if name == "torch_inference":
        work(inference(model, images), count)
        return
    work(training_step(model, images, targets, sgd), count)


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
