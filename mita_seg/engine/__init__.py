"""Parts of a training run in MMEngine's registries. Importing this module registers them."""

from .deferred_runtime_info import DeferredRuntimeInfoHook
from .layer_decay import ViTLayerDecayOptimWrapperConstructor
from .optim_wrapper import BFloat16OptimWrapper

__all__ = [
    'BFloat16OptimWrapper',
    'DeferredRuntimeInfoHook',
    'ViTLayerDecayOptimWrapperConstructor',
]
