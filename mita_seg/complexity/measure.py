"""FLOPs, parameters and activation memory of a segmentor, with full and with MiTA attention."""

import torch
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch.multiprocessing.reductions import StorageWeakRef

from mita_seg.analysis.observe import mita_layers
from mita_seg.comparison.measure import count_flops
from mita_seg.swap import swap_attention
from mita_seg.utils.cli import leave_out_pretrained

FULL, MITA = 'full', 'MiTA'
SIDES = (FULL, MITA)
DEFAULT_MITA = {'landmarks': (7, 7), 'topk': 49}


def build_sides(cfg, mita=None):
    """Build the model of a config twice.

    Args:
        cfg (Config): Of a segmentor; its pretrained weights are left out.
        mita (dict, optional): Settings of the MiTA attention, which then takes the place of every
            attention. By default the model is the config's own, or if that has full attention
            alone, one with ``DEFAULT_MITA``.

    Returns:
        dict[str, nn.Module]: By ``SIDES``, in eval mode: all attention full, and MiTA.

    Raises:
        TypeError, ValueError: As :func:`mita_seg.swap_attention` does.
    """
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    leave_out_pretrained(cfg)
    models = {side: revert_sync_batchnorm(MODELS.build(cfg.model)) for side in SIDES}
    if mita is None:
        try:
            mita_layers(models[MITA])
        except ValueError:
            mita = DEFAULT_MITA
    swap_attention(models[FULL], {'type': 'FullAttention'})
    if mita is not None:
        swap_attention(models[MITA], dict(mita))
    for model in models.values():
        model.eval()  # apart: train() of stock backbones returns nothing
    return models


def measure(model, size):
    """Count and measure a model at one size of image.

    Args:
        model (BaseSegmentor): On the device where it is measured.
        size (tuple[int, int]): Height and width, pixels.

    Returns:
        dict: ``flops`` (one multiply-add = 1) and ``params``, both as MMSegmentation's get_flops
        counts them; ``activation_bytes``, see :func:`activation_bytes`.
    """
    image = _make_input(model, size)
    with torch.no_grad():
        flops = count_flops(model, image)['flops_model']
    return {
        'flops': flops,
        'params': sum(parameter.numel() for parameter in model.parameters()),
        'activation_bytes': activation_bytes(model, image),
    }


def activation_bytes(model, image):
    """What the forward pass of a training keeps for the backward pass, from image to logits.

    Parameters are left out; what several operations keep counts once. It is dropped at once, so
    that measuring takes less memory than training would.

    Args:
        model (BaseSegmentor): The model; its mode is eval afterwards.
        image (Tensor): `[B, C, H, W]`.

    Returns:
        int: Bytes, in the precision of the model, with the backend that its device gives it.
    """
    kept = _Kept({parameter.untyped_storage().data_ptr() for parameter in model.parameters()})
    model.train()
    try:
        with torch.autograd.graph.saved_tensors_hooks(kept.add, kept.give_back):
            model(image, mode='tensor')
    finally:
        model.eval()
    return kept.bytes


class _Kept:
    """Counts the storages that autograd keeps, but for some, and forgets them."""

    def __init__(self, without):
        self.bytes = 0
        self._without = without
        self._seen = {}

    def add(self, tensor):
        storage = tensor.untyped_storage()
        address = storage.data_ptr()
        # As nothing is held, an address may be that of another storage later.
        if address not in self._without and (
            address not in self._seen or self._seen[address].expired()
        ):
            self._seen[address] = StorageWeakRef(storage)
            self.bytes += storage.nbytes()

    def give_back(self, _):
        raise RuntimeError('what the forward pass kept was only counted')


def _make_input(model, size):
    """A random image through the model's preprocessor, as get_flops of MMSegmentation does it."""
    channels = getattr(model.backbone, 'in_channels', 3)
    image = torch.randint(0, 256, (channels, *size), dtype=torch.uint8)
    sample = SegDataSample(metainfo={'ori_shape': size, 'pad_shape': size})
    data = {'inputs': [image], 'data_samples': [sample]}
    return model.data_preprocessor(data, False)['inputs']
