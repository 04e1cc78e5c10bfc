"""Whole segmentors: full attention, MiTA attention, and the stock classes of MMSegmentation."""

from contextlib import nullcontext
from pathlib import Path

import torch
import torch.nn.functional as F
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS

import mita_seg.models  # noqa: F401  (registers ours)
from mita_seg.comparison.measure import make_training_iteration
from mita_seg.engine.amp import enable_amp
from mita_seg.utils.cli import leave_out_pretrained, load_config

from .cases import CROP_UNIT
from .correctness import require_finite
from .timing import (
    EAGER,
    GRAPH,
    OK,
    Candidate,
    free_cached_memory,
    modes_on,
    noting_status,
    peak_extra_bytes,
    time_in_turn,
)

FULL, MITA, STOCK = SIDES = ('full', 'mita', 'stock')
TRAINING, COMPLETE_STEP, INFERENCE = 'training step', 'complete step', 'inference'
MITA_CFG = {'type': 'MiTAAttention', 'landmarks': (7, 7), 'topk': 49}


def benchmark_crop(config, crop, *, device, dtype, rounds):
    """Measure the three sides at one crop size, and yield what is measured as soon as it is.

    Inference and training step run from the image to the logits of the decode head, a map of patch
    resolution. In inference the parameters have `dtype`; in training they are float32 under
    autocast to `dtype`, and the step is forward and backward of the cross entropy at patch
    resolution, without an optimizer. The complete step is MMSegmentation's ``train_step`` with its
    loss at full resolution, in ``--amp`` of ``tools/train.py`` unless `dtype` is float32.

    Args:
        config (str | os.PathLike): Config of a segmentor with full attention; all sides follow it.
        crop (Crop): Size and number of the images.
        device (torch.device): Where.
        dtype (torch.dtype): The precision.
        rounds (int): Samples of each time.

    Yields:
        dict: A row for each measure and side: ``status`` and ``reason``; median microseconds
        ``graph_time_us`` and ``eager_time_us``; ``peak_extra_bytes``; and the ratios to full
        attention, ``*_ratio`` (above 1 is faster) and ``memory_ratio`` (below 1 is less). What was
        not measured is None.
    """
    init_default_scope('mmseg')
    size = crop.pixels
    configs = {side: make_config(config, side, size) for side in SIDES}
    models = {side: MODELS.build(cfg.model).to(device) for side, cfg in configs.items()}
    # Blobs, so that neighbouring patches resemble each other as in photographs.
    blobs = torch.randn(crop.batch, 3, size // CROP_UNIT, size // CROP_UNIT, device=device)
    image = F.interpolate(blobs, size=(size, size), mode='bilinear')

    def measure(name, make_function, modes, scope=nullcontext, repeatable=False):
        rows = {side: _new_row(config, crop, side, name, dtype) for side in SIDES}
        candidates = []
        for side, row in rows.items():
            with noting_status(row):
                candidate = Candidate(row, make_function(side), scope, repeatable)
                row['peak_extra_bytes'] = peak_extra_bytes(candidate.function, device, scope)
                candidates.append(candidate)
            free_cached_memory(device)
        time_in_turn(candidates, modes, device, rounds, 'time')
        _add_ratios(rows)
        yield from rows.values()

    def training(side):
        return _make_training_step(models[side].train(), image, dtype)

    def inference(side):
        model, lower_image = models[side].to(dtype).eval(), image.to(dtype)
        with torch.no_grad():
            require_finite([model(lower_image, mode='tensor')])
        return lambda: model(lower_image, mode='tensor')

    def complete(side):
        cfg, model = configs[side], models[side].float()
        if dtype != torch.float32:
            enable_amp(cfg)
        return make_training_iteration(cfg, model, crop.batch, size, size)

    yield from measure(TRAINING, training, modes_on(device))
    yield from measure(INFERENCE, inference, modes_on(device), torch.no_grad, repeatable=True)
    # The last one: on a GPU it compiles for minutes.
    yield from measure(COMPLETE_STEP, complete, (EAGER,))


def make_config(config, side, size):
    """Config of one side; full and MiTA differ in their ``attn_cfg`` alone.

    Args:
        config (str | os.PathLike): Config of a segmentor with full attention.
        side (str): One of ``SIDES``.
        size (int): Height and width of the images, pixels.

    Returns:
        Config: Without pretrained weights.

    Raises:
        ValueError: Backbone and decode head have no ``attn_cfg`` to tell the sides by.
    """
    cfg = load_config(config)
    swapped = str(cfg.model.type).endswith('build_swapped')
    if swapped or any('attn_cfg' not in cfg.model[part] for part in ('backbone', 'decode_head')):
        raise ValueError(
            f'config {str(config)!r} must be of full attention: attn_cfg in model.backbone and '
            'model.decode_head, and nothing swapped'
        )
    leave_out_pretrained(cfg)
    backbone, head = cfg.model.backbone, cfg.model.decode_head
    cfg.model.data_preprocessor.size = backbone.img_size = (size, size)
    if side == MITA:
        backbone.attn_cfg = head.attn_cfg = MITA_CFG
    elif side == STOCK:
        del backbone['attn_cfg'], head['attn_cfg']
        backbone.update(type='VisionTransformer', patch_bias=True)
        backbone.pop('pos_embed_init', None)  # of ours alone; it does not matter to the time
        head.update(type='SegmenterMaskTransformerHead')
        head.setdefault('num_heads', head.embed_dims // 64)
    return cfg


def _make_training_step(model, image, dtype):
    grid = [size // model.backbone.patch_size for size in image.shape[-2:]]
    labels = torch.randint(model.decode_head.num_classes, (len(image), *grid), device=image.device)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    lower = dtype != torch.float32

    def step():
        # A graph's replays would not refresh casts that autocast had cached.
        with torch.autocast(image.device.type, dtype, enabled=lower, cache_enabled=False):
            logits = model(image, mode='tensor')
            loss = F.cross_entropy(logits.float(), labels)
        return torch.autograd.grad(loss, parameters)

    require_finite(step())
    return step


def _new_row(config, crop, side, measure, dtype):
    return {
        'config': Path(config).stem,
        'crop': crop.pixels,
        'batch': crop.batch,
        'side': side,
        'measure': measure,
        'dtype': str(dtype).removeprefix('torch.'),
        'status': OK,
        'reason': '',
        'graph_time_us': None,
        'eager_time_us': None,
        'peak_extra_bytes': None,
        'graph_time_ratio': None,
        'eager_time_ratio': None,
        'memory_ratio': None,
    }


def _add_ratios(rows):
    full = rows[FULL]
    for row in rows.values():
        for mode in (GRAPH, EAGER):
            if full[f'{mode}_time_us'] and row[f'{mode}_time_us']:
                row[f'{mode}_time_ratio'] = full[f'{mode}_time_us'] / row[f'{mode}_time_us']
        if full['peak_extra_bytes'] and row['peak_extra_bytes']:
            row['memory_ratio'] = row['peak_extra_bytes'] / full['peak_extra_bytes']
