"""Segmenter's mask transformer with a choice of attention."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from mmengine.model import ModuleList
from mmengine.model.weight_init import constant_init, trunc_normal_, trunc_normal_init
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.registry import MODELS
from torch import Tensor, nn

from mita_seg.conversion.key_map import rename_on_load
from mita_seg.models.builder import (
    build_norm,
    build_transformer_block,
    check_no_attention_dropout,
)
from mita_seg.models.decode_heads.inputs import check_inputs, check_maps
from mita_seg.models.decode_heads.mask_scale import MaskScale
from mita_seg.models.decode_heads.one_channel import check_loss_of_one_channel
from mita_seg.models.decode_heads.pixel_losses import PixelLosses
from mita_seg.models.token_norm import check_token_norm

# A label that no pixel has, where none is to be ignored. Losses expect an int.
_NO_LABEL = -100


@MODELS.register_module()
class MiTAMaskTransformerHead(PixelLosses, BaseDecodeHead):
    """MMSegmentation's SegmenterMaskTransformerHead, with the attention chosen by config.

    One learned embedding per class joins the patches; after the layers, the mask of a class is the
    cosine of its embedding with every patch. Landmarks pool patches only; the class embeddings are
    queries, keys and values like any token.

    With ``attn_cfg=dict(type='FullAttention')`` it computes what the stock class computes and loads
    its weights; ``with_ffn=False`` and three layers make the decoder of arXiv 2602.01219. Drop path
    acts on both branches of a block, and `dropout_ratio` is not ignored.

    The stock head ends in a norm over the scores of a patch. Over two scores that leaves nothing
    but which is larger, and next to no gradient, over one a constant. With one or two classes a
    learned scale takes its place therefore. A head of one channel (``num_classes=1``, or
    ``num_classes=2`` and ``out_channels=1``) has one embedding, the foreground's.

    Source: Strudel et al., arXiv 2105.05633.

    Args:
        in_channels: Channels of the backbone's map; with ``input_transform='resize_concat'`` a list
            of those of the maps in `in_index`, which are joined.
        num_layers: Number of transformer blocks.
        num_heads: Heads per attention; embed_dims // 64, at least 1, by default.
        embed_dims: Channels C of the tokens; as many as come in by default.
        mlp_ratio: Width of the feed-forward networks, in multiples of `embed_dims`.
        drop_path_rate: Drop path probability of the last block; grows linearly from 0.
        drop_rate: Dropout probability of projections and feed-forward networks.
        attn_drop_rate: Must be 0: attention dropout is not offered.
        num_fcs: Linear layers of a feed-forward network.
        qkv_bias: Give the projections to query, key and value a bias.
        act_cfg: Config of the activation; ``dict(type='GELU')`` by default.
        norm_cfg: Config of the normalisation; ``dict(type='LN')`` by default.
        init_std: Standard deviation of the initial weights.
        init_cfg: Initialisation in place of the default one.
        attn_cfg: Config of the attention; ``dict(type='MiTAAttention')`` by default.
        with_ffn: Give the blocks a feed-forward network.
        with_cp: Recompute the blocks in the backward pass to save memory.
        dropout_ratio: Probability of zeroing a channel of the decoded patches in training.
        ignore_index: The label that does not count; None if all do.
        mask_norm: What the scores of a patch go through: ``'norm'``, `norm_cfg` over all of them,
            as in the stock head; ``'scale'``, a learned scale and offset of each; or ``'auto'``,
            ``'scale'`` for one or two classes and ``'norm'`` for more. Two-class weights of
            MMSegmentation need ``'norm'``.
        fused_loss: Take cross entropy over classes, where that is the loss, without logits of the
            size of the labels: the same figures in less time and memory.
        **kwargs: `num_classes` and the other arguments of BaseDecodeHead; `channels`, which nothing
            here depends on, is `embed_dims` by default.

    Raises:
        ValueError: A value that is not accepted; the message names it.
    """

    def __init__(
        self,
        in_channels: int | Sequence[int],
        num_layers: int,
        num_heads: int | None = None,
        embed_dims: int | None = None,
        mlp_ratio: float = 4,
        drop_path_rate: float = 0.1,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        num_fcs: int = 2,
        qkv_bias: bool = True,
        act_cfg: dict | None = None,
        norm_cfg: dict | None = None,
        init_std: float = 0.02,
        init_cfg: dict | list[dict] | None = None,
        attn_cfg: dict | None = None,
        with_ffn: bool = True,
        with_cp: bool = False,
        dropout_ratio: float = 0.0,
        ignore_index: int | None = 255,
        mask_norm: str = 'auto',
        fused_loss: bool = True,
        **kwargs,
    ) -> None:
        check_no_attention_dropout(attn_drop_rate)
        check_token_norm(norm_cfg)
        check_inputs(in_channels, kwargs)
        if kwargs.get('conv_cfg') is not None:
            raise ValueError(
                f'conv_cfg must be None: the head has no convolution, got {kwargs["conv_cfg"]!r}'
            )
        if not 0 <= dropout_ratio < 1:
            raise ValueError(f'dropout_ratio must be from 0 to below 1, got {dropout_ratio!r}')
        if embed_dims is None:
            embed_dims = in_channels if isinstance(in_channels, int) else sum(in_channels)
        num_heads = max(embed_dims // 64, 1) if num_heads is None else num_heads
        kwargs.setdefault('channels', embed_dims)
        super().__init__(
            in_channels=in_channels,
            dropout_ratio=dropout_ratio,
            ignore_index=_NO_LABEL if ignore_index is None else ignore_index,
            init_cfg=init_cfg,
            fused_loss=fused_loss,
            **kwargs,
        )
        del self.conv_seg
        self._check_one_channel()
        mask_norm = self._settle_mask_norm(mask_norm)

        self.layers = ModuleList(
            build_transformer_block(
                embed_dims,
                attn_cfg={'type': 'MiTAAttention'} if attn_cfg is None else attn_cfg,
                num_heads=num_heads,
                mlp_ratio=mlp_ratio,
                with_ffn=with_ffn,
                qkv_bias=qkv_bias,
                drop=drop_rate,
                drop_path=drop_path_rate * i / max(num_layers - 1, 1),
                num_fcs=num_fcs,
                act_cfg=act_cfg,
                norm_cfg=norm_cfg,
                with_cp=with_cp,
            )
            for i in range(num_layers)
        )
        self.dec_proj = nn.Linear(self.in_channels, embed_dims)
        self.cls_emb = nn.Parameter(torch.randn(1, self.out_channels, embed_dims))
        self.patch_proj = nn.Linear(embed_dims, embed_dims, bias=False)
        self.classes_proj = nn.Linear(embed_dims, embed_dims, bias=False)
        self.decoder_norm = build_norm(norm_cfg, embed_dims)
        self.mask_norm = (
            MaskScale(self.out_channels, embed_dims)
            if mask_norm == 'scale'
            else build_norm(norm_cfg, self.num_classes)
        )
        self.init_std = init_std

    def _check_one_channel(self) -> None:
        if self.out_channels != 1:
            return
        if self.num_classes > 2:
            raise ValueError(
                f'out_channels=1 needs num_classes of 1 or 2, got num_classes={self.num_classes}'
            )
        if getattr(self.sampler, 'thresh', None) is not None:
            raise ValueError(
                f'sampler {type(self.sampler).__name__} with a thresh needs a channel for each '
                'class, got a head of one channel: set num_classes=2 without out_channels=1, or no '
                'thresh'
            )
        for criterion in self._criteria():
            check_loss_of_one_channel(criterion, self.ignore_index)

    def _settle_mask_norm(self, wanted: str) -> str:
        if wanted not in ('auto', 'norm', 'scale'):
            raise ValueError(f"mask_norm must be 'auto', 'norm' or 'scale', got {wanted!r}")
        if wanted == 'norm' and self.out_channels == 1:
            raise ValueError(
                "mask_norm='norm' needs a channel for each of at least two classes, got "
                f'num_classes={self.num_classes} and out_channels=1: a norm over one score is a '
                'constant'
            )
        if wanted != 'auto':
            return wanted
        if self.num_classes > 2:
            return 'norm'
        print_log(
            f"{type(self).__name__} has num_classes={self.num_classes}: mask_norm is 'scale', as a "
            "norm over so few scores has next to no gradient; mask_norm='norm' is the stock head",
            logger='current',
        )
        return 'scale'

    def init_weights(self) -> None:
        """Initialise as `init_cfg` says, by default as Segmenter does."""
        if self.init_cfg:
            super().init_weights()
            return
        trunc_normal_(self.cls_emb, std=self.init_std)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                trunc_normal_init(module, std=self.init_std, bias=0)
            elif isinstance(module, nn.LayerNorm):
                constant_init(module, val=1.0, bias=0.0)
            elif isinstance(module, MaskScale):
                module.reset_parameters()

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        rename_on_load(self, state_dict, prefix)
        scales = isinstance(self.mask_norm, MaskScale)
        loaded = state_dict.get(f'{prefix}mask_norm.{"weight" if scales else "scale"}')
        # Loaders that are not strict would pass over it, and the classes be none of theirs.
        # A stock head of one channel has learned nothing that could be kept.
        shape = getattr(loaded, 'shape', None)  # a file may hold anything
        if shape == (self.out_channels,) and self.out_channels > 1:
            here, there = ('scale', 'norm') if scales else ('norm', 'scale')
            raise ValueError(
                f'the weights {prefix}* are of a head with mask_norm={there!r}, got '
                f'mask_norm={here!r}: set mask_norm={there!r} in the decode head to load them'
            )
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _input_map(self, inputs: Sequence[Tensor]) -> Tensor:
        """The chosen map, or the chosen ones joined, [B, in_channels, h, w]."""
        check_maps(inputs, self.in_index)
        feature_map = self._transform_inputs(inputs)
        if feature_map.shape[1] != self.in_channels:
            raise ValueError(
                f'in_channels={self.in_channels}, but the map at in_index={self.in_index} has '
                f'{feature_map.shape[1]} channels'
            )
        return feature_map

    def forward(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """Compute the masks.

        Args:
            inputs: Maps of the backbone, the chosen one [B, in_channels, h, w].

        Returns:
            Logits [B, out_channels, h, w]: of the classes, or of the foreground alone.

        Raises:
            ValueError: There is no such map, or it has another number of channels.
        """
        feature_map = self._input_map(inputs)
        grid = feature_map.shape[-2:]
        patches = self.dec_proj(feature_map.flatten(2).transpose(1, 2))  # [B, h * w, C]
        num_patches = patches.shape[1]
        # Patches first: their grid starts at token 0.
        x = torch.cat((patches, self.cls_emb.expand(patches.shape[0], -1, -1)), dim=1)
        for layer in self.layers:
            x = layer(x, grid, 0)
        x = self.decoder_norm(x)

        patches, classes = x[:, :num_patches], x[:, num_patches:]
        if self.dropout is not None:
            patches = self.dropout(_as_maps(patches, grid)).flatten(2).transpose(1, 2)
        patches = F.normalize(self.patch_proj(patches), dim=2)
        classes = F.normalize(self.classes_proj(classes), dim=2)
        masks = self.mask_norm(patches @ classes.transpose(1, 2))  # [B, h * w, out_channels]
        return _as_maps(masks, grid)


def _as_maps(patches: Tensor, grid: Sequence[int]) -> Tensor:
    """Patches [B, h * w, C] as maps [B, C, h, w]."""
    return patches.transpose(1, 2).reshape(patches.shape[0], patches.shape[2], *grid).contiguous()
