"""Full and MiTA attention layers: one set of parameters, one call."""

import copy
import pickle

import pytest
import torch
from torch.export import Dim, export
from torch.nn.functional import conv2d, silu

from mita_seg.layers import FullAttention, MiTAAttention
from mita_seg.layers.mita_attention import Stage
from mita_seg.ops.reference import reference_attention

GRID = (5, 7)
VARIANTS = [{}, {'qk_norm': True}, {'dwc': True}, {'gate': True}, {'dwc': True, 'gate': True}]


def tokens(start=1, after=0, channels=32, dtype=torch.float64):
    return torch.randn(2, start + GRID[0] * GRID[1] + after, channels, dtype=dtype)


@pytest.mark.parametrize('options', VARIANTS)
def test_full_and_mita_share_names_shapes_and_initialisation(options):
    torch.manual_seed(3)
    full = FullAttention(32, 2, **options)
    torch.manual_seed(3)
    mita = MiTAAttention(32, 2, **options)
    expected, got = full.state_dict(), mita.state_dict()
    assert list(expected) == list(got)
    assert all(torch.equal(expected[name], got[name]) for name in expected)


@pytest.mark.parametrize('options', VARIANTS)
@pytest.mark.parametrize(('start', 'after'), [(0, 0), (1, 0), (0, 6), (5, 3)])
def test_route_only_with_every_key_is_full_attention(options, start, after):
    full = FullAttention(32, 2, **options).double()
    mita = MiTAAttention(32, 2, landmarks=(2, 3), topk=10**6, shared=False, **options).double()
    mita.load_state_dict(full.state_dict())
    x = tokens(start, after)
    torch.testing.assert_close(mita(x, GRID, start), full(x, GRID, start), atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    'options',
    [
        {'topk': 0},
        {'shared': False},
        {'num_routed': 3},
        {'landmark_scale': 'inverse_dim'},
        {'shared': False, 'remainder': True},
    ],
)
def test_settings_change_the_result_and_train(options):
    base = MiTAAttention(32, 2, landmarks=(2, 3), topk=4).double()
    changed = MiTAAttention(32, 2, **({'landmarks': (2, 3), 'topk': 4} | options)).double()
    changed.load_state_dict(base.state_dict())
    x = tokens()
    assert not torch.allclose(base(x, GRID, 1), changed(x, GRID, 1))
    changed(x, GRID, 1).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in changed.parameters())


@pytest.mark.parametrize(
    ('value', 'expected'), [('scale', 0.25), ('inverse_dim', 1 / 16), (0.3, 0.3)]
)
def test_landmark_scale(value, expected):
    assert MiTAAttention(32, 2, landmark_scale=value).landmark_scale == expected


def test_pooling_all_tokens_but_the_last_computes_what_the_published_code_computes():
    """Query by query: q[:, :-1] as the map, landmark logits over d, one softmax."""
    published = {'landmark_scale': 'inverse_dim', 'pooled_tokens': 'all_but_last'}
    layer = MiTAAttention(8, 1, landmarks=(2, 2), topk=3, **published).double()
    x, (height, width) = torch.randn(1, 13, 8, dtype=torch.float64), (3, 4)
    q, k, v = layer.qkv(x)[0].split(8, dim=-1)  # [13, 8] each

    rows, columns = ((0, 2), (1, 3)), ((0, 2), (2, 4))  # windows that halve 3 and 4
    query_map = q[:-1].reshape(height, width, 8)
    landmarks = [query_map[a:b, c:d].mean((0, 1)) for a, b in rows for c, d in columns]
    shared = [((k @ landmark) * 8**-0.5).softmax(0) @ v for landmark in landmarks]
    expected = []
    for query in q:
        closest = max(landmarks, key=lambda landmark: (query @ landmark).item())
        chosen = (k @ closest).topk(3).indices
        logits = [query @ landmark / 8 for landmark in landmarks]
        logits += [query @ key * 8**-0.5 for key in k[chosen]]
        expected.append(torch.stack(logits).softmax(0) @ torch.stack([*shared, *v[chosen]]))
    expected = layer.proj(torch.stack(expected))[None]
    torch.testing.assert_close(layer(x, (height, width), 1), expected, atol=1e-12, rtol=0)

    default = MiTAAttention(8, 1, landmarks=(2, 2), topk=3, landmark_scale='inverse_dim').double()
    default.load_state_dict(layer.state_dict())
    assert not torch.allclose(default(x, (height, width), 1), expected)


