"""MiTA attention, and a loss for segmentation, on tensors. Needs torch alone."""

from .attention import mita_attention, pooled_mita_attention
from .clustering import cluster_landmarks
from .pooling import pool_landmarks
from .selection import route_queries, select_experts
from .upsampled_cross_entropy import upsampled_cross_entropy

__all__ = [
    'cluster_landmarks',
    'mita_attention',
    'pool_landmarks',
    'pooled_mita_attention',
    'route_queries',
    'select_experts',
    'upsampled_cross_entropy',
]
