"""What it costs and saves to give layers of an encoder MiTA attention, without retraining."""

import torch

from mita_seg.analysis.observe import mita_layers, observe
from mita_seg.engine.amp import training_precision
from mita_seg.finetuning import FULL, with_full_attention
from mita_seg.utils.timing import Timer, medians

PREFIX = 'backbone.layers.'
_ROUNDS = 15
_SECONDS = 2.0  # for both times of a layer


def encoder_layers(model):
    """The layers of the encoder that can have MiTA attention.

    Args:
        model (BaseSegmentor): A segmentor.

    Returns:
        dict[int, str]: Name of the attention by the number of the layer.

    Raises:
        ValueError: There is none, or the encoder is no MiTAVisionTransformer.
    """
    names = [name for name in mita_layers(model) if name.startswith(PREFIX)]
    if type(model.backbone).__name__ != 'MiTAVisionTransformer' or not names:
        raise ValueError(
            'the config must have a MiTAVisionTransformer as backbone, and in its attn_cfg the '
            'MiTAAttention that layers may get'
        )
    return {int(name.removeprefix(PREFIX).partition('.')[0]): name for name in names}


def count_evaluations(layers):
    """How many evaluations :func:`measure_quality` takes."""
    return 1 + len(layers) + max(len(layers) - 1, 0)


def measure_quality(model, layers, evaluate, known, done):
    """Evaluate the model with full attention, with one layer swapped, and with more and more.

    Layers are added in the order of what each costs alone, by the loss. All other attentions of the
    encoder are full; the decoder's are what its config says.

    Args:
        model (BaseSegmentor): The segmentor.
        layers (dict[int, str]): From :func:`encoder_layers`.
        evaluate (Callable[[], dict]): Evaluates the model as it is then; has ``loss``.
        known (dict): What was measured before, by the swapped layers as text; what is measured is
            added.
        done (Callable[[], None]): Called after each evaluation.

    Returns:
        list[int]: The layers in the order in which they are added.
    """

    def measure(swapped):
        key = join(swapped)
        if key not in known:
            with _swapped(model, layers, swapped):
                known[key] = evaluate()
        done()

    measure([])
    for number in layers:
        measure([number])
    order = sorted(layers, key=lambda number: known[join([number])]['loss'])
    for count in range(2, len(order) + 1):
        measure(order[:count])
    return order


def join(swapped):
    """The layers as text, in the order of the model; ``'none'``."""
    return ' '.join(map(str, sorted(swapped))) or 'none'


def _swapped(model, layers, swapped):
    decoder = [name for name in mita_layers(model) if not name.startswith(PREFIX)]
    return with_full_attention(model, but=[*decoder, *(layers[number] for number in swapped)])


def measure_times(model, layers, image, optim_wrapper):
    """Time the attention of each layer, without its projections, in a forward pass.

    Args:
        model (BaseSegmentor): The segmentor.
        layers (dict[int, str]): From :func:`encoder_layers`.
        image (Tensor): Images [B, 3, H, W].
        optim_wrapper (dict | None): Config of the optimizer wrapper, whose precision counts.

    Returns:
        dict[int, dict[str, float]]: Milliseconds by layer, ``full`` and ``mita``.
    """
    device = image.device
    model.eval()
    precision = training_precision(optim_wrapper, device.type)
    observed = observe(model, _inputs, list(layers.values()))
    with observed as collected, torch.no_grad(), precision:
        model.backbone(image)
    found, times = mita_layers(model), {}
    measured = {}  # layers of equal settings and sizes take equal times
    for number, name in layers.items():
        layer, ((q, k, v, grid, start),) = found[name], collected[name]
        kind = (layer.extra_repr(), q.shape)
        if kind not in measured:
            with torch.no_grad():
                measured[kind] = _time(layer, (q, k, v, grid, start), device)
        times[number] = measured[kind]
    return times


def _inputs(layer, attend, passes, q, k, v, grid, start):
    passes.append((q, k, v, grid, start))
    return attend(q, k, v, grid, start)


def _time(layer, inputs, device):
    def run(stage):
        def call():
            layer.set_stage(stage)
            layer.attend(*inputs)

        return call

    try:
        timers = {name: Timer(run(s), device) for name, s in (('full', FULL), ('mita', None))}
        seconds = medians(timers, _ROUNDS, seconds=_SECONDS)
    finally:
        layer.set_stage(None)
    return {name: 1000 * value for name, value in seconds.items()}
