"""Vision transformer with a choice of attention."""

import logging
import warnings
from collections.abc import Sequence

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModule, ModuleList
from mmengine.model.weight_init import constant_init, kaiming_init, trunc_normal_
from mmseg.models.utils import PatchEmbed
from mmseg.registry import MODELS
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mita_seg.conversion.input_channels import fit_input_channels
from mita_seg.conversion.key_map import rename_on_load
from mita_seg.conversion.position_embedding import (
    GRID_KEY,
    find_grid,
    grid_of_metadata,
    guess_message,
    resize_position_embedding,
    said_grid,
    say_grid,
)
from mita_seg.models.builder import (
    build_norm,
    build_transformer_block,
    check_no_attention_dropout,
)
from mita_seg.models.pretrained import load_weights, read_weights
from mita_seg.models.sine_cosine import sine_cosine_embedding
from mita_seg.models.token_norm import check_token_norm
from mita_seg.ops.surroundings import is_exporting


@MODELS.register_module()
class MiTAVisionTransformer(BaseModule):
    """MMSegmentation's VisionTransformer, with the attention of each layer chosen by config.

    With ``attn_cfg=dict(type='FullAttention')`` it computes what the stock class computes and loads
    its weights. Weights under the names of the stock class or of timm load by any route, and
    `init_cfg` takes the original file of any source that :mod:`mita_seg.conversion` reads.

    It differs from the stock class in five points. `patch_bias` is on, since timm's and JAX's
    weights have that bias. Drop path acts on both branches of a block. The position embedding is
    resized whenever the patch grid differs, also if it has as many patches. There may be registers.
    ``train()`` returns the model.

    Checkpoints say in the metadata of their state dict which patch grid the position embedding is
    for, so that it is resized from whatever that was. One that says nothing is taken for that of
    `pretrained_size`, else for the model's own if it has as many patches, with a warning if that is
    no square, else for a square.

    Source: Dosovitskiy et al., arXiv 2010.11929; registers, Darcet et al., arXiv 2309.16588.

    Args:
        img_size: Image size in training, pixels: a side or (height, width), at least a patch.
        patch_size: Side of a patch, pixels.
        patch_pad: Padding of images that patches do not divide: ``'corner'``, ``'same'``, pixels at
            every border as an int or (vertically, horizontally), or None: what is left over at the
            right and at the bottom is not seen.
        in_channels: Channels of the image. Weights of `init_cfg` that are for three channels are
            adapted to others, as timm does for its ``in_chans``.
        embed_dims: Channels C of the tokens.
        num_layers: Number of transformer blocks.
        num_heads: Heads per attention; must divide `embed_dims`.
        mlp_ratio: Width of the feed-forward networks, in multiples of `embed_dims`.
        out_origin: Also return the embedded patches, first.
        out_indices: Blocks whose output is returned, each from 0 to num_layers - 1; the int -1
            stands for the last.
        qkv_bias: Give the projections to query, key and value a bias.
        drop_rate: Dropout probability of embeddings, projections and feed-forward networks.
        attn_drop_rate: Must be 0: attention dropout is not offered.
        drop_path_rate: Drop path probability of the last block; grows linearly from 0.
        with_cls_token: Let the blocks see the class token.
        output_cls_token: Return ``[map, class token]`` pairs; needs `with_cls_token`.
        norm_cfg: Config of the normalisation, over the channels of a token; ``dict(type='LN')`` by
            default.
        act_cfg: Config of the activation; ``dict(type='GELU')`` by default.
        patch_norm: Normalise the embedded patches.
        patch_bias: Give the patch embedding a bias.
        pre_norm: Normalise before the first block.
        final_norm: Normalise after the last block.
        interpolate_mode: How the position embedding is resized.
        num_fcs: Linear layers of a feed-forward network.
        norm_eval: Keep normalisation layers in eval mode.
        with_cp: Recompute the blocks in the backward pass to save memory.
        frozen_exclude: Parameters to train, by parts of their names; ``'all'`` freezes none.
        pretrained: Path of weights. MMSegmentation's ``EncoderDecoder(pretrained=...)`` sets it and
            deprecates it in favour of `init_cfg`.
        init_cfg: Initialisation. ``dict(type='Pretrained', checkpoint=...)`` takes a file or URL
            (``.pth``, ``.safetensors`` or ``.npz``) and, optionally, the `prefix` of the names to
            load. Type ``'Pretrained_Part'`` loads the names under ``image_encoder.``.
        attn_cfg: Config of the attention, or a list with one per block;
            ``dict(type='MiTAAttention')`` by default.
        num_registers: Learned tokens between class token and patches, without position embedding.
        pos_embed_init: What the position embedding of the patches is before training:
            ``'trunc_normal'``, small random numbers as in the stock class, or ``'sine_cosine'``,
            with which a model from scratch knows from the start which patches are neighbours. It
            is learned either way.
        pretrained_size: Image size, as `img_size`, that a checkpoint's position embedding was
            trained with, for checkpoints that do not say it.

    Raises:
        TypeError: An argument of the wrong type.
        ValueError: A value that is not accepted; the message names it.
    """

    def __init__(
        self,
        img_size: int | Sequence[int] = 224,
        patch_size: int = 16,
        patch_pad: str | int | Sequence[int] | None = 'corner',
        in_channels: int = 3,
        embed_dims: int = 768,
        num_layers: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4,
        out_origin: bool = False,
        out_indices: int | Sequence[int] = -1,
        qkv_bias: bool = True,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        with_cls_token: bool = True,
        output_cls_token: bool = False,
        norm_cfg: dict | None = None,
        act_cfg: dict | None = None,
        patch_norm: bool = False,
        patch_bias: bool = True,
        pre_norm: bool = False,
        final_norm: bool = False,
        interpolate_mode: str = 'bicubic',
        num_fcs: int = 2,
        norm_eval: bool = False,
        with_cp: bool = False,
        frozen_exclude: Sequence[str] = ('all',),
        pretrained: str | None = None,
        init_cfg: dict | list[dict] | None = None,
        attn_cfg: dict | Sequence[dict] | None = None,
        num_registers: int = 0,
        pos_embed_init: str = 'trunc_normal',
        pretrained_size: int | Sequence[int] | None = None,
    ) -> None:
        super().__init__(init_cfg=_merge_pretrained(pretrained, init_cfg))
        check_no_attention_dropout(attn_drop_rate)
        check_token_norm(norm_cfg)
        if output_cls_token and not with_cls_token:
            raise ValueError('output_cls_token=True needs with_cls_token=True, got False')
        if type(num_registers) is not int or num_registers < 0:
            raise ValueError(f'num_registers must be an int of at least 0, got {num_registers!r}')
        if pos_embed_init not in ('trunc_normal', 'sine_cosine'):
            raise ValueError(
                f"pos_embed_init must be 'trunc_normal' or 'sine_cosine', got {pos_embed_init!r}"
            )
        if pos_embed_init == 'sine_cosine' and embed_dims % 4:
            raise ValueError(
                f"pos_embed_init='sine_cosine' needs embed_dims divisible by 4, got {embed_dims}"
            )

        self.img_size = _pair_of_sizes('img_size', img_size, patch_size)
        self.pretrained_size = None
        if pretrained_size is not None:
            self.pretrained_size = _pair_of_sizes('pretrained_size', pretrained_size, patch_size)
        self.in_channels = in_channels
        self.patch_size = patch_size
        self.grid = tuple(size // patch_size for size in self.img_size)
        self.out_origin = out_origin
        self.out_indices = _check_out_indices(out_indices, num_layers)
        self.with_cls_token = with_cls_token
        self.output_cls_token = output_cls_token
        self.interpolate_mode = interpolate_mode
        self.norm_eval = norm_eval
        self.frozen_exclude = frozen_exclude
        self.pos_embed_init = pos_embed_init

        self.patch_embed = PatchEmbed(
            in_channels=in_channels,
            embed_dims=embed_dims,
            kernel_size=patch_size,
            stride=patch_size,
            padding=_check_patch_pad(patch_pad),
            bias=patch_bias,
            norm_cfg=(norm_cfg or {'type': 'LN'}) if patch_norm else None,
        )
        # The class token is a parameter even where no block sees it, as in the stock class.
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dims))
        num_patches = self.grid[0] * self.grid[1]
        self.pos_embed = nn.Parameter(torch.zeros(1, num_patches + 1, embed_dims))
        self.register_tokens = (
            nn.Parameter(torch.zeros(1, num_registers, embed_dims)) if num_registers else None
        )
        self.drop_after_pos = nn.Dropout(drop_rate)
        self.ln_pre = build_norm(norm_cfg, embed_dims) if pre_norm else None
        self.layers = ModuleList(
            build_transformer_block(
                embed_dims,
                attn_cfg=cfg,
                num_heads=num_heads,
                mlp_ratio=mlp_ratio,
                qkv_bias=qkv_bias,
                drop=drop_rate,
                drop_path=drop_path_rate * i / max(num_layers - 1, 1),
                num_fcs=num_fcs,
                act_cfg=act_cfg,
                norm_cfg=norm_cfg,
                with_cp=with_cp,
            )
            for i, cfg in enumerate(_attn_cfg_per_layer(attn_cfg, num_layers))
        )
        self.ln1 = build_norm(norm_cfg, embed_dims) if final_norm else None
        # Tools that look at maps, such as Grad-CAM, hook modules.
        self.out_map = nn.Identity()
        self._freeze()

    def _freeze(self) -> None:
        if 'all' in self.frozen_exclude:
            return
        for name, parameter in self.named_parameters():
            if not any(part in name for part in self.frozen_exclude):
                parameter.requires_grad = False

    def init_weights(self) -> None:
        """Initialise as `init_cfg` says, by default as the JAX implementation of ViT does.

        Raises:
            ValueError: A checkpoint that cannot be read or that does not fit.
        """
        kind = self.init_cfg.get('type') if isinstance(self.init_cfg, dict) else None
        if self.init_cfg and kind not in ('Pretrained', 'Pretrained_Part'):
            super().init_weights()
            return
        self._init_from_scratch()  # also for what a checkpoint may lack
        if kind is not None:
            prefix = 'image_encoder.' if kind == 'Pretrained_Part' else ''
            source = self.init_cfg['checkpoint']
            weights = read_weights(
                source, self.init_cfg.get('prefix', prefix), self.pretrained_size
            )
            self._adapt_input_channels(weights)
            try:
                self._adapt(weights, '', said_grid(weights))
            except ValueError as error:
                raise ValueError(
                    f'checkpoint {source!r} does not fit the model: {error}'
                ) from error
            load_weights(self, say_grid(weights, self.grid), source)

    def _init_from_scratch(self) -> None:
        trunc_normal_(self.pos_embed, std=0.02)
        if self.pos_embed_init == 'sine_cosine':
            embedding = sine_cosine_embedding(self.grid, self.pos_embed.shape[2])
            self.pos_embed.data[0, 1:].copy_(embedding)
        trunc_normal_(self.cls_token, std=0.02)
        if self.register_tokens is not None:
            trunc_normal_(self.register_tokens, std=0.02)
        kaiming_init(self.patch_embed.projection, mode='fan_in', bias=0.0)
        # A depthwise convolution of the attention keeps torch's initialisation.
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.normal_(module.bias, std=1e-6 if '.ffn.' in name else 0.0)
            elif isinstance(module, _BatchNorm | nn.GroupNorm | nn.LayerNorm):
                constant_init(module, val=1.0, bias=0.0)

    def _adapt_input_channels(self, weights: dict[str, Tensor]) -> None:
        """Give weights for three channels ours, in place."""
        key = 'patch_embed.projection.weight'
        weight = weights.get(key, weights.get('patch_embed.proj.weight'))
        if weight is None or weight.ndim != 4 or weight.shape[1] != 3 or self.in_channels == 3:
            return
        weights[key] = fit_input_channels(weight, self.in_channels)
        print_log(
            f'Adapt the patch embedding from 3 to {self.in_channels} channels: '
            + ('their sum' if self.in_channels == 1 else 'repeated in turn and scaled'),
            logger='current',
        )

    def _adapt(
        self, state_dict: dict[str, Tensor], prefix: str, said: tuple[int, int] | None
    ) -> None:
        """Give weights our names and our size of position embedding, in place."""
        rename_on_load(self, state_dict, prefix)
        key = f'{prefix}pos_embed'
        loaded = state_dict.get(key)
        # One of another width is left to the loader, which names both shapes.
        if (
            not isinstance(loaded, Tensor)
            or loaded.ndim != 3
            or loaded.shape[2] != self.pos_embed.shape[2]
        ):
            return
        pretrained = None
        if self.pretrained_size is not None:
            pretrained = tuple(size // self.patch_size for size in self.pretrained_size)
        grid, guessed = find_grid(loaded, self.grid, said, pretrained)
        if guessed:
            print_log(guess_message(grid), logger='current', level=logging.WARNING)
        if grid != self.grid:
            state_dict[key] = self.resize_pos_embed(loaded, self.grid, grid, self.interpolate_mode)
            print_log(
                f'Resize the position embedding from {grid[0]}x{grid[1]} patches to '
                f'{self.grid[0]}x{self.grid[1]}',
                logger='current',
            )

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *args) -> None:
        self._adapt(state_dict, prefix, grid_of_metadata(local_metadata))
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)

    def _save_to_state_dict(self, destination, prefix, keep_vars) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        # A caller's own dict need not have any.
        metadata = getattr(destination, '_metadata', {}).get(prefix[:-1])
        if metadata is not None:
            metadata[GRID_KEY] = self.grid

    @staticmethod
    def resize_pos_embed(
        pos_embed: Tensor,
        input_shape: Sequence[int],
        pos_shape: Sequence[int],
        mode: str = 'bicubic',
    ) -> Tensor:
        """Resize a position embedding, as the stock class's method of this name does.

        Args:
            pos_embed: [1, n + h * w, C]: the class token's entry first, the patches' last.
            input_shape: The patch grid (h', w') wanted.
            pos_shape: The patch grid (h, w) that it is for.
            mode: Interpolation mode of ``torch.nn.functional.interpolate``.

        Returns:
            [1, 1 + h' * w', C].
        """
        patches = pos_embed[:, -pos_shape[0] * pos_shape[1] :]
        embedding = torch.cat((pos_embed[:, :1], patches), dim=1)
        return resize_position_embedding(embedding, pos_shape, input_shape, mode)

    def forward(self, inputs: Tensor) -> tuple[Tensor | list[Tensor], ...]:
        """Compute feature maps.

        Args:
            inputs: Images [B, in_channels, H, W], of any size.

        Returns:
            Maps [B, C, h, w] of the blocks in `out_indices`, h and w being H and W over the patch
            size, rounded up (down with ``patch_pad=None``). With `output_cls_token` each is a list
            ``[map, class token [B, C]]``.

        Raises:
            ValueError: The images have another number of channels.
        """
        if inputs.shape[1] != self.in_channels:
            raise ValueError(
                f'in_channels={self.in_channels}, but the images have {inputs.shape[1]} channels'
            )
        x, grid = self.patch_embed(inputs)
        x = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x), dim=1)
        x = self.drop_after_pos(x + self._position_embedding(grid))
        start = 1 if self.with_cls_token else 0
        if not self.with_cls_token:
            x = x[:, 1:]
        if self.register_tokens is not None:
            registers = self.register_tokens.expand(x.shape[0], -1, -1)
            x = torch.cat((x[:, :start], registers, x[:, start:]), dim=1)
            start += registers.shape[1]
        if self.ln_pre is not None:
            x = self.ln_pre(x)

        outs = [self._feature_map(x, grid, start)] if self.out_origin else []
        for i, layer in enumerate(self.layers):
            x = layer(x, grid, start)
            if i == len(self.layers) - 1 and self.ln1 is not None:
                x = self.ln1(x)
            if i in self.out_indices:
                outs.append(self._feature_map(x, grid, start))
        return tuple(outs)

    def _position_embedding(self, grid: Sequence[int]) -> Tensor:
        # What is exported may serve any grid; resizing to the same one changes nothing.
        if not is_exporting() and tuple(grid) == self.grid:
            return self.pos_embed
        return resize_position_embedding(self.pos_embed, self.grid, grid, self.interpolate_mode)

    def _feature_map(self, x: Tensor, grid: Sequence[int], start: int) -> Tensor | list[Tensor]:
        feature_map = x[:, start:].transpose(1, 2).reshape(x.shape[0], x.shape[2], *grid)
        feature_map = self.out_map(feature_map.contiguous())
        return [feature_map, x[:, 0]] if self.output_cls_token else feature_map

    def train(self, mode: bool = True) -> 'MiTAVisionTransformer':
        """Set training or eval mode; `norm_eval` keeps normalisation layers in eval mode."""
        super().train(mode)
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm | nn.LayerNorm):
                    module.eval()
        return self