@pytest.mark.parametrize(('start', 'after'), [(0, 1), (2, 0), (1, 1), (0, 0)])
def test_pooling_all_tokens_but_the_last_needs_the_class_token_alone(start, after):
    layer = MiTAAttention(32, 2, landmarks=(2, 2), topk=3, pooled_tokens='all_but_last').double()
    with pytest.raises(ValueError, match=rf'needs a class token.*start={start}'):
        layer(tokens(start, after), GRID, start)


def test_dwc_convolves_the_value_map_of_the_patches_and_gate_comes_after_it():
    layer = FullAttention(32, 2, dwc=True, gate=True).double()
    plain = FullAttention(32, 2).double()
    plain.load_state_dict(layer.state_dict(), strict=False)
    plain.proj = torch.nn.Identity()  # attention output before the projection
    x = tokens(start=2, after=1)
    value = layer.qkv(x)[..., 64:]
    patch_map = value[:, 2:37].mT.reshape(2, 32, *GRID)
    convolved = conv2d(patch_map, layer.dwc.weight, layer.dwc.bias, padding=1, groups=32)
    expected = plain(x, GRID, 2)
    expected[:, 2:37] += convolved.flatten(2).mT
    expected = layer.proj(expected * silu(layer.gate(x)))
    torch.testing.assert_close(layer(x, GRID, 2), expected, atol=1e-12, rtol=0)


def test_landmarks_see_normalised_queries():
    options = {'topk': 0, 'qk_norm': True, 'qkv_bias': False}
    layer = MiTAAttention(32, 2, landmarks=(2, 2), **options).double()
    x = tokens(start=0)
    with torch.no_grad():
        layer.qkv.weight[:32] *= 1000  # the norm takes the scale of the queries away
        scaled = layer(x, GRID)
        layer.qkv.weight[:32] *= 10
    torch.testing.assert_close(layer(x, GRID), scaled, atol=1e-6, rtol=0)


def test_copies_and_pickles():
    layer = MiTAAttention(32, 2, landmarks=(2, 2), topk=3).double()
    x = tokens()
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(twin(x, GRID, 1), layer(x, GRID, 1))


def test_autocast():
    layer = MiTAAttention(32, 2, landmarks=(2, 2), topk=3, qk_norm=True, dwc=True, gate=True)
    with torch.autocast('cpu', torch.bfloat16):
        out = layer(tokens(dtype=torch.float32), GRID, 1)
    assert out.dtype == torch.bfloat16
    out.float().sum().backward()


@pytest.mark.slow
def test_compiles_into_one_graph():
    layer = MiTAAttention(32, 2, landmarks=(2, 2), topk=3, dwc=True)
    compiled = torch.compile(layer, fullgraph=True, backend='aot_eager')
    x = tokens(dtype=torch.float32)
    torch.testing.assert_close(compiled(x, GRID, 1), layer(x, GRID, 1))


class Patches(torch.nn.Module):
    """A patch embedding and an attention with all that may come with it."""

    def __init__(self):
        super().__init__()
        self.patches = torch.nn.Conv2d(3, 32, 4, 4)
        self.attn = FullAttention(32, 2, dwc=True, gate=True, qk_norm=True)

    def forward(self, images):
        patch_map = self.patches(images)
        return self.attn(patch_map.flatten(2).transpose(1, 2), tuple(patch_map.shape[-2:]))


@pytest.mark.slow
def test_exports_for_every_size():
    model = Patches().eval()
    sizes = {0: Dim('b', max=8), 2: 4 * Dim('h', max=32), 3: 4 * Dim('w', max=32)}
    exported = export(model, (torch.randn(2, 3, 16, 36),), dynamic_shapes=(sizes,)).module()
    for size in ((2, 3, 16, 36), (3, 3, 24, 24), (1, 3, 12, 40)):
        images = torch.randn(size)
        torch.testing.assert_close(exported(images), model(images))


@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning', 'ignore::DeprecationWarning')
def test_a_trace_follows_the_size_and_holds_what_the_onnx_exporter_knows():
    model = Patches().eval()
    traced = torch.jit.trace(model, torch.randn(2, 3, 16, 36))
    images = torch.randn(3, 3, 24, 28)
    torch.testing.assert_close(traced(images), model(images))
    assert 'aten::mT' not in str(traced.inlined_graph)


def test_one_checkpoint_serves_both_attentions():
    full, mita = FullAttention(32, 2, dwc=True), MiTAAttention(32, 2, dwc=True)
    mita.load_state_dict(full.state_dict(), strict=True)
    full.load_state_dict(mita.state_dict(), strict=True)


