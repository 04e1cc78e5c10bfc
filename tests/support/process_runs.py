"""Small trainings that one process or several do with the same global batches.

    python -m support.process_runs RANK PROCESSES FOLDER [DATA]

trains every setting as one of several processes, joined by gloo through a file in FOLDER. Process
R writes its losses and weights to FOLDER/R.pth. All is in float64, so that no rounding changes
which keys an expert takes. With DATA, a folder of shapes, tools/train.py then trains with
MMEngine's FSDPStrategy into FOLDER/fsdp.
"""

import os
import runpy
import sys
from pathlib import Path

import torch
from torch import distributed

from support.small_segmentor import CONFIG

STEPS = 3
BATCH = 4  # images of a step, over all processes
_FULL = {'type': 'FullAttention'}
_MITA = {'type': 'MiTAAttention', 'landmarks': (2, 2), 'topk': 3}


def _settings(attn_cfg, backbone=None, head=None, wrapper=None, **others):
    return {
        'equally_labelled': False,
        'sharded': False,
        **others,
        'backbone': {'attn_cfg': attn_cfg, 'drop_path_rate': 0.0, **(backbone or {})},
        'head': {'attn_cfg': attn_cfg, 'drop_path_rate': 0.0, **(head or {})},
        'wrapper': wrapper or {},
    }


# Each process divides by the pixels that it has labels of. The default is all of its pixels.
_COUNT_LABELS = {'type': 'CrossEntropyLoss', 'avg_non_ignore': True}
SETTINGS = {
    'full': _settings(_FULL),
    'mita': _settings(_MITA),
    'compress-only': _settings({**_MITA, 'topk': 0}),
    'route-only': _settings({**_MITA, 'shared': False}),
    'two experts a query': _settings({**_MITA, 'num_routed': 2}),
    'dwc': _settings({**_MITA, 'dwc': True}),
    'gate': _settings({**_MITA, 'gate': True}),
    'frozen backbone': _settings(_MITA, {'frozen_exclude': ['nothing']}),
    'registers': _settings(_MITA, {'num_registers': 2}),
    'checkpointing': _settings(
        {**_MITA, 'dwc': True, 'gate': True}, {'with_cp': True}, {'with_cp': True}
    ),
    'loss over labelled pixels': _settings(
        _MITA, head={'loss_decode': _COUNT_LABELS}, equally_labelled=True
    ),
    'loss from enlarged logits': _settings(_MITA, head={'fused_loss': False}),
    'accumulated gradients': _settings(_MITA, wrapper={'accumulative_counts': 2}),
    'clipped gradients': _settings(_MITA, wrapper={'clip_grad': {'max_norm': 0.1}}),
    'sharded weights': _settings({**_MITA, 'dwc': True, 'gate': True}, sharded=True),
}


def train(name, rank=0, processes=1):
    """Train a setting with this process' part of the batches.

    Returns:
        tuple[list[Tensor], dict[str, Tensor]]: The loss of every step, and the weights at the end.
    """
    from mmengine.model import MMDistributedDataParallel, MMFullyShardedDataParallel
    from mmengine.optim import OptimWrapper

    setting = SETTINGS[name]
    model = _build(setting)
    if processes > 1 and setting['sharded']:
        model = MMFullyShardedDataParallel(model, device_id=torch.device('cpu'))
    elif processes > 1:
        model = MMDistributedDataParallel(model, broadcast_buffers=False)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.1, momentum=0.9)
    wrapper = OptimWrapper(optimizer, **setting['wrapper'])
    wrapper.initialize_count_status(model, 0, STEPS)
    losses = [
        model.train_step(_batch(step, rank, processes, setting['equally_labelled']), wrapper)[
            'loss'
        ]
        for step in range(STEPS)
    ]
    if not setting['sharded']:
        model = getattr(model, 'module', model)
    return losses, model.state_dict()  # of sharded weights: all of them, in every process


def _build(setting):
    from mmseg.registry import MODELS

    import mita_seg.models  # noqa: F401

    torch.manual_seed(0)
    parts = {
        'backbone': {**CONFIG['backbone'], **setting['backbone']},
        'decode_head': {**CONFIG['decode_head'], **setting['head']},
    }
    model = MODELS.build({'type': 'EncoderDecoder', **CONFIG, **parts}).double().train()
    with torch.no_grad():
        for parameter in model.parameters():  # none at its neutral initial value
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


def _batch(step, rank, processes, equally_labelled):
    """Of the images of a step those of a process: R, R + processes, R + 2 processes and so on."""
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    generator = torch.Generator().manual_seed(step)
    images = torch.randn(BATCH, 3, 32, 32, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 3, (BATCH, 1, 32, 32), generator=generator)
    for number, label in enumerate(labels):
        label[0, : 8 if equally_labelled else 5 * number] = 255
    mine = slice(rank, None, processes)
    samples = [SegDataSample(gt_sem_seg=PixelData(data=label)) for label in labels[mine]]
    return {'inputs': images[mine], 'data_samples': samples}


# On a GPU `device_id` is left out, and `state_dict_cfg` is 'full', which moves weights to the CPU
# before they are saved. Where they are there already, torch 2.13 crashes.
_FSDP = """
_base_ = {base!r}
crop_size = (64, 64)
model = dict(
    data_preprocessor=dict(size=crop_size), backbone=dict(img_size=crop_size, num_layers=1))
train_dataloader = dict(batch_size=2)
train_cfg = dict(max_iters=2, val_interval=2)
default_hooks = dict(checkpoint=dict(interval=2))
runner_type = 'FlexibleRunner'
strategy = dict(
    type='FSDPStrategy',
    model_wrapper=dict(type='MMFullyShardedDataParallel', device_id='cpu'),
    state_dict_cfg=dict(
        state_dict_type='FULL_STATE_DICT',
        state_dict_config=dict(type='FullStateDictConfig'),
        optim_state_dict_config=dict(type='FullOptimStateDictConfig')))
"""


def _train_with_fsdp(rank, folder, data):
    root = Path(__file__).resolve().parents[2]
    (base,) = (root / 'configs/mita_segmenter_shapes').glob('*_mita-encdec_*.py')
    config = folder / f'fsdp_{rank}.py'
    config.write_text(_FSDP.format(base=str(base)))
    os.environ['LOCAL_RANK'] = str(rank)
    tool = runpy.run_path(root / 'tools/train.py')
    options = ['--work-dir', str(folder / 'fsdp'), '--data-root', data, '--launcher', 'pytorch']
    tool['main']([str(config), *options])


def main(rank, processes, folder, data=None):
    """Train all settings as one of the processes."""
    store = f'file://{folder / "store"}'
    distributed.init_process_group('gloo', init_method=store, rank=rank, world_size=processes)
    torch.save({name: train(name, rank, processes) for name in SETTINGS}, folder / f'{rank}.pth')
    if data:
        _train_with_fsdp(rank, folder, data)
    distributed.destroy_process_group()


if __name__ == '__main__':
    torch.set_num_threads(1)
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), *sys.argv[4:])
