"""Every call of a swapped model has its own grid: in threads, in replicas, computed again, traced.

The images of most tests make equally many patches, 4 x 9 or 6 x 6, so that tokens do not tell.
"""

import copy
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from torch.export import Dim, export
from torch.utils.checkpoint import checkpoint

from mita_seg import swap_attention
from mita_seg.layers import Attention
from support.swap_contract import USUAL

generator = torch.Generator().manual_seed(0)
WIDE, SQUARE = (torch.randn(2, 3, *size, generator=generator) for size in ((16, 36), (24, 24)))
OTHER = torch.randn(2, 3, 20, 24, generator=generator)  # 5 x 6 patches


class RowMeans(Attention):
    """Depends on the grid, and is traced quickly."""

    def attend(self, q, k, v, grid, start):
        patches = v[:, :, start : start + grid[0] * grid[1]].unflatten(2, grid)
        means = (patches * q.mean()).mean(3, keepdim=True).expand_as(patches).flatten(2, 3)
        return torch.cat((v[:, :, :start] + k[:, :, :start], means), 2)


class ViT(nn.Module):
    """Patches, a class token and two blocks, each checkpointed if `reentrant` is not None."""

    def __init__(self, reentrant=None, graph_break=False):
        super().__init__()
        self.patches = nn.Conv2d(3, 32, 4, 4)
        self.class_token = nn.Parameter(torch.randn(1, 1, 32))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(32, 2, 64, dropout=0.0, batch_first=True) for _ in range(2)
        )
        self.reentrant = reentrant
        self.graph_break = graph_break

    def embed(self, images):
        x = self.patches(images).flatten(2).transpose(1, 2)
        return torch.cat((self.class_token.expand(x.shape[0], -1, -1), x), 1)

    def forward(self, images):
        x = self.embed(images)
        if self.graph_break:
            torch._dynamo.graph_break()
        for block in self.blocks:
            if self.reentrant is None or not torch.is_grad_enabled():
                x = block(x)
            else:
                x = checkpoint(block, x, use_reentrant=self.reentrant)
        return x.mean(1)


def build(*args, attn_cfg=USUAL):
    torch.manual_seed(0)
    model = ViT(*args)
    for parameter in model.parameters():  # away from zeros, so that attention matters
        nn.init.normal_(parameter, std=0.2)
    return swap_attention(model, attn_cfg, grid='patches')


def gradients(model, run=None, images=(WIDE, SQUARE)):
    """Those of one backward pass after all forward passes."""
    model.zero_grad()
    run = model if run is None else run
    sum(run(image).square().sum() for image in images).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def separate_gradients(images=(WIDE, SQUARE), frozen=(), attn_cfg=USUAL):
    """Those of a model for each image, added up."""
    added = {}
    for image in images:
        model = build(attn_cfg=attn_cfg)
        for name in frozen:
            model.get_parameter(name).requires_grad_(False)
        for name, gradient in gradients(model, images=(image,)).items():
            added[name] = added.get(name, 0) + gradient
    return added


