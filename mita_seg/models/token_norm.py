"""Which normalisations act on tokens."""

from mmseg.registry import MODELS
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm


def check_token_norm(norm_cfg: dict | None) -> None:
    """Refuse normalisations over maps: tokens [B, N, C] have their channels last.

    Args:
        norm_cfg: Config of the normalisation, or None for LayerNorm.

    Raises:
        TypeError: `norm_cfg` is not a dict.
        ValueError: It has no type that is registered, or batch, instance or group normalisation.
    """
    if norm_cfg is None:
        return
    if not isinstance(norm_cfg, dict):
        raise TypeError(f'norm_cfg must be a dict with a type, or None, got {norm_cfg!r}')
    kind = norm_cfg.get('type')
    norm = MODELS.get(kind) if isinstance(kind, str) else kind
    if norm is None:
        raise ValueError(f"norm_cfg must have a registered type such as 'LN', got {kind!r}")
    if isinstance(norm, type) and issubclass(norm, _BatchNorm | _InstanceNorm | nn.GroupNorm):
        raise ValueError(
            f"norm_cfg must normalise the channels of each token, as 'LN' does, got {kind!r}, "
            'which needs a map with its channels first'
        )
