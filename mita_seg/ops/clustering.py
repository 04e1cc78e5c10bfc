"""Landmarks moved to the middles of the queries that are nearest to them."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import Parameter

from .surroundings import in_transform, is_exporting
from .triton.support import MAX_IMAGES, unsupported_reason
from .validation import check_heads, check_int


def cluster_landmarks(query: Tensor, landmarks: Tensor, *, steps: int) -> Tensor:
    """Spherical k-means of the queries, beginning at given landmarks.

    In each step a query joins the landmark at the smallest angle, and each landmark becomes the
    mean of its queries; one without queries stays where it is. At the end all landmarks of a head
    get the mean of their norms: a query then goes to the expert at the smallest angle, where
    otherwise long landmarks attract queries that are nearer to others. Costs 4 N m d operations a
    step. The choices carry no gradient, the means and norms do. On a GPU kernels compute it, with
    sums in float32; exported or under torch.func, torch operations do.

    Not part of arXiv 2602.01219, whose landmarks are windows of the query map. Spherical k-means:
    Dhillon and Modha, Machine Learning 42, 2001.

    Args:
        query: Queries to be clustered [B, H, N, d], floating point.
        landmarks: Where they begin [B, H, m, d], such as :func:`pool_landmarks` gives.
        steps: Steps of k-means; 0: the norms alone.

    Returns:
        Landmarks [B, H, m, d], in the dtype of `landmarks`.

    Raises:
        TypeError: Not floating point tensors of one dtype, or `steps` is not an int.
        ValueError: Shapes or devices that differ, or `steps` is negative.
    """
    check_heads(query=query, landmarks=landmarks)
    check_int('steps', steps, 0)
    if query.is_cuda and suits_kernels(query, landmarks):
        from .triton.op import clustering  # needs Triton

        return clustering(query, landmarks, steps, cluster_in_torch)
    return cluster_in_torch(query, landmarks, steps)


def suits_kernels(query: Tensor, landmarks: Tensor) -> bool:
    """Whether the kernels can run: where nothing but autograd and torch.compile looks at them."""
    if torch.jit.is_tracing() or is_exporting():
        return False
    if any(type(tensor) not in (Tensor, Parameter) for tensor in (query, landmarks)):
        return False
    if in_transform() or not 0 < query.shape[0] * query.shape[1] <= MAX_IMAGES:
        return False
    return unsupported_reason(query, landmarks.shape[2]) is None


def cluster_in_torch(query: Tensor, landmarks: Tensor, steps: int) -> Tensor:
    """:func:`cluster_landmarks` of arguments that were checked, in torch operations."""
    wide = torch.promote_types(landmarks.dtype, torch.float32)
    places = torch.arange(landmarks.shape[2], device=query.device)
    moved = landmarks
    for _ in range(steps):
        directions = F.normalize(moved.detach().to(wide), dim=-1).to(query.dtype)
        nearest = (query.detach() @ directions.mT).argmax(-1, keepdim=True)  # [B, H, N, 1]
        joined = nearest == places  # [B, H, N, m]
        counts = joined.sum(2, keepdim=True)
        weights = joined / counts.clamp(min=1).to(wide)  # no sum that float16 cannot hold
        means = weights.to(query.dtype).mT @ query  # [B, H, m, d]
        moved = torch.where(counts.mT > 0, means.to(moved.dtype), moved)
    norms = torch.linalg.vector_norm(moved.to(wide), dim=-1, keepdim=True)
    moved = F.normalize(moved.to(wide), dim=-1) * norms.mean(2, keepdim=True)
    return moved.to(landmarks.dtype)
