"""Small trainings that one process or several do with the same global batches.

    python -m support.process_runs RANK PROCESSES FOLDER [--data DATA] [--gpus]

trains as one of several processes, which meet through a file in FOLDER, and writes losses and
weights to FOLDER/RANK.pth. On the CPU all is in float64, so that no rounding changes which keys an
expert takes; with --gpus each process has a GPU. With --data, a folder of shapes, tools/train.py
then trains with MMEngine's FSDPStrategy into FOLDER/fsdp.
"""

import argparse
import os
import runpy
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import distributed

from support.small_segmentor import CONFIG

BATCH = 4  # images of a step, over all processes
ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Setting:
    """A model and how it is trained."""

    attn_cfg: dict
    backbone: dict = field(default_factory=dict)
    head: dict = field(default_factory=dict)
    segmentor: dict = field(default_factory=dict)
    wrapper: dict = field(default_factory=dict)
    sharded: bool = False  # the weights, over the processes
    flat: bool = False  # FlatDataParallel in place of DistributedDataParallel
    bucket_cap_mb: float | None = None  # how many gradients are summed at once
    equally_labelled: bool = False


_FULL = {'type': 'FullAttention'}
_MITA = {'type': 'MiTAAttention', 'landmarks': (2, 2), 'topk': 3}
_ALL = {**_MITA, 'dwc': True, 'gate': True}
_COMPILED = {'type': 'CompiledEncoderDecoder'}
# Each process divides by the pixels that it has labels of. The default is all of its pixels.
_COUNT_LABELS = {'type': 'CrossEntropyLoss', 'avg_non_ignore': True}
SETTINGS = {
    'full': Setting(_FULL),
    'mita': Setting(_MITA),
    'compress-only': Setting({**_MITA, 'topk': 0}),
    'route-only': Setting({**_MITA, 'shared': False}),
    'two experts per query': Setting({**_MITA, 'num_routed': 2}),
    'dwc': Setting({**_MITA, 'dwc': True}),
    'gate': Setting({**_MITA, 'gate': True}),
    'frozen backbone': Setting(_MITA, backbone={'frozen_exclude': ['nothing']}),
    'registers': Setting(_MITA, backbone={'num_registers': 2}),
    'checkpointing': Setting(_ALL, backbone={'with_cp': True}, head={'with_cp': True}),
    'loss over labelled pixels': Setting(
        _MITA, head={'loss_decode': _COUNT_LABELS}, equally_labelled=True
    ),
    'loss from enlarged logits': Setting(_MITA, head={'fused_loss': False}),
    'accumulated gradients': Setting(_MITA, wrapper={'accumulative_counts': 2}),
    'clipped gradients': Setting(_MITA, wrapper={'clip_grad': {'max_norm': 0.1}}),
    'flat gradients': Setting(_ALL, backbone={'with_cp': True}, head={'with_cp': True}, flat=True),
    'flat gradients of a frozen backbone': Setting(
        _MITA, backbone={'frozen_exclude': ['nothing']}, flat=True
    ),
    'accumulated flat gradients': Setting(_MITA, wrapper={'accumulative_counts': 2}, flat=True),
    'flat gradients in buckets': Setting(_MITA, bucket_cap_mb=0.01, flat=True),
    'clipped flat gradients': Setting(_MITA, wrapper={'clip_grad': {'max_norm': 0.1}}, flat=True),
    'sharded weights': Setting(_ALL, sharded=True),
    # Gradients are summed in several parts; the compiled graph is one.
    'compiled': Setting(
        _ALL, segmentor={**_COMPILED, 'compile_cfg': {'backend': 'eager'}}, bucket_cap_mb=0.01
    ),
}
GPU_SETTINGS = {
    'full': Setting(_FULL, segmentor=_COMPILED),
    'mita': Setting(_ALL, segmentor=_COMPILED),
    'mita in parts': Setting(_ALL, segmentor=_COMPILED, bucket_cap_mb=0.01),
    'flat gradients': Setting(_ALL, segmentor=_COMPILED, flat=True),
    'accumulated flat gradients': Setting(
        _ALL, segmentor=_COMPILED, wrapper={'accumulative_counts': 2}, flat=True
    ),
    'flat gradients in buckets': Setting(_ALL, segmentor=_COMPILED, bucket_cap_mb=0.01, flat=True),
}


