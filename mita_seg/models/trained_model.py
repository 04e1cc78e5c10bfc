"""The model of a config with the weights of a checkpoint."""

import warnings

from mmengine.registry import init_default_scope
from mmengine.runner import load_checkpoint
from mmseg.registry import MODELS

from mita_seg.checkpoint import guard_mmengine_loading
from mita_seg.checkpoint.matching import describe_mismatch
from mita_seg.checkpoint.trained_attention import describe_other_attention
from mita_seg.utils.cli import leave_out_pretrained


def build_trained(cfg, checkpoint):
    """Build a model for use, not for training: in eval mode, on the CPU.

    A checkpoint that was trained with another attention than the config's is warned of.

    Args:
        cfg (Config): The config; its backbone's pretrained weights are left out of it, and its
            default scope becomes that of the process.
        checkpoint (str): File or address; all of its weights must be the model's, and no others.

    Returns:
        tuple[nn.Module, dict]: The model and the checkpoint.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged, refused or does not fit the config.
    """
    guard_mmengine_loading()
    leave_out_pretrained(cfg)
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    model = MODELS.build(cfg.model)
    try:
        content = load_checkpoint(
            model, checkpoint, map_location='cpu', strict=True, logger='silent'
        )
    except RuntimeError as error:
        raise ValueError(describe_mismatch(checkpoint, error)) from error
    difference = describe_other_attention(content, cfg)
    if difference:
        warnings.warn(difference, stacklevel=2)
    model.eval()
    return model, content
