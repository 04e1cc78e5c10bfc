"""EncoderDecoder whose training pass is compiled."""

import torch
from mmengine.config import ConfigDict
from mmseg.models import EncoderDecoder
from mmseg.registry import MODELS
from mmseg.utils import add_prefix
from torch import Tensor


@MODELS.register_module()
class CompiledEncoderDecoder(EncoderDecoder):
    """EncoderDecoder that compiles the way from image to logits for training.

    Weights, evaluation and inference are those of EncoderDecoder. Small models on a large GPU spend
    their time on launching kernels, which CUDA graphs save. The first iterations take a minute or
    so. A copy, or a model that was pickled, compiles anew.

    Args:
        *args: As for EncoderDecoder.
        compile_cfg (dict, optional): Arguments of ``torch.compile``. By default
            ``dict(mode='reduce-overhead')``, CUDA graphs, for images on a CUDA device, and no
            compilation for others.
        **kwargs: As for EncoderDecoder.

    Raises:
        ValueError: There is an auxiliary head.
    """

    def __init__(self, *args, compile_cfg=None, **kwargs):
        super().__init__(*args, **kwargs)
        if self.with_auxiliary_head:
            raise ValueError('CompiledEncoderDecoder takes no auxiliary_head')
        if type(self.test_cfg) is dict:  # a model that is not built from a file
            self.test_cfg = ConfigDict(self.test_cfg)
        self.compiles_anywhere = compile_cfg is not None
        self.compile_options = dict(compile_cfg or {'mode': 'reduce-overhead'})
        self._compile()

    def _compile(self):
        # Of the class, with self as an argument: a copy of the model must not run this one.
        self._compiled_forward = torch.compile(EncoderDecoder._forward, **self.compile_options)

    def __getstate__(self):
        """Everything but the compiled function, which cannot be pickled."""
        return {name: v for name, v in self.__dict__.items() if name != '_compiled_forward'}

    def __setstate__(self, state):
        super().__setstate__(state)
        self._compile()

    def loss(self, inputs: Tensor, data_samples: list) -> dict[str, Tensor]:
        """Losses of a batch.

        Args:
            inputs: Images [B, 3, H, W].
            data_samples: Their SegDataSamples, with labels.

        Returns:
            The losses and the accuracy by name.
        """
        if not (self.compiles_anywhere or inputs.is_cuda):
            return super().loss(inputs, data_samples)
        # The logits of the iteration before are not needed any more.
        torch.compiler.cudagraph_mark_step_begin()
        logits = self._compiled_forward(self, inputs)
        return add_prefix(self.decode_head.loss_by_feat(logits, data_samples), 'decode')
