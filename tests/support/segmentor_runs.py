"""Training runs of a segmentor on random images that take a second."""

import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

import mita_seg.models  # noqa: F401
from mita_seg.engine import ResumableRunner
from support.small_segmentor import CONFIG, MITA


class Images(torch.utils.data.Dataset):
    """Random images of 32x32 pixels with three classes."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        metainfo = {'img_shape': (32, 32), 'ori_shape': (32, 32), 'pad_shape': (32, 32)}
        sample = SegDataSample(metainfo=metainfo)
        label = torch.randint(3, (1, 32, 32), generator=generator)
        sample.gt_sem_seg = PixelData(data=label)
        image = torch.randint(256, (3, 32, 32), generator=generator, dtype=torch.uint8)
        return {'inputs': image, 'data_samples': sample}


def model_config(kind='EncoderDecoder', attention=MITA, **options):
    """A segmentor of one encoder and one decoder layer, which see 16 patches."""
    preprocessor = {
        'type': 'SegDataPreProcessor',
        'mean': [127.5] * 3,
        'std': [60.0] * 3,
        'size': (32, 32),
    }
    parts = {part: {**CONFIG[part], 'attn_cfg': attention} for part in ('backbone', 'decode_head')}
    return {**CONFIG, **parts, 'type': kind, 'data_preprocessor': preprocessor, **options}


def make_segmentor_runner(folder, *hooks, model=None, max_iters=6, resume=None, **options):
    """A runner that saves every second iteration."""
    torch.manual_seed(0)  # the weights of the model
    return ResumableRunner(
        model=model or model_config(),
        work_dir=str(folder),
        train_dataloader={
            'dataset': Images(),
            'sampler': {'type': 'InfiniteSampler', 'shuffle': True},
            'batch_size': 2,
            'num_workers': 0,
            'collate_fn': {'type': 'pseudo_collate'},
        },
        train_cfg={'by_epoch': False, 'max_iters': max_iters},
        optim_wrapper={'optimizer': {'type': 'AdamW', 'lr': 1e-3}, **options.pop('wrapper', {})},
        custom_hooks=list(hooks),
        default_hooks={
            'logger': None,
            'checkpoint': {'type': 'CheckpointHook', 'interval': 2, 'by_epoch': False},
        },
        load_from=resume,
        resume=resume is not None,
        randomness={'seed': 5},
        experiment_name=f'{folder.parent.name}_{folder.name}',
        log_level='ERROR',
        default_scope='mmseg',
        **options,
    )
