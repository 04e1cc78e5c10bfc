"""What every family of models must satisfy, whatever its attention modules look like."""

import copy
import importlib
import pickle

import pytest
import torch

from mita_seg import restore_attention, swap_attention
from mita_seg.swap.hooks import hooks_of
from mita_seg.swap.mixer import Mixer

EVERYTHING = {'landmarks': (2, 2), 'topk': 9999, 'shared': False}  # is full attention
USUAL = {'type': 'MiTAAttention', 'landmarks': (2, 2), 'topk': 3}


class SwapContract:
    """Tests of a family; a subclass builds its model and says how to run it.

    Attributes:
        sizes: Image sizes to run, a square one first, then what the family can take besides.
        alike: Two sizes that make as many patches, if the family takes such.
    """

    sizes = ((64, 64), (32, 96))
    alike = ()

    def build(self):
        """A small model with random weights."""
        raise NotImplementedError

    def run(self, model, images):
        """Its output, one tensor."""
        return model(images)

    def checkpoint(self, model):
        """Switch gradient checkpointing on."""
        raise NotImplementedError

    def images(self, size):
        return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))

    def outputs(self, model):
        with torch.no_grad():
            return [self.run(model, self.images(size)) for size in self.sizes]

    @pytest.fixture
    def model(self):
        model = self.build()
        for parameter in model.parameters():  # away from zeros, so that attention matters
            torch.nn.init.normal_(parameter, std=0.3)
        model.eval()
        return model

    def test_every_key_and_no_shared_expert_is_the_original(self, model):
        expected = self.outputs(model)
        names = list(model.state_dict())
        assert swap_attention(model, EVERYTHING) is model
        assert list(model.state_dict()) == names
        for got, want in zip(self.outputs(model), expected, strict=True):
            bound = 1e-5 * max(1, want.abs().max().item())
            torch.testing.assert_close(got, want, atol=bound, rtol=0)

    def test_few_keys_differ_and_restoring_is_exact(self, model):
        expected = self.outputs(model)
        kinds = [type(module) for module in model.modules()]
        swap_attention(model, USUAL)
        for got, want in zip(self.outputs(model), expected, strict=True):
            assert got.isfinite().all() and (got - want).abs().max() > 1e-3
        assert restore_attention(model) is model
        assert [type(module) for module in model.modules()] == kinds
        assert not any(list(hooks_of(module)) for module in model.modules())
        assert all(map(torch.equal, self.outputs(model), expected))

    def test_every_weight_trains_that_trained_before(self, model):
        trained = []
        for swap in (False, True):
            if swap:
                swap_attention(model, USUAL)
            model.train()
            model.zero_grad()
            self.run(model, self.images(self.sizes[0])).square().sum().backward()
            gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
            assert all(gradient.isfinite().all() for gradient in gradients.values())
            trained.append({name for name, gradient in gradients.items() if gradient.any()})
        assert trained[0] == trained[1]

    def test_an_optimizer_changes_the_output_and_a_file_keeps_it(self, model, tmp_path):
        swap_attention(model, USUAL)
        before = self.outputs(model)
        model.train()
        self.run(model, self.images(self.sizes[0])).square().mean().backward()
        torch.optim.SGD(model.parameters(), lr=1e-2).step()
        model.eval()
        expected = self.outputs(model)
        assert all(output.isfinite().all() for output in expected)
        assert not any(map(torch.equal, expected, before))
        torch.save(model.state_dict(), tmp_path / 'weights.pth')
        fresh = self.build()
        fresh.load_state_dict(torch.load(tmp_path / 'weights.pth', weights_only=True))
        fresh.eval()
        assert all(map(torch.equal, self.outputs(swap_attention(fresh, USUAL)), expected))

    def test_two_shapes_of_as_many_patches_train_in_one_backward_pass(self, model):
        if not self.alike:
            pytest.skip('the family takes no such images')
        swap_attention(model, USUAL)
        model.train()  # MMSegmentation's returns None

        def gradients(*sizes):
            model.zero_grad()
            sum(self.run(model, self.images(size)).square().sum() for size in sizes).backward()
            return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}

        first, second = (gradients(size) for size in self.alike)
        self.checkpoint(model)
        for name, got in gradients(*self.alike).items():
            want = first[name] + second[name]
            torch.testing.assert_close(got, want, atol=1e-4 * want.abs().max().item(), rtol=0)

    def test_saves_copies_and_pickles(self, model):
        try:
            pickle.dumps(model)
        except AttributeError as error:  # some of Hugging Face's hold local functions
            assert 'local object' in str(error)
            clone = copy.deepcopy
        else:
            clone = unpickle
        cloned = clone(swap_attention(model, USUAL))
        expected = self.outputs(model)
        fresh = self.build()
        fresh.load_state_dict(model.state_dict(), strict=True)
        fresh.eval()
        for twin in (swap_attention(fresh, USUAL), cloned, copy.deepcopy(model)):
            assert all(map(torch.equal, self.outputs(twin), expected))
        restore_attention(twin)
        assert not any(isinstance(module, Mixer) for module in twin.modules())
        assert all(map(torch.equal, self.outputs(model), expected)), 'restored more than the copy'


def unpickle(model):
    return pickle.loads(pickle.dumps(model))


def import_or_skip(name):
    """An optional package; without it, or if it does not work, the tests of a file are skipped."""
    try:
        return importlib.import_module(name)
    except (ImportError, RuntimeError) as error:  # torchvision raises the latter beside a CPU torch
        pytest.skip(f'{name} is not installed or does not work: {error}', allow_module_level=True)
