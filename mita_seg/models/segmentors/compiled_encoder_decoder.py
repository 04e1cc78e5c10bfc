"""EncoderDecoder whose training pass is compiled."""

from itertools import chain

import torch
from mmengine.config import ConfigDict
from mmseg.models import EncoderDecoder
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.registry import MODELS
from mmseg.utils import add_prefix
from torch import Tensor, nn
from torch._dynamo.exc import TorchDynamoException

from ..compiling import warn_not_compiled
from .recorded_forward import RecordedForward
from .window_batches import WindowBatches


@MODELS.register_module()
class CompiledEncoderDecoder(WindowBatches, EncoderDecoder):
    """EncoderDecoder that compiles the way from image to logits for training.

    Auxiliary heads are part of it. Weights and results are those of EncoderDecoder.
    Small models on a large GPU spend their time on launching kernels, which CUDA graphs save. The
    first iterations take a minute or so. A copy, or a model that was pickled, compiles anew.

    Inference is not compiled, but windows of ``mode='slide'`` are computed
    ``test_cfg.window_batch`` at a time, see :class:`WindowBatches`, and what comes in sizes that
    are known by then is replayed as a CUDA graph, see :class:`RecordedForward`. Training frees the
    memory of the graphs.

    Args:
        *args: As for EncoderDecoder.
        compile_cfg (dict, optional): Arguments of ``torch.compile``. By default
            ``dict(mode='reduce-overhead', dynamic=False)``, CUDA graphs, for images on a CUDA
            device, if that can be compiled there, and no compilation for others.
        inference_graphs (bool): Whether inference is replayed on a CUDA device.
        **kwargs: As for EncoderDecoder.

    Raises:
        ValueError: A head computes its loss in a way of its own, not from its logits.
    """

    def __init__(self, *args, compile_cfg=None, inference_graphs=True, **kwargs):
        super().__init__(*args, **kwargs)
        for _, head in self._heads():
            if type(head).loss is not BaseDecodeHead.loss:
                raise ValueError(
                    f'CompiledEncoderDecoder needs heads whose loss follows from their logits; '
                    f'{type(head).__name__} computes it in a way of its own: use EncoderDecoder'
                )
        if type(self.test_cfg) is dict:  # a model that is not built from a file
            self.test_cfg = ConfigDict(self.test_cfg)
        self.compiles_anywhere = compile_cfg is not None
        self.inference_graphs = inference_graphs
        self.compile_options = dict(compile_cfg or {'mode': 'reduce-overhead', 'dynamic': False})
        self._eager_for: set[str] = set()
        self._compile()

    def _compile(self):
        # Of the class, with self as an argument: a copy of the model must not run this one.
        self._compiled_forward = torch.compile(_all_logits, **self.compile_options)
        self._recorded_forward = RecordedForward(_logits)
        self._modes: tuple[bool, list] | None = None  # what `train` left behind

    def run_eagerly(self, reason: str, wanted: bool = True) -> None:
        """Train without compilation while there is a reason to.

        What changes from stage to stage would be compiled each time, and hooks of layers see
        nothing of a compiled pass.

        Args:
            reason: Its name; several may hold at once.
            wanted: Whether it holds from now on.
        """
        (self._eager_for.add if wanted else self._eager_for.discard)(reason)

    def _heads(self) -> list[tuple[str, BaseDecodeHead]]:
        """All heads, with what their losses are called."""
        heads = [('decode', self.decode_head)]
        if not self.with_auxiliary_head:
            return heads
        if not isinstance(self.auxiliary_head, nn.ModuleList):
            return [*heads, ('aux', self.auxiliary_head)]
        return [*heads, *((f'aux_{i}', head) for i, head in enumerate(self.auxiliary_head))]

    def __getstate__(self):
        """Everything but what was compiled or recorded, which cannot be pickled."""
        left_out = ('_compiled_forward', '_recorded_forward', '_modes')
        return {name: value for name, value in self.__dict__.items() if name not in left_out}

    def __setstate__(self, state):
        super().__setstate__(state)
        self._compile()

    def train(self, mode: bool = True):
        """Set the mode; for training, the memory of recorded inference is given back.

        MMEngine calls it in every iteration, which takes half a millisecond of Python. So
        nothing is set where all modules are as this method left them.
        """
        if mode:
            self._recorded_forward.clear()
        if self._modes != (mode, _modes(self)):
            super().train(mode)
            self._modes = mode, _modes(self)
        return self

    def encode_decode(self, inputs: Tensor, batch_img_metas: list[dict]) -> Tensor:
        """Logits [B, out_channels, H, W] of images or windows [B, C, H, W]."""
        if (
            not self.inference_graphs
            or type(self.decode_head).predict is not BaseDecodeHead.predict
        ):
            return super().encode_decode(inputs, batch_img_metas)
        logits = self._recorded_forward(self, inputs)
        return self.decode_head.predict_by_feat(logits, batch_img_metas)

    def loss(self, inputs: Tensor, data_samples: list) -> dict[str, Tensor]:
        """Losses of a batch.

        Args:
            inputs: Images [B, 3, H, W].
            data_samples: Their SegDataSamples, with labels.

        Returns:
            The losses and the accuracy by name.
        """
        if self._eager_for or not (self.compiles_anywhere or inputs.is_cuda):
            return super().loss(inputs, data_samples)
        self._move_gradients()
        # The logits of the iteration before are not needed any more.
        torch.compiler.cudagraph_mark_step_begin()
        try:
            # One graph on several GPUs, too: a graph for each part in which gradients are summed
            # costs more in Python than it gains by summing while the next one runs.
            with torch._dynamo.config.patch(optimize_ddp=False):
                logits = self._compiled_forward(self, inputs)
        except TorchDynamoException as error:  # of which those of the compilers behind it are
            if self.compiles_anywhere:
                raise
            self.run_eagerly('it cannot be compiled')
            warn_not_compiled('The training pass is not compiled', error)
            return super().loss(inputs, data_samples)
        losses = {}
        for (name, head), of_head in zip(self._heads(), logits, strict=True):
            losses.update(add_prefix(head.loss_by_feat(of_head, data_samples), name))
        return losses

    def _move_gradients(self):
        """Take gradients that are accumulated out of the memory of a graph that is run anew."""
        weights = chain(self.decode_head.parameters(), self.parameters())
        trained = next((weight for weight in weights if weight.requires_grad), None)
        if trained is None or trained.grad is None:
            return
        for weight in self.parameters():
            if weight.grad is not None:
                weight.grad = weight.grad.clone()


def _modes(model: nn.Module) -> list[tuple[nn.Module, bool]]:
    """All modules of a model and whether each is in training mode."""
    modules = [model]
    for module in modules:  # grows meanwhile
        modules += [child for child in module._modules.values() if child is not None]
    return [(module, module.training) for module in modules]


def _logits(segmentor: CompiledEncoderDecoder, inputs: Tensor) -> Tensor:
    """Logits of the decode head, from images."""
    return segmentor.decode_head.forward(segmentor.extract_feat(inputs))


def _all_logits(segmentor: CompiledEncoderDecoder, inputs: Tensor) -> list[Tensor]:
    """Logits of all heads, from images."""
    features = segmentor.extract_feat(inputs)
    return [head.forward(features) for _, head in segmentor._heads()]
