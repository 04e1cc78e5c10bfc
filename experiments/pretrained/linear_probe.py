"""mIoU of a linear classifier on the patch features of an encoder that is not trained.

    python experiments/pretrained/linear_probe.py CONFIG NAME --work-dir DIR [--cfg-options ...]

It shows what an attention in place of full attention costs before any training. The classifier
learns the most frequent label of each patch of training images; its logits are enlarged to the
pixels of test images. Results of all NAMEs: DIR/results.json.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.dataset import pseudo_collate
from mmseg.evaluation.metrics import IoUMetric

from mita_seg.utils.cli import (
    add_config_options,
    add_data_root,
    build_runner,
    load_config,
    user_errors,
)
from mita_seg.utils.files import write_json
from mita_seg.utils.spread import spread

IGNORED = 255
EPOCHS, BATCH = 30, 4096


def parse_args(argv=None):
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog='linear_probe.py', description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('name', help='what the results are called')
    parser.add_argument('--work-dir', required=True, help='folder of the results')
    parser.add_argument('--train-images', type=int, default=10**9, help='of all, evenly spread')
    parser.add_argument('--test-images', type=int, default=10**9, help='of all, evenly spread')
    add_config_options(parser)
    add_data_root(parser)
    return parser.parse_args(argv)


def main(argv=None):
    """Compute features, train the classifier, test it."""
    args = parse_args(argv)
    results = Path(args.work_dir) / 'results.json'
    with user_errors('linear_probe.py'):
        cfg = load_config(args.config, args.cfg_options, data_root=args.data_root)
        known = json.loads(results.read_text()) if results.is_file() else {}
    if args.name in known:
        return
    cfg.work_dir = args.work_dir
    runner = build_runner(cfg)
    model = runner.model.eval()
    model.init_weights()
    tested = runner.test_dataloader.dataset
    loader = cfg.test_dataloader.copy()
    loader.dataset = {**cfg.train_dataloader.dataset, 'pipeline': loader.dataset.pipeline}
    trained = runner.build_dataloader(loader).dataset

    classifier = train(model, trained, args.train_images)
    known[args.name] = {
        **test(model, classifier, tested, args.test_images),
        'train_images': min(len(trained), args.train_images),
        'test_images': min(len(tested), args.test_images),
    }
    write_json(results, known)
    print(args.name, known[args.name])


def train(model, dataset, count):
    """A classifier of the patches [n, C] of some images."""
    classes = model.decode_head.num_classes
    features, labels = [], []
    for found, label in observe(model, dataset, count):
        features.append(found.flatten(1).T)
        labels.append(majority(label, found.shape[1:], classes))
    return fit(torch.cat(features).float(), torch.cat(labels), classes)


def test(model, classifier, dataset, count):
    """mIoU and pixel accuracy of a classifier, in percent."""
    classes = model.decode_head.num_classes
    areas = torch.zeros(4, classes, dtype=torch.float64)
    for found, label in observe(model, dataset, count):
        size = [side * model.backbone.patch_size for side in found.shape[1:]]
        logits = classifier(found.flatten(1).T.float()).T.view(1, classes, *found.shape[1:])
        logits = F.interpolate(logits, size=size, mode='bilinear', align_corners=False)
        predicted = logits[0, :, : label.shape[0], : label.shape[1]].argmax(0)
        areas += torch.stack(IoUMetric.intersect_and_union(predicted, label, classes, IGNORED))
    metrics = IoUMetric.total_area_to_metrics(*areas)
    return {'mIoU': float(100 * np.nanmean(metrics['IoU'])), 'aAcc': float(100 * metrics['aAcc'])}


@torch.no_grad()
def observe(model, dataset, count):
    """For some images the last feature map [C, h, w], float16, and the labels [H, W]."""
    for index in spread(len(dataset), count):
        sample = dataset[index]
        inputs = model.data_preprocessor(pseudo_collate([sample]))['inputs']
        features = model.extract_feat(inputs)[-1]
        yield features[0].half(), sample['data_samples'].gt_sem_seg.data[0]


def majority(label, grid, classes):
    """The most frequent label of each patch [h * w]; `IGNORED` where most pixels have none."""
    patch = -(label.shape[0] // -grid[0])
    bottom, right = (size * patch - given for size, given in zip(grid, label.shape, strict=True))
    padded = F.pad(label, (0, right, 0, bottom), value=IGNORED)
    padded[padded == IGNORED] = classes
    votes = F.one_hot(padded, classes + 1).view(grid[0], patch, grid[1], patch, classes + 1)
    winners = votes.sum((1, 3)).flatten(0, 1).argmax(1)
    return winners.where(winners < classes, IGNORED)


def fit(features, labels, classes):
    """A classifier of patches [n, C]; the same one for the same patches."""
    known = labels != IGNORED
    features, labels = features[known], labels[known]
    mean, std = features.mean(0), features.std(0) + 1e-6
    features = (features - mean) / std
    torch.manual_seed(0)
    layer = torch.nn.Linear(features.shape[1], classes)
    torch.nn.init.zeros_(layer.weight)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
    for _ in range(EPOCHS):
        for part in torch.randperm(len(features)).split(BATCH):
            loss = F.cross_entropy(layer(features[part]), labels[part])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
    return torch.no_grad()(lambda patches: layer((patches - mean) / std))


if __name__ == '__main__':
    main()
