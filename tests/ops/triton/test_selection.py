"""Which keys the kernels choose, and which experts: those of the torch backends."""

import pytest
import torch

from mita_seg.ops import route_queries, select_experts
from support.kernel_cases import read_choice, read_state
from support.operator_cases import DEVICE, draw_inputs, on_device

pytest.importorskip('triton')

from mita_seg.ops.triton import topk_and_sort

pytestmark = pytest.mark.slow

DTYPES = [torch.float16, torch.float32] + [torch.bfloat16] * (DEVICE == 'cuda')
# Without maxima of blocks of keys, with them, and with three blocks more than are searched.
TOKENS = [300, 700, 522]


def draw_integers(tokens, landmarks, dtype, low=-1, high=1):
    """Rows whose products every dtype holds exactly, with many ties."""
    return on_device(
        [
            torch.randint(low, high + 1, (1, 2, rows, 16))
            for rows in (tokens, tokens, tokens, landmarks)
        ],
        dtype,
    )


def scores_of(tensors, experts, dtype):
    _, key, _, landmarks = (tensor.detach().to(dtype) for tensor in tensors)
    return (landmarks @ key.mT).gather(-1, experts).double().sort(-1).values


@pytest.mark.parametrize('dtype', DTYPES if DEVICE == 'cuda' else DTYPES[:1])
@pytest.mark.parametrize('tokens', TOKENS)
@pytest.mark.parametrize('topk', [1, 20])
@pytest.mark.parametrize('landmarks', [1, 5])
def test_ties_go_to_the_lowest_index(dtype, tokens, topk, landmarks):
    tensors = draw_integers(tokens, landmarks, dtype)
    num_routed = min(2, landmarks)
    experts, routes = read_choice(tensors, topk, num_routed)
    assert torch.equal(experts, select_experts(tensors[1], tensors[3], topk))
    assert torch.equal(routes, route_queries(tensors[0], tensors[3], num_routed))


@pytest.mark.parametrize('tokens', TOKENS)
@pytest.mark.parametrize('topk', [1, 20])
def test_of_equal_rows_the_first_are_chosen(tokens, topk):
    tensors = draw_integers(tokens, 4, torch.float16, low=1, high=1)
    experts, routes = read_choice(tensors, topk, num_routed=2)
    assert torch.equal(experts, torch.arange(topk, device=DEVICE).expand_as(experts))
    assert torch.equal(routes, torch.arange(2, device=DEVICE).expand_as(routes))


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('tokens', [*TOKENS, 513])
@pytest.mark.parametrize(('topk', 'landmarks'), [(1, 5), (20, 1), (130, 3)])
def test_picked_scores_are_the_largest(dtype, tokens, topk, landmarks):
    tensors = draw_inputs(tokens, landmarks, dtype=dtype)
    experts, _ = read_choice(tensors, topk)
    assert (experts >= 0).all() and (experts < tokens).all()
    assert (experts.diff(dim=-1) > 0).all()
    exactly = [tensor.detach().double() for tensor in tensors]
    best = select_experts(exactly[1], exactly[3], topk)
    picked, wanted = (scores_of(tensors, chosen, torch.float64) for chosen in (experts, best))
    torch.testing.assert_close(picked, wanted, atol=1e-4, rtol=0)  # float32, whatever the dtype
    alike = select_experts(tensors[1], tensors[3], topk)  # by scores rounded to the dtype
    rounding = 64 * torch.finfo(dtype).eps if dtype != torch.float32 else 1e-4  # |score| < 32
    torch.testing.assert_close(
        picked, scores_of(tensors, alike, torch.float64), atol=rounding, rtol=0
    )


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('landmarks', [1, 9])
def test_routes_have_the_largest_scores(dtype, landmarks):
    tensors = draw_inputs(300, landmarks, heads=2, dtype=dtype)
    num_routed = min(3, landmarks)
    _, routes = read_choice(tensors, 4, num_routed)
    query, _, _, marks = (tensor.detach().double() for tensor in tensors)
    closeness = query @ marks.mT
    picked = closeness.gather(-1, routes)
    wanted = closeness.topk(num_routed).values
    torch.testing.assert_close(picked, wanted, atol=1e-4, rtol=0)


def test_block_maxima_change_no_choice():
    """A key alone in its block is found, and so are several in one block, the last one included."""
    query, key, value, landmarks = draw_integers(1301, 1, torch.float16, low=0, high=0)
    with torch.no_grad():
        landmarks += 1
        for place, size in ((1300, 9), (0, 8), (1, 8), (2, 7), (640, 7), (700, 6)):
            key[:, :, place] = size
    experts, _ = read_choice([query, key, value, landmarks], 6)
    assert (experts == torch.tensor([0, 1, 2, 640, 700, 1300], device=DEVICE)).all()


# All keys, the best of a whole row, and of blocks: the last one partly filled, or not searched.
@pytest.mark.parametrize(
    ('tokens', 'topk'), [(100, 100), (509, 20), (1300, 20), (530, 64), (522, 20)]
)
def test_odd_distributions_of_scores(tokens, topk):
    normal = torch.randn(tokens)
    columns = [
        torch.full((tokens,), 3.0),
        torch.zeros(tokens).copysign(normal),  # -0.0 and 0.0
        normal.sign() * 1000 + normal,
        normal * 1e-42,  # denormal
        (20 * normal).exp(),
        normal.sign() * (20 * normal).exp(),
        torch.where(normal > 2, 1e30, normal),
        normal.clamp(-3e38, 0.5),  # many at the top
        normal.clamp(0.5),  # many at the bottom
        torch.arange(tokens) / 7,
        -torch.arange(tokens) * 1e35,
        torch.eye(tokens)[tokens // 2],  # all but one
        1 + torch.arange(tokens).fmod(40) * 2.0**-23,  # neighbouring numbers, 13 or more of each
    ]
    key = torch.zeros(1, 3, tokens, 16)
    key[0, 0, :, : len(columns)] = torch.stack(columns, 1)
    landmarks = torch.eye(16).repeat(1, 3, 1, 1)[:, :, : len(columns)]
    # An infinite score makes others NaN: one landmark again and again.
    key[0, 1, :, 0] = torch.where(normal > 0, -torch.inf, normal)
    key[0, 2, :, 0] = torch.where(normal.abs() > 0.01, normal.sign() * torch.inf, normal)
    landmarks[0, 1:] = landmarks[0, 0, 0]
    tensors = on_device([key.nan_to_num(), key, key.nan_to_num(), landmarks])
    state = read_state(tensors, topk)
    expected = select_experts(tensors[1].detach(), tensors[3].detach(), topk)
    assert torch.equal(state.indices.view_as(expected).long(), expected)


def test_queries_sorted_in_steps_go_where_they_should(monkeypatch):
    """As with Triton 3.3, where a block has more queries than there are landmarks."""
    monkeypatch.setattr(topk_and_sort, '_GATHERS_MORE', False)
    query, key, value, landmarks = draw_integers(701, 5, torch.float32)
    _, routes = read_choice([query, key, value, landmarks], 4, num_routed=2)
    assert torch.equal(routes, route_queries(query, landmarks, 2).long())
