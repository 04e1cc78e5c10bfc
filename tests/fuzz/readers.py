"""What reads files of strangers, each with valid files to start from."""

import contextlib
import io
import json
import random as drawing
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from mmengine.config import Config

from dataset_converters.own_data.class_list import read_class_file
from dataset_converters.own_data.prepare import Options, examine
from mita_seg.checkpoint import load_checkpoint_safely
from mita_seg.checkpoint.guard import load_from_file
from mita_seg.checkpoint.trained_attention import describe_other_attention
from mita_seg.comparison.runs import Run
from mita_seg.conversion import convert
from mita_seg.datasets import LoadCheckedImage, LoadCheckedLabels
from mita_seg.inference.classes import find_classes
from mita_seg.models.config_check import check_attention_configs
from mita_seg.models.pretrained import read_weights
from support import conversion_cases as cases
from support import drawn_folders, hostile_checkpoints, hostile_images, mutations


class Reader(NamedTuple):
    """A reader and files that it takes."""

    files: dict[str, bytes]  # by name, whose ending tells the format
    mutate: Callable[[bytes, drawing.Random], bytes]
    read: Callable[[Path], object]


class _Model:
    num_classes = 3


def read_checkpoint(path):
    """All ways of ours into a checkpoint; each may refuse it."""
    checkpoint = load_checkpoint_safely(path)
    for use in (
        lambda: convert(checkpoint),
        lambda: convert(checkpoint, target='mmseg', img_size=(64, 64)),
        lambda: read_weights(str(path)),
        lambda: describe_other_attention(checkpoint, Config({'model': {}})),
        lambda: find_classes(_Model, load_from_file(str(path)).get('meta', {}), {}),
    ):
        with contextlib.suppress(ValueError):
            use()


def read_image(path):
    """As training and prediction read an image."""
    return LoadCheckedImage()({'img_path': str(path)})


def read_labels(path):
    """As training reads a label map."""
    sample = {'seg_map_path': str(path), 'label_map': None, 'seg_fields': []}
    labels = LoadCheckedLabels(num_classes=254)({**sample, 'reduce_zero_label': False})
    assert labels['gt_seg_map'].max(initial=0) <= 255


def read_outlines(path):
    """As tools/prepare_dataset.py reads a folder with this annotation file."""
    with contextlib.redirect_stdout(io.StringIO()):
        examine(
            path.parent, path.parent.parent / 'out', Options(validation=0.5), say=lambda _: None
        )


def read_results(path):
    """As tools/compare.py reads what a run has left."""
    return Run(path.parent, 'config', 0)._is_current(path)


def read_settings(path):
    """As tools check what a config says of attention."""
    try:
        model = json.loads(path.read_text(errors='replace'))
    except (ValueError, RecursionError):
        return
    check_attention_configs(model if isinstance(model, dict) else {})


def _checkpoints():
    weights = cases.timm_vit()
    meta = {'dataset_meta': {'classes': ('a', 'b'), 'palette': [[1, 2, 3]] * 2}}
    meta |= {'cfg': 'model = dict(backbone=dict(attn_cfg=dict(topk=4)))', 'x': np.zeros((2, 3))}
    arrays = io.BytesIO()
    np.savez(arrays, **cases.augreg())
    from safetensors.torch import save

    return {
        'a.pth': hostile_checkpoints.saved({'state_dict': cases.ours(), 'meta': meta}),
        'b.pth': hostile_checkpoints.saved({'model': weights}),
        'c.pth': hostile_checkpoints.saved(weights, _use_new_zipfile_serialization=False),
        'd.safetensors': save({name: value.contiguous() for name, value in weights.items()}),
        'e.npz': arrays.getvalue(),
    }


def _mutate_checkpoint(data, random):
    if data[:2] == b'PK' and random.random() < 0.6:
        return mutations.mutate_inside_zip(data, random)
    return mutations.mutate(data, random)


def _outlines(folder, kind):
    """A folder of images with outlines; the annotation file that is to be changed."""
    drawn_folders.draw(folder, kind)
    return next(path for path in sorted(folder.rglob('*.json')))


_MODEL = {
    'type': 'EncoderDecoder',
    'backbone': {'type': 'MiTAVisionTransformer', 'attn_cfg': {'type': 'MiTAAttention', 'topk': 4}},
    'decode_head': {'type': 'MiTAMaskTransformerHead', 'attn_cfg': [{'landmarks': [2, 2]}]},
}
_RESULT = {'config': 'a', 'seed': 0, 'mIoU': 1.5, 'options': {'x': 1}, 'checkpoint': 'x/y.pth'}


def make_readers(folder):
    """All readers.

    Args:
        folder (Path): An empty folder for what they need beside the file.

    Returns:
        dict[str, tuple[Reader, Path]]: By name: a reader, and the folder for its files.
    """
    torch.manual_seed(0)
    images = {name: data for name, (data, _) in hostile_images.kinds().items()}
    plain = {
        'checkpoint': Reader(_checkpoints(), _mutate_checkpoint, read_checkpoint),
        'image': Reader(images, mutations.mutate, read_image),
        'labels': Reader(
            {name: images[name] for name in ('grey.png', 'palette.png', 'grey-16.tif', 'bits.png')},
            mutations.mutate,
            read_labels,
        ),
        'results': Reader(
            {'result.json': json.dumps(_RESULT).encode()}, mutations.mutate_json, read_results
        ),
        'settings': Reader(
            {'model.json': json.dumps(_MODEL).encode()}, mutations.mutate_json, read_settings
        ),
        'classes': Reader(
            {
                'classes.json': b'[{"name": "a", "color": [1, 2, 3], "value": 4}, "b"]',
                'classes.csv': b'name,r,g,b\na,1,2,3\nb,4,5,6\n',
            },
            lambda data, random: (mutations.mutate_json if data[:1] == b'[' else mutations.mutate)(
                data, random
            ),
            read_class_file,
        ),
    }
    readers = {name: (reader, folder / name) for name, reader in plain.items()}
    for kind in ('coco', 'labelme'):
        place = folder / kind
        shutil.rmtree(place, ignore_errors=True)
        path = _outlines(place, kind)
        reader = Reader({path.name: path.read_bytes()}, mutations.mutate_json, read_outlines)
        readers[kind] = (reader, path.parent if kind == 'labelme' else place)
    for _, place in readers.values():
        place.mkdir(exist_ok=True)
    return readers
