"""The block: residual branches, drop path, gradient checkpointing."""

import pytest
import torch

from mita_seg.layers import DropPath, FeedForward, FullAttention, MiTAAttention, TransformerBlock

GRID = (3, 4)


def make_block(**options):
    torch.manual_seed(0)
    return TransformerBlock(16, MiTAAttention(16, 2, landmarks=(2, 2), topk=3), **options)


def test_is_pre_norm_with_two_residual_branches():
    block, x = make_block(), torch.randn(2, 13, 16)
    middle = x + block.attn(block.ln1(x), GRID, 1)
    expected = middle + block.ffn(block.ln2(middle))
    torch.testing.assert_close(block(x, GRID, 1), expected)


def test_without_feed_forward_only_attention_is_left():
    block, x = make_block(with_ffn=False), torch.randn(2, 13, 16)
    assert {name.split('.')[0] for name, _ in block.named_parameters()} == {'ln1', 'attn'}
    torch.testing.assert_close(block(x, GRID, 1), x + block.attn(block.ln1(x), GRID, 1))


def test_drop_path_acts_on_both_branches_in_training_only():
    block, x = make_block(drop_path=1.0), torch.randn(2, 13, 16)
    assert torch.equal(block(x, GRID, 1), x)
    assert not torch.equal(block.eval()(x, GRID, 1), x)


def test_drop_path_keeps_the_expectation():
    kept = DropPath(0.25)(torch.ones(20000, 1, 1))
    assert kept.unique().tolist() == pytest.approx([0, 4 / 3])
    assert kept.mean().item() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize('input_needs_gradient', [True, False])
def test_checkpointing_gives_the_same_gradients(input_needs_gradient):
    x = torch.randn(2, 13, 16, requires_grad=input_needs_gradient)
    gradients = []
    for with_cp in (False, True):
        block = make_block(with_cp=with_cp)
        block(x, GRID, 1).square().sum().backward()
        gradients.append([parameter.grad for parameter in block.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_feed_forward_of_three_layers():
    ffn = FeedForward(8, 24, num_fcs=3)
    widths = [tuple(m.weight.shape) for m in ffn.modules() if isinstance(m, torch.nn.Linear)]
    assert widths == [(24, 8), (24, 24), (8, 24)]
    assert ffn(torch.randn(2, 5, 8)).shape == (2, 5, 8)


@pytest.mark.parametrize(
    ('build', 'message'),
    [
        (lambda: DropPath(1.5), 'drop_prob must be from 0 to 1, got 1.5'),
        (lambda: FeedForward(8, 16, num_fcs=1), 'num_fcs must be at least 2, got 1'),
    ],
)
def test_bad_settings_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_any_module_with_the_call_serves_as_attention():
    class Mean(torch.nn.Module):
        def forward(self, x, grid, start):
            return x.mean(1, keepdim=True).expand_as(x)

    x = torch.randn(1, 12, 16)
    block = TransformerBlock(16, Mean(), with_ffn=False)
    torch.testing.assert_close(block(x, GRID), x + block.ln1(x).mean(1, keepdim=True))
    assert TransformerBlock(16, FullAttention(16, 2))(x, GRID).shape == x.shape
