"""Fetched files are what their names say."""

import hashlib
import shutil

import pytest
import torch

from mita_seg.checkpoint import load_checkpoint_safely
from mita_seg.utils.full_disk import find_full_disk
from support.disk_errors import full


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A file that any address leads to; returns the first digits of its SHA-256."""
    path = tmp_path / 'served.pth'
    torch.save({'state_dict': {'weight': torch.ones(2)}}, path)
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'hub'))
    monkeypatch.setattr(
        torch.hub, 'download_url_to_file', lambda url, target: shutil.copy(path, target)
    )
    return hashlib.sha256(path.read_bytes()).hexdigest()[:8]


def test_hash_in_the_name_is_compared(served, tmp_path):
    right = f'https://example.org/vit-{served}.pth'
    assert 'state_dict' in load_checkpoint_safely(right)
    wrong = 'https://example.org/vit_tiny_p16_384_20220308-cce8c795.pth'
    with pytest.raises(ValueError, match=r'its name says cce8c795; delete .*hub.*cce8c795.pth'):
        load_checkpoint_safely(wrong)


def test_damaged_file_in_the_cache_is_named(served, tmp_path):
    address = f'https://example.org/vit-{served}.pth'
    load_checkpoint_safely(address)
    cached = next(tmp_path.glob('hub/checkpoints/*.pth'))
    cached.write_bytes(cached.read_bytes()[:-1])
    with pytest.raises(ValueError, match=f'delete {str(cached)!r} to fetch it again'):
        load_checkpoint_safely(address)


def test_a_full_disk_names_the_file_in_the_cache(served, tmp_path, monkeypatch):
    def fail(url, target):
        raise full()

    monkeypatch.setattr(torch.hub, 'download_url_to_file', fail)
    with pytest.raises(ValueError) as caught:
        load_checkpoint_safely(f'https://example.org/vit-{served}.pth')
    cached = tmp_path / f'hub/checkpoints/vit-{served}.pth'
    assert find_full_disk(caught.value).filename == str(cached)
