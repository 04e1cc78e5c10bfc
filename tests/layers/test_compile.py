"""torch.compile makes one graph of the layer, whatever the size of the map."""

import pytest
import torch

from mita_seg.layers import MiTAAttention


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize('backend', ['tiled', 'triton'])
def test_one_graph_serves_every_map(backend):
    if backend == 'triton':
        pytest.importorskip('triton')
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    torch.manual_seed(0)
    layer = MiTAAttention(32, 2, landmarks=(2, 3), topk=5, backend=backend).to(device)

    def attend(tokens, height, width):
        return layer(tokens, (height, width), 1)

    compiled = torch.compile(attend, fullgraph=True, dynamic=True, backend='aot_eager')
    torch._dynamo.utils.counters.clear()
    for height, width in ((6, 5), (9, 8)):
        tokens = torch.randn(2, 1 + height * width, 32, device=device, requires_grad=True)
        expected, output = (f(tokens, height, width) for f in (attend, compiled))
        torch.testing.assert_close(output, expected)
        grads = [torch.autograd.grad(out.square().sum(), tokens)[0] for out in (expected, output)]
        torch.testing.assert_close(*grads)
    assert torch._dynamo.utils.counters['stats']['unique_graphs'] == 1