@pytest.mark.parametrize('kind', [FullAttention, MiTAAttention])
@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'embed_dims': 30, 'num_heads': 4}, 'embed_dims=30 and num_heads=4'),
        ({'num_heads': 0}, 'num_heads=0'),
        ({'attn_drop': 0.1}, 'attn_drop must be 0.*got 0.1'),
    ],
)
def test_bad_shapes_and_attention_dropout_are_refused(kind, arguments, message):
    with pytest.raises(ValueError, match=message):
        kind(**{'embed_dims': 32, 'num_heads': 2, **arguments})


@pytest.mark.parametrize(
    ('arguments', 'error', 'message'),
    [
        ({'topk': -1}, ValueError, 'topk must be at least 0, got -1'),
        ({'topk': 3.0}, TypeError, 'topk must be an int'),
        ({'landmarks': (0, 6)}, ValueError, r'landmarks .*\(0, 6\)'),
        ({'landmarks': 6}, TypeError, 'landmarks must be two ints'),
        ({'num_routed': 37}, ValueError, 'num_routed must be from 1 to .*36, got 37'),
        ({'topk': 0, 'shared': False}, ValueError, 'topk=0 with shared=False'),
        ({'remainder': True}, ValueError, 'shared must be False with remainder=True'),
        ({'remainder': 'yes'}, TypeError, "remainder must be a bool, got 'yes'"),
        ({'landmark_scale': None}, TypeError, 'landmark_scale must be a number, got None'),
        ({'kmeans_steps': -1}, ValueError, 'kmeans_steps must be at least 0, got -1'),
        ({'kmeans_steps': 1.0}, TypeError, 'kmeans_steps must be an int, got 1.0'),
        ({'pooled_tokens': 'all'}, ValueError, "'patches' or 'all_but_last', got 'all'"),
        ({'landmark_scale': 'half'}, ValueError, "'scale', 'inverse_dim' or a number, got 'half'"),
    ],
)
def test_bad_mita_settings_are_refused_when_built(arguments, error, message):
    with pytest.raises(error, match=message):
        MiTAAttention(32, 2, **arguments)


@pytest.mark.parametrize(
    ('x', 'grid', 'start', 'message'),
    [
        (torch.randn(2, 36, 16), GRID, 1, r'x must be \[B, N, 32\], got shape \(2, 36, 16\)'),
        (torch.randn(36, 32), GRID, 1, r'x must be \[B, N, 32\]'),
        (torch.randn(2, 36, 32), GRID, 2, r'grid \(5, 7\) from token start=2 needs 37'),
        (torch.randn(2, 36, 32), GRID, -1, 'start must be at least 0, got -1'),
        (torch.randn(2, 36, 32), (0, 7), 1, r'grid .*\(0, 7\)'),
    ],
)
def test_bad_calls_are_refused(x, grid, start, message):
    for kind in (FullAttention, MiTAAttention):
        with pytest.raises(ValueError, match=message):
            kind(32, 2)(x, grid, start)


@pytest.mark.parametrize(
    'change',
    [
        {},
        {'num_routed': 2},
        {'shared': False},
        {'topk': 99},
        {'kmeans_steps': 1},
        {'shared': False, 'remainder': True},
        {'shared': False, 'remainder': True, 'kmeans_steps': 1},
    ],
)
def test_options_of_a_layer_are_what_it_computes(change):
    layer = MiTAAttention(16, 2, landmarks=(2, 2), landmark_scale=0.3, **{'topk': 3, **change})
    q, k, v = torch.randn(3, 1, 2, 13, 8).unbind()
    options = layer.options(13, (3, 4), 1)
    assert options.pooling == (3, 4, 2, 2, 1) and options.topk == min(layer.topk, 13)
    expected = reference_attention(q, k, v, layer.pool(q, (3, 4), 1), options)
    torch.testing.assert_close(layer.attend(q, k, v, (3, 4), 1), expected)


def test_with_a_remainder_stages_set_the_keys_alone():
    layer = MiTAAttention(32, 2, landmarks=(2, 3), topk=4, shared=False, remainder=True).double()
    assert 'shared=False' in repr(layer) and 'remainder=True' in repr(layer)
    full = FullAttention(32, 2).double()
    full.load_state_dict(layer.state_dict())
    x = tokens()
    own = layer(x, GRID, 1)
    for stage in (Stage(None), Stage(10**6), Stage(x.shape[1], -3.0)):
        layer.set_stage(stage)
        assert not layer.options(x.shape[1], GRID, 1).remainder
        torch.testing.assert_close(layer(x, GRID, 1), full(x, GRID, 1), atol=1e-12, rtol=0)
    layer.set_stage(Stage(4, -3.0))
    assert torch.equal(layer(x, GRID, 1), own)
    with pytest.raises(ValueError, match='topk must be at least 1 with remainder=True, got 0'):
        layer.set_stage(Stage(0))
