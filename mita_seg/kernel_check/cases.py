"""The classes of case that the kernels are compiled for.

Compiled code depends on dtype, head dimension, the options, and on numbers of landmarks and keys;
of the number of tokens only on its size against these. So a few sizes stand for all of the
supported range: each kind of tile, selection, sum and block, at the limits and between.
"""

from dataclasses import dataclass, replace

import torch


@dataclass(frozen=True)
class Case:
    """A call of pooled attention, forward and backward.

    Attributes:
        dtype: Of query, key and value.
        dim: Head dimension d.
        tokens: N; the map is as near a square as it can be, what is left are other tokens.
        landmarks: Landmark grid (mh, mw).
        topk: Keys per expert, k; 0: no routed experts.
        num_routed: Experts per query, s.
        shared: Whether there is a shared expert.
        remainder: Whether there is a remainder.
        heads: B H.
        packed: Whether query, key and value lie in one tensor of all heads, row by row.
    """

    dtype: torch.dtype = torch.bfloat16
    dim: int = 64
    tokens: int = 1024
    landmarks: tuple[int, int] = (7, 7)
    topk: int = 49
    num_routed: int = 1
    shared: bool = True
    remainder: bool = False
    heads: int = 48
    packed: bool = False

    def __str__(self) -> str:
        dtype = str(self.dtype).removeprefix('torch.')
        rows, columns = self.landmarks
        text = f'{dtype} d={self.dim} N={self.tokens} m={rows * columns} k={self.topk}'
        text += f' s={self.num_routed}' if self.num_routed > 1 else ''
        text += '' if self.shared else ', no shared expert'
        return text + (', remainder' if self.remainder else '')

    @property
    def must_not_spill(self) -> bool:
        """Whether registers must suffice: in half precision with d up to 64."""
        return self.dtype.itemsize == 2 and self.dim <= 64


@dataclass(frozen=True)
class LossCase:
    """A call of the cross entropy of enlarged logits, forward and backward.

    Attributes:
        dtype: Of the logits.
        classes: C.
        size: Of the logits (h, w).
        factor: By which they are enlarged, of both sides.
    """

    dtype: torch.dtype = torch.bfloat16
    classes: int = 150
    size: tuple[int, int] = (32, 32)
    factor: int = 16

    def __str__(self) -> str:
        dtype = str(self.dtype).removeprefix('torch.')
        height, width = self.size
        return f'{dtype} loss C={self.classes} {height}x{width} times {self.factor}'

    @property
    def must_not_spill(self) -> bool:
        """Whether registers must hold everything."""
        return True


@dataclass(frozen=True)
class ClusterCase:
    """A call of the landmarks' k-means, forward and backward.

    Attributes:
        dtype: Of queries and landmarks.
        dim: Head dimension d.
        tokens: N.
        landmarks: m.
        steps: Of k-means.
        heads: B H.
        packed: Whether the queries lie in one tensor with keys and values of all heads.
    """

    dtype: torch.dtype = torch.bfloat16
    dim: int = 64
    tokens: int = 1024
    landmarks: int = 49
    steps: int = 1
    heads: int = 48
    packed: bool = False

    def __str__(self) -> str:
        dtype = str(self.dtype).removeprefix('torch.')
        sizes = f'd={self.dim} N={self.tokens} m={self.landmarks}'
        return f'{dtype} k-means {sizes}, steps: {self.steps}'

    @property
    def must_not_spill(self) -> bool:
        """Whether registers must suffice: in half precision with d up to 64."""
        return self.dtype.itemsize == 2 and self.dim <= 64


_USUAL = Case()
_SEVERAL = Case(tokens=16384, landmarks=(16, 16), topk=256, heads=12)  # blocks of both
_MOST = Case(tokens=4096, landmarks=(32, 32), topk=1024, num_routed=2, heads=12)
_TALL = Case(tokens=4096)  # tiles of 64 queries, experts that overlap little
_REMAINDER = Case(shared=False, remainder=True)
_OF_EVERY_ROW = (_USUAL, _SEVERAL, _TALL)
_OF_ROWS_OF_64 = (
    _MOST,
    Case(tokens=60, landmarks=(2, 2), topk=4, heads=2),  # low tiles, short rows
    Case(tokens=1, landmarks=(1, 1), topk=1, heads=1),
    Case(tokens=1025, packed=True),  # a class token: the last block of all is nearly empty
    Case(tokens=1174, landmarks=(6, 6), topk=36),
    Case(tokens=16384, landmarks=(5, 5), topk=300),  # several blocks of keys alone
    Case(tokens=2304, landmarks=(12, 12), topk=36),  # several blocks of landmarks alone
    Case(num_routed=2),
    replace(_SEVERAL, num_routed=2),
    Case(topk=0),
    replace(_SEVERAL, topk=0),
    Case(shared=False),
    _REMAINDER,
    replace(_REMAINDER, tokens=3136, landmarks=(8, 8), topk=128),
    replace(_SEVERAL, shared=False, remainder=True),
    replace(_SEVERAL, shared=False),
    Case(tokens=2**20, heads=16, packed=True),  # offsets of 64 bits
    Case(tokens=2**20, landmarks=(32, 32), topk=1, heads=1),  # the longest rows
)
CASES = (
    *_OF_EVERY_ROW,
    *_OF_ROWS_OF_64,
    *(replace(case, dtype=torch.float16) for case in (_USUAL, _SEVERAL)),
    *(replace(_USUAL, dim=dim) for dim in (16, 24, 32)),
    *(replace(_SEVERAL, dim=dim) for dim in (32, 96)),
    *(replace(case, dim=128) for case in (*_OF_EVERY_ROW, _MOST)),
    *(
        replace(case, dtype=torch.float32, dim=dim)
        for dim in (16, 64, 128)
        for case in (_USUAL, _SEVERAL)
    ),
    replace(_TALL, dtype=torch.float32),
    Case(dtype=torch.float32, num_routed=2),
    replace(_MOST, dtype=torch.float32, dim=128),
)
# Of these the first launch of each kernel.
REPRESENTATIVE = (_USUAL, _TALL, replace(_SEVERAL, num_routed=2), _REMAINDER)
LOSS_CASES = (
    *(LossCase(dtype) for dtype in (torch.bfloat16, torch.float16, torch.float32)),
    LossCase(classes=11, size=(44, 60), factor=8),
    LossCase(classes=2, size=(31, 45), factor=11),
    LossCase(classes=19, size=(128, 256), factor=4),
    LossCase(size=(33, 33), factor=2),
    LossCase(size=(33, 33), factor=1),
)
REPRESENTATIVE_LOSS = LOSS_CASES[:1]
_CLUSTERS = ClusterCase(), ClusterCase(tokens=4096, landmarks=1000, steps=2)
CLUSTER_CASES = (
    *(
        replace(case, dtype=dtype, dim=dim)
        for case in _CLUSTERS
        for dtype in (torch.bfloat16, torch.float16, torch.float32)
        for dim in (16, 24, 64, 96, 128)
    ),
    ClusterCase(steps=0),
    ClusterCase(tokens=1, landmarks=1, heads=1),
    ClusterCase(tokens=2**20, heads=16, packed=True),  # offsets of 64 bits
)
REPRESENTATIVE_CLUSTERS = _CLUSTERS[:1]
