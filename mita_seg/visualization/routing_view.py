"""Pictures and page of what a model's experts do on images."""

from mita_seg.analysis import record_routing
from mita_seg.analysis.observe import mita_layers

from .class_queries import draw_class_queries
from .curves import draw_layers
from .landmark_pictures import draw_landmarks
from .maps import draw_expert_maps, draw_recall, draw_shared_share, draw_token_use
from .names import short_layer_names
from .overview import draw_overview
from .page import describe_image


def choose_layers(model, wanted):
    """The layers that a command line asks for.

    Args:
        model (nn.Module): The model.
        wanted (Sequence[str] | None): Names or parts of them, such as ``backbone``, or indices,
            negative ones from the end; None for all.

    Returns:
        list[str]: Names of MiTA attentions, in the order of the model.

    Raises:
        ValueError: The model has no MiTA attention, or none of those asked for.
    """
    names = list(mita_layers(model))
    if wanted is None:
        return names
    chosen = set()
    for each in wanted:
        if each.lstrip('-').isdigit():
            inside = -len(names) <= int(each) < len(names)
            found = [names[int(each)]] if inside else []
        else:
            found = [name for name in names if each in name]
        if not found:
            raise ValueError(
                f'--layers must be from 0 to {len(names) - 1} or parts of '
                f'{", ".join(names)}, got {each!r}'
            )
        chosen.update(found)
    return [name for name in names if name in chosen]


def choose_heads(model, layers, wanted):
    """The heads that a command line asks for.

    Args:
        model (nn.Module): The model.
        layers (Sequence[str]): Names of its attentions.
        wanted (Sequence[int] | None): Indices; None for all.

    Returns:
        list[int]: Indices of heads that every layer has.

    Raises:
        ValueError: A layer has no such head.
    """
    attentions = mita_layers(model)
    least = min(attentions[name].num_heads for name in layers)
    if wanted is None:
        return list(range(least))
    if wrong := [head for head in wanted if not 0 <= head < least]:
        raise ValueError(f'--heads must be from 0 to {least - 1}, got {wrong[0]}')
    return sorted(set(wanted))


class RoutingView:
    """Draws images one after another.

    Args:
        images (WholeImages): The model, and how images are read.
        layers (Sequence[str]): Names of the attentions to show.
        heads (Sequence[int]): Heads to show.
        out (Path): Folder of the pictures.
        landmarks (bool): Also draw a picture of all landmarks for every layer and head.
    """

    def __init__(self, images, layers, heads, out, landmarks=True):
        self.images, self.layers, self.heads, self.out = images, list(layers), list(heads), out
        self.landmarks = landmarks
        self.short = dict(zip(self.layers, short_layer_names(self.layers), strict=True))

    def draw(self, name, image, inputs):
        """Run the model on an image and write its pictures.

        Args:
            name (str): Folder of its pictures in `out`.
            image (ndarray), inputs (Tensor): From :meth:`WholeImages.read`.

        Returns:
            dict: The image's part of the page, see :func:`page.describe_image`.
        """
        with record_routing(self.images.model, self.layers) as records:
            labels = self.images.predict(inputs)
        routings = {self.short[layer]: calls[-1] for layer, calls in records.items() if calls}
        folder = self.out / name
        folder.mkdir(parents=True, exist_ok=True)
        figures = self._draw_overviews(image, labels, routings, folder)
        if self.landmarks:
            self._draw_landmarks(image, routings, folder / 'landmarks')
        return describe_image(
            name, image, labels, routings, self.heads, self.images.classes, figures
        )

    def _draw_overviews(self, image, labels, routings, folder):
        """The pictures of all layers; their files."""
        classes = self.images.classes
        draw_overview(
            image, labels, routings, self.heads[0], self.images.palette, folder / 'overview.png'
        )
        files = [
            draw_expert_maps(image, routings, self.heads, folder / 'experts.png'),
            draw_shared_share(image, routings, self.heads, folder / 'shared_share.png'),
            draw_recall(image, routings, self.heads, folder / 'recall.png'),
            draw_token_use(image, routings, self.heads, folder / 'tokens_in_experts.png'),
            draw_layers(routings, self.heads, folder / 'layers.png'),
            draw_class_queries(
                image, labels, routings, self.heads, classes, folder / 'class_queries.png'
            ),
        ]
        return [file for file in files if file]

    def _draw_landmarks(self, image, routings, folder):
        folder.mkdir(exist_ok=True)
        for layer, routing in routings.items():
            for head in self.heads:
                file = folder / f'{layer.replace(" ", "_")}_head_{head}.png'
                title = f'{layer}, head {head}: landmarks and their experts'
                draw_landmarks(image, routing, head, title, file)
