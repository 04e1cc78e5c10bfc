"""Training and testing with several processes on machines without a GPU."""

import inspect
from contextlib import contextmanager

import torch
from mmengine.device import get_device
from mmengine.dist import init_dist, is_distributed
from mmengine.registry import MODEL_WRAPPERS
from mmengine.utils.dl_utils import set_multi_processing
from torch.nn.parallel import DistributedDataParallel


def join_processes_without_gpu(cfg):
    """Join the processes of a launcher by gloo where there is no GPU, before a runner does it.

    MMEngine gives every process a GPU and fails without one. Does nothing where there is an
    accelerator, where there is one process, or where the processes have been joined.

    Args:
        cfg (Config): With ``launcher``. ``env_cfg`` is read; ``model_wrapper_cfg`` is set so that
            MMEngine's Runner puts no copy of the model on a GPU.
    """
    if cfg.get('launcher', 'none') == 'none' or get_device() != 'cpu':
        return
    if not is_distributed():
        env_cfg = cfg.get('env_cfg') or {}
        # As MMEngine does, and before, since init_dist chooses a start method if there is none.
        set_multi_processing(**env_cfg.get('mp_cfg', {}), distributed=True)
        with _no_gpu_chosen():
            init_dist(cfg.launcher, **{**env_cfg.get('dist_cfg', {}), 'backend': 'gloo'})
    if cfg.get('model_wrapper_cfg') is None:
        cfg.model_wrapper_cfg = {
            'type': 'MMDistributedDataParallel',
            'broadcast_buffers': False,
            'find_unused_parameters': cfg.get('find_unused_parameters', False),
        }
    wrapper = cfg.model_wrapper_cfg.get('type', 'MMDistributedDataParallel')
    wrapper = MODEL_WRAPPERS.get(wrapper) if isinstance(wrapper, str) else wrapper
    if inspect.isclass(wrapper) and issubclass(wrapper, DistributedDataParallel):
        cfg.model_wrapper_cfg['device_ids'] = None


@contextmanager
def _no_gpu_chosen():
    """MMEngine's init_dist calls this function whatever the backend, and it fails without a GPU."""
    stock, torch.cuda.set_device = torch.cuda.set_device, lambda device: None
    try:
        yield
    finally:
        torch.cuda.set_device = stock
