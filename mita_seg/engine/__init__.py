"""Parts of a training run. Importing this module registers those that a config may name."""

from .deferred_runtime_info import DeferredRuntimeInfoHook
from .exact_resume import ExactResumeHook
from .layer_decay import ViTLayerDecayOptimWrapperConstructor
from .mita_stats import MiTAStatsHook
from .optim_wrapper import BFloat16OptimWrapper
from .paint_predictions import PaintPredictionsHook
from .resumable_runner import ResumableRunner
from .save_predictions import SavePredictionsHook
from .whole_checkpoint import WholeCheckpointHook

__all__ = [
    'BFloat16OptimWrapper',
    'DeferredRuntimeInfoHook',
    'ExactResumeHook',
    'MiTAStatsHook',
    'PaintPredictionsHook',
    'ResumableRunner',
    'SavePredictionsHook',
    'ViTLayerDecayOptimWrapperConstructor',
    'WholeCheckpointHook',
]
