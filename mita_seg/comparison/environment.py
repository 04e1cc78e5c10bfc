"""On what the figures of a comparison were taken."""

import datetime
import os
import platform
import sys
from importlib import metadata

import torch

from mita_seg import __version__

# Both families of OpenMMLab packages; only one of each pair is installed.
_PACKAGES = (
    'mmengine',
    'onedl-mmengine',
    'mmcv',
    'mmcv-lite',
    'onedl-mmcv',
    'mmsegmentation',
    'onedl-mmsegmentation',
    'triton',
    'numpy',
)


def describe_environment():
    """Describe device, versions, threads, date and how the figures were taken.

    Returns:
        dict[str, str | int]: For ``environment`` in ``results.json``.
    """
    cuda = torch.cuda.is_available()
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        'device': torch.cuda.get_device_name() if cuda else _cpu_name(),
        'torch': torch.__version__,
        'mita_seg': __version__,
        **versions,
        'python': platform.python_version(),
        'platform': platform.platform(),
        'date': datetime.datetime.now().astimezone().isoformat(timespec='seconds'),
        'timing': 'after all training, one model at a time, without data loading',
        'threads': torch.get_num_threads(),
        'peak_mem_mb': (
            'peak of the CUDA allocator in training'
            if cuda
            else 'peak resident set of the training process'
        ),
    }


def _cpu_name():
    if sys.platform == 'linux':
        with open('/proc/cpuinfo') as file:
            for line in file:
                if line.startswith('model name'):
                    return f'CPU: {line.split(":", 1)[1].strip()}, {os.cpu_count()} cores'
    return f'CPU: {platform.processor() or platform.machine()}, {os.cpu_count()} cores'
