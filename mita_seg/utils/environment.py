"""On what figures were taken."""

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


def describe_environment(device=None):
    """Describe device, versions, threads and date.

    Args:
        device (str, optional): Type of the device, ``'cuda'`` or ``'cpu'``; by default CUDA where
            there is any.

    Returns:
        dict[str, str | int]: For ``environment`` in ``results.json``.
    """
    cuda = torch.cuda.is_available() if device is None else device == 'cuda'
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    if cuda:
        versions.update(cuda=torch.version.cuda, cudnn=torch.backends.cudnn.version())
    return {
        'device': torch.cuda.get_device_name() if cuda else _cpu_name(),
        'torch': torch.__version__,
        'mita_seg': __version__,
        **versions,
        'python': platform.python_version(),
        'platform': platform.platform(),
        'date': datetime.datetime.now().astimezone().isoformat(timespec='seconds'),
        'threads': torch.get_num_threads(),
    }


def _cpu_name():
    if sys.platform == 'linux':
        with open('/proc/cpuinfo') as file:
            for line in file:
                if line.startswith('model name'):
                    return f'CPU: {line.split(":", 1)[1].strip()}, {os.cpu_count()} cores'
    return f'CPU: {platform.processor() or platform.machine()}, {os.cpu_count()} cores'
