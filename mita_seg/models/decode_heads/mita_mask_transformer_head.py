"""Segmenter's mask transformer with a choice of attention."""

import torch
import torch.nn.functional as F
from mmengine.model import ModuleList
from mmengine.model.weight_init import constant_init, trunc_normal_, trunc_normal_init
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.registry import MODELS
from torch import Tensor, nn

from mita_seg.conversion.key_map import rename_on_load
from mita_seg.models.bilinear import enlarge
from mita_seg.models.builder import (
    build_norm,
    build_transformer_block,
    check_no_attention_dropout,
)


@MODELS.register_module()
class MiTAMaskTransformerHead(BaseDecodeHead):
    """MMSegmentation's SegmenterMaskTransformerHead, with the attention chosen by config.

    One learned embedding per class joins the patches; after the layers, the mask of a class is the
    cosine of its embedding with every patch. Landmarks pool patches only; the class embeddings are
    queries, keys and values like any token.

    With ``attn_cfg=dict(type='FullAttention')`` it computes what the stock class computes and loads
    its weights; ``with_ffn=False`` and three layers make the decoder of arXiv 2602.01219. Drop path
    acts on both branches of a block.

    Source: Strudel et al., arXiv 2105.05633.

    Args:
        in_channels: Channels of the backbone's map.
        num_layers: Number of transformer blocks.
        num_heads: Heads per attention; embed_dims // 64, at least 1, by default.
        embed_dims: Channels C of the tokens; `in_channels` by default.
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
        **kwargs: `num_classes` and the other arguments of BaseDecodeHead; `channels`, which nothing
            here depends on, is `embed_dims` by default.

    Raises:
        ValueError: A value that is not accepted; the message names it.
    """

    def __init__(
        self,
        in_channels: int,
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
        **kwargs,
    ) -> None:
        check_no_attention_dropout(attn_drop_rate)
        embed_dims = in_channels if embed_dims is None else embed_dims
        num_heads = max(embed_dims // 64, 1) if num_heads is None else num_heads
        kwargs.setdefault('channels', embed_dims)
        super().__init__(in_channels=in_channels, init_cfg=init_cfg, **kwargs)
        del self.conv_seg

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
        self.dec_proj = nn.Linear(in_channels, embed_dims)
        self.cls_emb = nn.Parameter(torch.randn(1, self.num_classes, embed_dims))
        self.patch_proj = nn.Linear(embed_dims, embed_dims, bias=False)
        self.classes_proj = nn.Linear(embed_dims, embed_dims, bias=False)
        self.decoder_norm = build_norm(norm_cfg, embed_dims)
        self.mask_norm = build_norm(norm_cfg, self.num_classes)
        self.init_std = init_std

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

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        rename_on_load(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def forward(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """Compute the masks.

        Args:
            inputs: Maps of the backbone, the chosen one [B, in_channels, h, w].

        Returns:
            Class logits [B, num_classes, h, w].
        """
        feature_map = self._transform_inputs(inputs)
        grid = feature_map.shape[-2:]
        patches = self.dec_proj(feature_map.flatten(2).mT)  # [B, h * w, C]
        num_patches = patches.shape[1]
        # Patches first: their grid starts at token 0.
        x = torch.cat((patches, self.cls_emb.expand(patches.shape[0], -1, -1)), dim=1)
        for layer in self.layers:
            x = layer(x, grid, 0)
        x = self.decoder_norm(x)

        patches = F.normalize(self.patch_proj(x[:, :num_patches]), dim=2)
        classes = F.normalize(self.classes_proj(x[:, num_patches:]), dim=2)
        masks = self.mask_norm(patches @ classes.mT)  # [B, h * w, num_classes]
        return masks.mT.unflatten(-1, tuple(grid)).contiguous()

    def loss_by_feat(self, seg_logits: Tensor, batch_data_samples: list) -> dict[str, Tensor]:
        """Losses at the resolution of the labels, and the share of right pixels.

        The figures of the base class, without its waits for the device (which counts the labelled
        pixels there) and with a repeatable backward pass.

        Args:
            seg_logits: Class logits [B, num_classes, h, w].
            batch_data_samples: SegDataSamples with label maps [1, H, W].

        Returns:
            The losses by name, and ``acc_seg``, percent of the labelled pixels, [1].
        """
        labels = self._stack_batch_gt(batch_data_samples)  # [B, 1, H, W]
        logits = enlarge(seg_logits, labels.shape[2:], self.align_corners)
        weight = None if self.sampler is None else self.sampler.sample(logits, labels)
        labels = labels.squeeze(1)
        criteria = self.loss_decode
        losses = {}
        for criterion in criteria if isinstance(criteria, nn.ModuleList) else [criteria]:
            loss = criterion(logits, labels, weight=weight, ignore_index=self.ignore_index)
            losses[criterion.loss_name] = losses.get(criterion.loss_name, 0) + loss
        with torch.no_grad():
            labelled = labels != self.ignore_index
            right = (logits.argmax(1) == labels) & labelled
            losses['acc_seg'] = 100 * right.sum().view(1) / labelled.sum().clamp(min=1)
        return losses
