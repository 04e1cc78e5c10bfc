"""Learning rates that fall from the head of a vision transformer to its first layer."""

import re

from mmengine.dist import master_only
from mmengine.logging import print_log
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from mmseg.engine.optimizers import LearningRateDecayOptimizerConstructor

# What comes before the first block, by the beginnings of the names.
_BEFORE_BLOCKS = (
    'backbone.cls_token',
    'backbone.pos_embed',
    'backbone.register_tokens',
    'backbone.patch_embed.',
    'backbone.ln_pre.',
    'backbone.pre_ln.',
)
# Learned tokens, which are no weights of a layer.
_TOKENS = ('cls_token', 'pos_embed', 'register_tokens', 'cls_emb')
_OPTIONS = {'num_layers', 'decay_rate', 'layer_decay_rate', 'decay_type'}


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class ViTLayerDecayOptimWrapperConstructor(LearningRateDecayOptimizerConstructor):
    """Layer-wise decay of the learning rate for vision transformers.

    MMSegmentation's own constructors know backbones by the names of their classes, and no plain
    ViT. This one takes any segmentor whose `backbone` has its blocks as ``layers``:
    MiTAVisionTransformer, and MMSegmentation's VisionTransformer with or without MiTA.

    With n blocks, what comes before them is layer 0, block i (from 0) layer i + 1, and all else,
    the final norm and the head, layer n + 1. The learning rate of a layer is multiplied by
    decay_rate ** (n + 1 - layer). Norms, biases and learned tokens get no weight decay.

    Source: Bao et al., arXiv 2106.08254.

    Args:
        optim_wrapper_cfg (dict): As for MMEngine's DefaultOptimWrapperConstructor.
        paramwise_cfg (dict): ``decay_rate``, above 0 and at most 1, or ``layer_decay_rate``, which
            is the same; optionally ``num_layers``, which must be the backbone's, and
            ``decay_type``, ``'layer_wise'`` or ``'layer_wise_vit'``.

    Raises:
        ValueError: An option that is not known or accepted, or that does not fit the model.
    """

    def __init__(self, optim_wrapper_cfg, paramwise_cfg=None):
        super().__init__(optim_wrapper_cfg, paramwise_cfg)
        options = self.paramwise_cfg
        unknown = options.keys() - _OPTIONS
        if unknown:
            raise ValueError(
                f'paramwise_cfg may hold {", ".join(sorted(_OPTIONS))}, '
                f'got {", ".join(sorted(unknown))}'
            )
        rates = [options[name] for name in ('decay_rate', 'layer_decay_rate') if name in options]
        if len(rates) != 1 or not isinstance(rates[0], int | float) or not 0 < rates[0] <= 1:
            raise ValueError(
                'paramwise_cfg must hold one decay_rate, above 0 and at most 1, '
                f'got {rates[0] if len(rates) == 1 else rates!r}'
            )
        kind = options.get('decay_type', 'layer_wise')
        if kind not in ('layer_wise', 'layer_wise_vit'):
            raise ValueError(f"decay_type must be 'layer_wise' or 'layer_wise_vit', got {kind!r}")
        self.decay_rate = rates[0]

    def add_params(self, params, module, **kwargs):
        """Add a group of parameters for each layer, with and without weight decay.

        Args:
            params (list[dict]): Groups; added to in place.
            module (nn.Module): The segmentor.
            **kwargs: Not used; MMEngine's constructor has more.
        """
        num_layers = self._count_layers(module)
        groups = {}
        for name, parameter in module.named_parameters():
            if not parameter.requires_grad:
                continue
            decays = parameter.ndim > 1 and name.rpartition('.')[2] not in _TOKENS
            layer = _layer(name, num_layers)
            scale = self.decay_rate ** (num_layers + 1 - layer)
            group = groups.setdefault(
                f'layer_{layer}_{"decay" if decays else "no_decay"}',
                {
                    'params': [],
                    'param_names': [],
                    'lr_scale': scale,
                    'lr': scale * self.base_lr,
                    'weight_decay': (self.base_wd or 0.0) if decays else 0.0,
                },
            )
            group['params'].append(parameter)
            group['param_names'].append(name)
        for name, group in groups.items():
            group['group_name'] = name
        _report(groups)
        params.extend(groups.values())

    def _count_layers(self, module):
        layers = getattr(getattr(module, 'backbone', None), 'layers', None)
        if layers is None:
            raise ValueError(
                f'{type(self).__name__} needs a segmentor whose backbone has layers, '
                f'got {type(module).__name__}'
            )
        wanted = self.paramwise_cfg.get('num_layers', len(layers))
        if wanted != len(layers):
            raise ValueError(
                f'num_layers in paramwise_cfg must be {len(layers)}, the layers of the backbone, '
                f'got {wanted!r}'
            )
        return len(layers)


def _layer(name, num_layers):
    block = re.match(r'backbone\.layers\.(\d+)\.', name)
    if block:
        return int(block[1]) + 1
    return 0 if name.startswith(_BEFORE_BLOCKS) else num_layers + 1


@master_only
def _report(groups):
    scales = {group['group_name'].rsplit('_', 1)[0]: group['lr_scale'] for group in groups.values()}
    print_log(f'Learning rates are multiplied by {scales}', logger='current')
