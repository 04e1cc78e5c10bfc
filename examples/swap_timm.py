"""MiTA in the place of full attention in a Vision Transformer of timm, its weights kept.

python examples/swap_timm.py [--model vit_tiny_patch16_224] [--pretrained] [--size 384 512]
"""

import argparse

import timm
import torch

from mita_seg import restore_attention, swap_attention


def main(argv=None):
    """Compare the features of the model before and after the swap."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--model', default='vit_tiny_patch16_224')
    parser.add_argument('--pretrained', action='store_true', help='fetch the weights')
    parser.add_argument('--size', nargs=2, type=int, default=(384, 512), help='height and width')
    args = parser.parse_args(argv)

    # dynamic_img_size: the position embedding follows the image.
    model = timm.create_model(args.model, pretrained=args.pretrained, dynamic_img_size=True)
    model.eval()
    image = torch.randn(1, 3, *args.size)
    with torch.no_grad():
        full = model.forward_features(image)

        # 7x7 landmarks are 49 experts of 49 keys. The patch grid is found in the model.
        swap_attention(model, dict(landmarks=(7, 7), topk=49))
        mita = model.forward_features(image)

        restore_attention(model)
        again = model.forward_features(image)

    print(f'{full.shape[1]} tokens of {full.shape[2]} channels')
    print(f'largest difference to full attention: {(mita - full).abs().max():.1e}')
    print(f'largest difference after restore_attention: {(again - full).abs().max():.1e}')


if __name__ == '__main__':
    main()
