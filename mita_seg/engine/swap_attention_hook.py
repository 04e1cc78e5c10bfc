"""MiTA in the models of existing configs."""

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS

from mita_seg.swap import swap_attention


@HOOKS.register_module()
class SwapAttentionHook(Hook):
    """Swaps the self-attention of the runner's model before training or testing.

    Parameters and their names stay, so that checkpoints of the model as it was load, and those
    that are written load there.

    Args:
        attn_cfg (dict): The attention, see :func:`mita_seg.swap_attention`.
        layers (int | str | Sequence[int | str], optional): Which layers; all by default.
        grid (str | Sequence[int], optional): Patch grid, where the model does not tell it.

    Raises:
        TypeError, ValueError: As :func:`mita_seg.swap_attention` does, when the run begins.
    """

    priority = 'HIGHEST'  # other hooks see the model as it will be

    def __init__(self, attn_cfg, layers=None, grid=None):
        self.attn_cfg = attn_cfg
        self.layers = layers
        self.grid = grid

    def before_run(self, runner):
        """Swap; a model swapped already gets the same attention again."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        swap_attention(model, dict(self.attn_cfg), layers=self.layers, grid=self.grid)