def assert_equal(got, expected):
    assert got.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(got[name], expected[name], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def separate_outputs(attn_cfg=USUAL):
    """What a model makes of each image that has seen no other."""
    return {image: build(attn_cfg=attn_cfg).eval()(image) for image in (WIDE, SQUARE, OTHER)}


@pytest.fixture
def alone():
    return separate_outputs()


@pytest.mark.parametrize('reentrant', [None, False, True])
@pytest.mark.parametrize('frozen', [(), ('patches.weight', 'patches.bias')])
def test_blocks_computed_again_see_their_own_grid(reentrant, frozen):
    model = build(reentrant)
    for name in frozen:  # then the graph does not reach back to the images
        model.get_parameter(name).requires_grad_(False)
    for images in ((WIDE, SQUARE), (SQUARE, OTHER, WIDE)):
        assert_equal(gradients(model, images=images), separate_gradients(images, frozen))


def all_blocks(model, x):
    for block in model.blocks:
        x = block(x)
    return x.mean(1)


def nested(model, x):
    inner = [lambda x, b=block: checkpoint(b, x, use_reentrant=False) for block in model.blocks]
    return checkpoint(lambda x: inner[1](inner[0](x)), x, use_reentrant=True).mean(1)


@pytest.mark.parametrize(
    'run',
    [
        lambda model, x: checkpoint(model, x, use_reentrant=False),
        lambda model, x: checkpoint(model, x.requires_grad_(), use_reentrant=True),
        lambda model, x: checkpoint(all_blocks, model, model.embed(x), use_reentrant=False),
        lambda model, x: checkpoint(all_blocks, model, model.embed(x), use_reentrant=True),
        lambda model, x: nested(model, model.embed(x)),
    ],
    ids=['model', 'model reentrant', 'segment', 'segment reentrant', 'nested'],
)
def test_any_part_may_be_computed_again(run):
    model = build()
    images = WIDE.clone(), SQUARE.clone()
    assert_equal(gradients(model, lambda x: run(model, x), images), separate_gradients())


@pytest.mark.parametrize('reentrant', [False, True])
def test_the_backward_pass_may_run_in_another_thread(reentrant):
    """On a GPU it does."""
    model = build(reentrant)
    loss = sum(model(image).square().sum() for image in (WIDE, OTHER, SQUARE))
    thread = threading.Thread(target=loss.backward)
    thread.start()
    thread.join()
    got = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert_equal(got, separate_gradients((WIDE, OTHER, SQUARE)))


@pytest.mark.parametrize('checkpointed', [False, True])
def test_two_images_may_go_through_the_blocks_side_by_side_in_training(checkpointed):
    model = build()

    def run(block, *images):
        return [block(x) for x in images]

    images = [model.embed(image) for image in (WIDE, SQUARE)]
    for block in model.blocks:
        images = (
            checkpoint(run, block, *images, use_reentrant=False)
            if checkpointed
            else run(block, *images)
        )
    sum(x.mean(1).square().sum() for x in images).backward()
    got = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert_equal(got, separate_gradients())


@torch.no_grad()
def test_two_images_side_by_side_are_refused_where_nothing_tells_them_apart(alone):
    model = build()
    wide, _ = (model.embed(image) for image in (WIDE, SQUARE))
    with pytest.raises(
        ValueError, match='37 tokens, which may be of 4 x 9 or 6 x 6 patches: patches made both'
    ):
        model.blocks[0](wide)
    for image in (WIDE, SQUARE):  # what never came to an attention is forgotten
        model.embed(image)
        torch.testing.assert_close(model(WIDE), alone[WIDE])


def test_what_can_not_be_told_when_computed_again_is_refused():
    """Nothing before the feed-forward network trains: no graph ties the attention to its images."""
    model = build(False)
    model.requires_grad_(False)
    model.blocks[0].linear1.requires_grad_()
    model.blocks[0].linear2.requires_grad_()
    gradients(model, images=(WIDE, OTHER))
    with pytest.raises(ValueError, match='4 x 9 or 6 x 6 patches.*let patches require gradients'):
        gradients(model)


def test_threads_do_not_see_each_others_grids(alone):
    model = build().eval()

    def serve(image):
        with torch.no_grad():
            return all(torch.allclose(model(image), alone[image], atol=1e-5) for _ in range(10))

    with ThreadPoolExecutor(3) as pool:
        assert all(pool.map(serve, [WIDE, SQUARE, OTHER] * 4))


def test_threads_train_side_by_side():
    model = build(True)
    expected = separate_gradients()
    with ThreadPoolExecutor(2) as pool:
        losses = [pool.submit(lambda x: model(x).square().sum(), x) for x in (WIDE, SQUARE)]
        sum(loss.result() for loss in losses).backward()
    got = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert_equal(got, expected)


def replicate(module):
    """A replica as those of nn.DataParallel, which makes them for GPUs alone."""
    replica = module._replicate_for_data_parallel()
    for name, parameter in module._parameters.items():
        if parameter is not None:
            setattr(replica, name, parameter.view_as(parameter))
    replica._modules = {name: child and replicate(child) for name, child in module._modules.items()}
    return replica


@pytest.mark.parametrize('reentrant', [None, False, True])
def test_replicas_in_threads_have_grids_of_their_own(reentrant):
    model = build(reentrant)
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(replicate(model), image) for image in (WIDE, SQUARE)]
        sum(run.result().square().sum() for run in runs).backward()
    got = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert_equal(got, separate_gradients())


