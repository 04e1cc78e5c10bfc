"""Parts of a training run. Importing this module registers those that a config may name."""

from .anneal_mita import AnnealMiTAHook
from .deferred_runtime_info import DeferredRuntimeInfoHook
from .distill_mita import DistillMiTAHook
from .exact_resume import ExactResumeHook
from .flat_data_parallel import FlatDataParallel
from .layer_decay import ViTLayerDecayOptimWrapperConstructor
from .mita_stats import MiTAStatsHook
from .optim_wrapper import BFloat16OptimWrapper
from .paint_predictions import PaintPredictionsHook
from .resumable_runner import ResumableRunner
from .save_predictions import SavePredictionsHook
from .whole_checkpoint import WholeCheckpointHook

__all__ = [
    'AnnealMiTAHook',
    'BFloat16OptimWrapper',
    'DeferredRuntimeInfoHook',
    'DistillMiTAHook',
    'ExactResumeHook',
    'FlatDataParallel',
    'MiTAStatsHook',
    'PaintPredictionsHook',
    'ResumableRunner',
    'SavePredictionsHook',
    'ViTLayerDecayOptimWrapperConstructor',
    'WholeCheckpointHook',
]
