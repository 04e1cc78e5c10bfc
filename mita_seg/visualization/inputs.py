"""Images for a trained model, each as a whole in one pass."""

import torch
import torch.nn.functional as F


class WholeImages:
    """A segmentor on whole images, whatever its ``test_cfg`` says.

    Args:
        segmentor (Segmentor): From :func:`mita_seg.load_segmentor`, without test-time augmentation.
        longest_side (int): Images whose longer side has more pixels are shrunk to it.

    Attributes:
        model (BaseSegmentor): Its model.
        classes (tuple[str, ...]): Names of its classes.
        palette (ndarray): Their colours, uint8 `[classes, 3]`.
    """

    def __init__(self, segmentor, longest_side):
        self.model = segmentor.model
        self.classes, self.palette = segmentor.classes, segmentor.palette
        self._segmentor = segmentor
        self._longest_side = longest_side

    def read(self, path):
        """Read an image as the model sees it.

        Args:
            path (str): The file.

        Returns:
            tuple[ndarray, Tensor]: What is shown, `[H, W, 3]` (RGB, uint8); and the input of the
            network, `[1, C, H, W]`.

        Raises:
            FileNotFoundError, ValueError: There is no such image, or it cannot be decoded.
        """
        _, packed = self._segmentor.prepare(path)
        image = _shrink(packed['inputs'], self._longest_side)
        data = {'inputs': [image], 'data_samples': [packed['data_samples']]}
        inputs = self.model.data_preprocessor(data, False)['inputs']
        return shown_image(image, inputs.shape[-2:]), inputs

    @torch.no_grad()
    def predict(self, inputs):
        """Pass an image through the network.

        Args:
            inputs (Tensor): From :meth:`read`.

        Returns:
            ndarray: The class of each patch, int64 `[h, w]`.
        """
        logits = self.model(inputs, mode='tensor')
        if logits.shape[1] == 1:
            return (logits[0, 0] > 0).long().cpu().numpy()
        return logits[0].argmax(0).cpu().numpy()


def shown_image(image, size):
    """An image of a pipeline as it is shown, with what a preprocessor pads as white.

    Args:
        image (Tensor): `[C, h, w]`, values 0 to 255, as MMSegmentation loads them: blue, green,
            red, then any others; or grey.
        size (tuple[int, int]): Height and width of the network's input.

    Returns:
        ndarray: uint8 `[H, W, 3]`, RGB.
    """
    shown = image[:3].flip(0) if image.shape[0] >= 3 else image[:1].expand(3, -1, -1)
    below, right = (max(0, whole - part) for whole, part in zip(size, shown.shape[1:], strict=True))
    shown = F.pad(shown.float().clamp(0, 255), (0, right, 0, below), value=255)
    return shown.byte().permute(1, 2, 0).contiguous().cpu().numpy()


def _shrink(image, longest_side):
    """An image [C, H, W] whose longer side is at most `longest_side`."""
    height, width = image.shape[1:]
    if max(height, width) <= longest_side:
        return image
    scale = longest_side / max(height, width)
    size = [max(1, round(side * scale)) for side in (height, width)]
    small = F.interpolate(image[None].float(), size=size, mode='bilinear', antialias=True)[0]
    return small.round().to(image.dtype) if not image.is_floating_point() else small