def _merge_pretrained(pretrained, init_cfg):
    if pretrained is None:
        return init_cfg
    if not isinstance(pretrained, str):
        raise TypeError(f'pretrained must be a str or None, got {pretrained!r}')
    if init_cfg:
        raise ValueError(
            f'pretrained and init_cfg cannot both be given, got {pretrained=}, {init_cfg=}'
        )
    warnings.warn(
        'MMSegmentation deprecates pretrained; '
        "use init_cfg=dict(type='Pretrained', checkpoint=...)",
        DeprecationWarning,
        stacklevel=3,
    )
    return {'type': 'Pretrained', 'checkpoint': pretrained}


def _pair_of_sizes(name: str, size: int | Sequence[int], patch_size: int) -> tuple[int, int]:
    sizes = (size,) if isinstance(size, int) else tuple(size)
    if len(sizes) not in (1, 2) or not all(isinstance(side, int) and side > 0 for side in sizes):
        raise ValueError(f'{name} must be one or two positive ints, got {size!r}')
    if min(sizes) < patch_size:
        raise ValueError(f'{name} must be at least patch_size={patch_size}, got {size!r}')
    return sizes[0], sizes[-1]


def _check_patch_pad(patch_pad: str | int | Sequence[int] | None) -> str | int | tuple[int, int]:
    """Padding as PatchEmbed takes it, which knows no None."""
    if patch_pad is None:
        return 0
    if patch_pad in ('corner', 'same'):
        return patch_pad
    pixels = (patch_pad,) if isinstance(patch_pad, int) else patch_pad
    if (
        not isinstance(pixels, list | tuple)
        or len(pixels) not in (1, 2)
        or not all(isinstance(size, int) and size >= 0 for size in pixels)
    ):
        raise ValueError(
            "patch_pad must be 'corner', 'same', None, or one or two ints of at least 0, got "
            f'{patch_pad!r}'
        )
    return pixels[0], pixels[-1]


def _check_out_indices(out_indices: int | Sequence[int], num_layers: int) -> tuple[int, ...]:
    if isinstance(out_indices, int):
        indices = (num_layers - 1 if out_indices == -1 else out_indices,)
    elif isinstance(out_indices, list | tuple):
        indices = tuple(out_indices)
    else:
        raise TypeError(f'out_indices must be an int or a list of ints, got {out_indices!r}')
    if not indices or not all(0 <= index < num_layers for index in indices):
        raise ValueError(
            f'out_indices must be from 0 to {num_layers - 1}, or -1 for the last layer, '
            f'got {out_indices!r}'
        )
    return indices


def _attn_cfg_per_layer(attn_cfg: dict | Sequence[dict] | None, num_layers: int) -> list[dict]:
    if attn_cfg is None:
        attn_cfg = {'type': 'MiTAAttention'}
    if not isinstance(attn_cfg, list | tuple):
        return [attn_cfg] * num_layers
    if len(attn_cfg) != num_layers:
        raise ValueError(
            f'attn_cfg must be one dict or one for each of the {num_layers} layers, '
            f'got {len(attn_cfg)}'
        )
    return list(attn_cfg)
