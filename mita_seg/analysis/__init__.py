"""What the experts of a trained model do: how they are used, and testing with other m and k.

``with record_routing(model) as records: model(...)`` records what each layer chooses;
the functions of ``arrays`` turn a record into what there is to see. Needs torch alone.
"""

from .arrays import (
    attention_rows,
    expert_keys,
    expert_map,
    landmark_windows,
    recall,
    shared_share,
    special_token_rows,
    token_use,
)
from .attention_recall import (
    AttentionRecall,
    attention_recall,
    mean_recall,
    observe_attention_recall,
)
from .record import Routing, record_routing
from .routing import observe_routing, routing_figures

__all__ = [
    'AttentionRecall',
    'Routing',
    'attention_recall',
    'attention_rows',
    'expert_keys',
    'expert_map',
    'landmark_windows',
    'mean_recall',
    'observe_attention_recall',
    'observe_routing',
    'recall',
    'record_routing',
    'routing_figures',
    'shared_share',
    'special_token_rows',
    'token_use',
]
