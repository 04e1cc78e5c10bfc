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
from .record import Routing, record_routing
from .routing import observe_routing, routing_figures

__all__ = [
    'Routing',
    'attention_rows',
    'expert_keys',
    'expert_map',
    'landmark_windows',
    'observe_routing',
    'recall',
    'record_routing',
    'routing_figures',
    'shared_share',
    'special_token_rows',
    'token_use',
]