def test_copies_have_grids_of_their_own(alone):
    model = build().eval()
    model(WIDE)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin(SQUARE)
        torch.testing.assert_close(twin(WIDE), alone[WIDE])
        torch.testing.assert_close(model(WIDE), alone[WIDE])


MEANS = {'type': RowMeans}
OLD = torch.__version__ < (2, 9)


@pytest.mark.slow
@pytest.mark.parametrize('reentrant', [None, False, True])
def test_a_compiled_graph_has_the_grid_of_its_call(reentrant):
    model = build(reentrant, attn_cfg=MEANS)
    model(WIDE), model(SQUARE)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend='eager')
    images = WIDE, SQUARE, OTHER
    expected = separate_gradients(images, attn_cfg=MEANS)
    assert_equal(gradients(model, compiled, images), expected)


@pytest.mark.slow
@pytest.mark.parametrize('reentrant', [None, False, True])
def test_a_broken_graph_has_the_grid_of_its_call(reentrant):
    model = build(reentrant, True, attn_cfg=MEANS)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend='eager')
    assert_equal(gradients(model, compiled), separate_gradients(attn_cfg=MEANS))


@pytest.mark.slow
@pytest.mark.parametrize('reentrant', [None, True])
def test_blocks_compiled_alone_have_the_grid_of_their_call(reentrant):
    model = build(reentrant, attn_cfg=MEANS)
    torch._dynamo.reset()
    for block in model.blocks:
        block.compile(backend='eager')
    assert_equal(gradients(model), separate_gradients(attn_cfg=MEANS))


@pytest.mark.parametrize('reentrant', [None, False, True])
def test_blocks_compiled_alone_are_one_graph_if_tokens_tell_the_grid(reentrant):
    if reentrant is False and OLD:
        pytest.skip('torch 2.7 cannot compile the hooks of checkpointing themselves')
    model = build(reentrant, attn_cfg=MEANS)
    torch._dynamo.reset()
    for block in model.blocks:
        block.compile(backend='eager', fullgraph=True)
    images = WIDE, OTHER
    got = gradients(model, images=images)
    assert_equal(got, separate_gradients(images, attn_cfg=MEANS))


@pytest.mark.slow
@pytest.mark.parametrize('strict', [False, True])
def test_an_exported_model_follows_its_images(strict):
    if strict and OLD:
        pytest.skip("torch 2.7 does not look into PyTorch's own layers in its strict mode")
    model, expected = build(attn_cfg=MEANS).eval(), separate_outputs(MEANS)
    model(WIDE), model(SQUARE)
    sizes = {0: Dim('b', max=8), 2: 4 * Dim('h', min=2, max=32), 3: 4 * Dim('w', min=2, max=32)}
    exported = export(model, (WIDE,), dynamic_shapes=(sizes,), strict=strict).module()
    for image in (WIDE, SQUARE, OTHER):
        torch.testing.assert_close(exported(image), expected[image])
        torch.testing.assert_close(model(image), expected[image])


@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning', 'ignore::DeprecationWarning')
@pytest.mark.parametrize('seen', [False, True])
def test_a_traced_model_follows_its_images(seen, alone):
    model = build().eval()
    if seen:
        model(WIDE), model(SQUARE)
    traced = torch.jit.trace(model, WIDE)
    for image in (WIDE, SQUARE, OTHER):
        torch.testing.assert_close(traced(image), alone[image])
        torch.testing.assert_close(model(image), alone[image])
