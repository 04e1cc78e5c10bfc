"""How a model's experts are used, logged while it trains."""

import logging
import math
from collections import defaultdict

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmseg.structures import SegDataSample

from mita_seg.analysis import record_routing, routing_figures
from mita_seg.analysis.arrays import loads
from mita_seg.analysis.observe import mita_layers
from mita_seg.visualization.inputs import shown_image
from mita_seg.visualization.maps import expert_picture
from mita_seg.visualization.names import short_layer_names


@HOOKS.register_module()
class MiTAStatsHook(Hook):
    """Log figures of every MiTA attention, and the map of experts as an image.

    Every `interval` iterations the first images of the training batch pass through the model once
    more, in eval mode and without gradients, so that training goes on as it would have without the
    hook, to the bit. What the visualizer's backends are (local, TensorBoard, WandB), they get

    - ``mita/NAME``, the means over the layers of the figures of
      :func:`mita_seg.analysis.routing_figures`: ``empty_experts``, ``busiest_expert``,
      ``unchosen_keys``, ``unreached_keys``, ``overlap``, ``shared_mass``, each from 0 to 1;
    - ``mita_LAYER/NAME``, the same of each layer;
    - ``mita_load_LAYER/J``, the share of the queries' choices that falls on expert J (from 0);
    - ``mita_experts``, a picture: the image, and beside it the map of experts, a row a layer and a
      column a head, colours as in ``tools/visualize_routing.py``.

    A model without MiTA attention is warned of once, and nothing is logged.

    Args:
        interval (int): Iterations from one log to the next.
        image_interval (int, optional): The same for the picture; 0 for none, `interval` by default.
        images (int): Images of the batch that are looked at.
        load_per_expert (bool): Log the share of every expert.

    Raises:
        ValueError: `interval` or `images` is below 1, or `image_interval` below 0.
    """

    priority = 'LOW'

    def __init__(self, interval=500, image_interval=None, images=1, load_per_expert=True):
        image_interval = interval if image_interval is None else image_interval
        for name, value, least in (
            ('interval', interval, 1),
            ('image_interval', image_interval, 0),
            ('images', images, 1),
        ):
            if type(value) is not int or value < least:
                raise ValueError(f'{name} must be an int of at least {least}, got {value!r}')
        self.interval = interval
        self.image_interval = image_interval
        self.images = images
        self.load_per_expert = load_per_expert
        self._layers = {}

    def before_train(self, runner):
        """Find the layers."""
        try:
            names = list(mita_layers(_unwrapped(runner)))
        except ValueError as error:
            print_log(
                f'MiTAStatsHook logs nothing: {error}', logger='current', level=logging.WARNING
            )
            return
        short = (name.replace(' ', '_') for name in short_layer_names(names))
        self._layers = dict(zip(names, short, strict=True))

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        """Look at the batch if it is time."""
        scalars = self.every_n_train_iters(runner, self.interval)
        picture = self.every_n_train_iters(runner, self.image_interval)
        if not (self._layers and (scalars or picture) and is_main_process()):
            return
        records, image = self._look(_unwrapped(runner), data_batch)
        step = runner.iter + 1
        if scalars:
            runner.visualizer.add_scalars(self._scalars(records), step=step)
        if picture:
            shown = expert_picture(image, list(records.values()))
            runner.visualizer.add_image('mita_experts', shown, step=step)

    @torch.no_grad()
    def _look(self, model, batch):
        """A record of each layer, and the first image as it is shown."""
        # A preprocessor may change samples in place: these are others.
        samples = [
            SegDataSample(metainfo=sample.metainfo)
            for sample in batch['data_samples'][: self.images]
        ]
        images = list(batch['inputs'][: self.images])
        modes = {module: module.training for module in model.modules()}
        model.eval()
        try:
            data = {'inputs': images, 'data_samples': samples}
            inputs = model.data_preprocessor(data, False)['inputs']
            with record_routing(model) as records:
                model(inputs, mode='tensor')
        finally:
            # Not by train(): parts of a model may stay in eval mode.
            for module, training in modes.items():
                module.training = training
        records = {self._layers[name]: calls[-1] for name, calls in records.items() if calls}
        return records, shown_image(images[0], inputs.shape[-2:])

    def _scalars(self, records):
        scalars, by_name = {}, defaultdict(list)
        for layer, routing in records.items():
            for name, figure in routing_figures(routing).items():
                if not math.isnan(figure):  # of routed experts that are not there
                    scalars[f'mita_{layer}/{name}'] = figure
                    by_name[name].append(figure)
            if self.load_per_expert and routing.options.topk:
                load = loads(routing).float().mean((0, 1))
                for expert, share in enumerate((load / load.sum()).tolist()):
                    scalars[f'mita_load_{layer}/{expert}'] = share
        means = {f'mita/{name}': sum(each) / len(each) for name, each in by_name.items()}
        return {**means, **scalars}


def _unwrapped(runner):
    return runner.model.module if is_model_wrapper(runner.model) else runner.model
