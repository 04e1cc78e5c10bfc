"""A plugin of pytest: torchvision beside a CPU build of torch, for which it has no build.

Its wheel can not load the compiled operators there, and then stops at the registration of their
fakes. Names without implementation are enough for models. Only for ``make test-families``.
"""

import torch
from torch import library

_OPERATORS = ('nms', 'qnms', 'roi_align', 'roi_pool')
_OPERATORS += ('ps_roi_align', 'ps_roi_pool', 'deform_conv2d')

if not torch.cuda.is_available():
    fragment = library.Library('torchvision', 'DEF')
    for operator in _OPERATORS:
        for name in (operator, f'_{operator}_backward'):
            fragment.define(f'{name}(Tensor x) -> Tensor')