def train(setting, rank=0, processes=1, device='cpu'):
    """Train with this process' part of the batches.

    Returns:
        tuple[Tensor, dict[str, Tensor]]: The loss of every step, and the weights at the end, in
        the memory of the CPU.
    """
    from mmengine.model import MMDistributedDataParallel, MMFullyShardedDataParallel
    from mmengine.optim import OptimWrapper

    from mita_seg.engine import FlatDataParallel

    # A CUDA graph is recorded in the second step and repeated from the third on.
    dtype, steps = (torch.float64, 2) if device == 'cpu' else (torch.float32, 8)
    model = _build(setting).to(device, dtype).train()
    if rank and not setting.sharded:  # the weights of the first process are those of all
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
    if processes > 1 and setting.sharded:
        model = MMFullyShardedDataParallel(model, device_id=torch.device(device))
    elif processes > 1 and setting.flat:
        model = FlatDataParallel(model, bucket_cap_mb=setting.bucket_cap_mb or 64)
    elif processes > 1:
        model = MMDistributedDataParallel(
            model, broadcast_buffers=False, bucket_cap_mb=setting.bucket_cap_mb
        )
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.1, momentum=0.9)
    wrapper = OptimWrapper(optimizer, **setting.wrapper)
    wrapper.initialize_count_status(model, 0, steps)
    losses = []
    for step in range(steps):
        batch = _batch(step, rank, processes, setting.equally_labelled, dtype)
        losses.append(model.train_step(batch, wrapper)['loss'].detach().cpu())
    if not setting.sharded:
        model = getattr(model, 'module', model)
    # Of sharded weights these are all, in every process.
    weights = {name: value.cpu() for name, value in model.state_dict().items()}
    return torch.stack(losses), weights


def _build(setting):
    from mmseg.registry import MODELS

    import mita_seg.models  # noqa: F401

    torch.manual_seed(0)
    common = {'attn_cfg': setting.attn_cfg, 'drop_path_rate': 0.0}
    parts = {
        'backbone': {**CONFIG['backbone'], **common, **setting.backbone},
        'decode_head': {**CONFIG['decode_head'], **common, **setting.head},
    }
    model = MODELS.build({'type': 'EncoderDecoder', **CONFIG, **parts, **setting.segmentor})
    with torch.no_grad():
        for parameter in model.parameters():  # none at its neutral initial value
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


def _batch(step, rank, processes, equally_labelled, dtype):
    """Of the images of a step those of a process: R, R + processes, R + 2 processes and so on."""
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    generator = torch.Generator().manual_seed(step)
    images = torch.randn(BATCH, 3, 32, 32, generator=generator).to(dtype)
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
    (base,) = (ROOT / 'configs/mita_segmenter_shapes').glob('*_mita-encdec_*.py')
    config = folder / f'fsdp_{rank}.py'
    config.write_text(_FSDP.format(base=str(base)))
    os.environ['LOCAL_RANK'] = str(rank)
    tool = runpy.run_path(ROOT / 'tools/train.py')
    options = ['--work-dir', str(folder / 'fsdp'), '--data-root', data, '--launcher', 'pytorch']
    tool['main']([str(config), *options])


def main():
    """Train as one of the processes."""
    parser = argparse.ArgumentParser()
    parser.add_argument('rank', type=int)
    parser.add_argument('processes', type=int)
    parser.add_argument('folder', type=Path)
    parser.add_argument('--data')
    parser.add_argument('--gpus', action='store_true')
    args = parser.parse_args()
    device, settings, backend = 'cpu', SETTINGS, 'gloo'
    if args.gpus:
        device, settings, backend = f'cuda:{args.rank}', GPU_SETTINGS, 'nccl'
        torch.cuda.set_device(device)
        torch.backends.cudnn.allow_tf32 = False
    torch.set_num_threads(1)

    distributed._DEFAULT_FIRST_BUCKET_BYTES = 10_000  # no more than bucket_cap_mb
    distributed.init_process_group(
        backend,
        init_method=f'file://{args.folder / "store"}',
        rank=args.rank,
        world_size=args.processes,
    )
    trained = {
        name: train(setting, args.rank, args.processes, device)
        for name, setting in settings.items()
    }
    torch.save(trained, args.folder / f'{args.rank}.pth')
    if args.data:
        _train_with_fsdp(args.rank, args.folder, args.data)
    distributed.destroy_process_group()


if __name__ == '__main__':
    main()
