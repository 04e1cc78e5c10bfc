"""Fetching a checkpoint once."""

import hashlib
import os
import re
from http.client import HTTPException

from mita_seg.utils.full_disk import naming

# torch.hub's convention: a name ends in the first digits of the SHA-256 of the content.
_HASH = re.compile(r'-([a-f0-9]{8,64})\.\w+$')


def download(url):
    """Fetch a file into torch's cache, unless it is there.

    Of the processes of a machine the first one fetches. The SHA-256 in a name such as
    ``vit-cce8c795.pth`` is compared with the content, whoever put it into the cache.

    Args:
        url (str): An ``http(s)://`` address.

    Returns:
        str: Path of the file.

    Raises:
        ValueError: It cannot be fetched, or holds something else than its name says.
    """
    import torch
    from torch import distributed

    name = os.path.basename(url.split('?')[0])
    path = os.path.join(torch.hub.get_dir(), 'checkpoints', name)
    if os.environ.get('LOCAL_RANK', '0') == '0':
        if not os.path.exists(path):
            try:
                os.makedirs(os.path.dirname(path), exist_ok=True)
                with naming(path):
                    torch.hub.download_url_to_file(url, path)
            except (OSError, HTTPException) as error:
                raise ValueError(f'checkpoint {url!r} cannot be downloaded ({error})') from error
        _check_hash(path, url)
    if distributed.is_available() and distributed.is_initialized():
        distributed.barrier()
    return path


def _check_hash(path, url):
    match = _HASH.search(os.path.basename(path))
    if match is None:
        return
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while block := file.read(2**20):
            digest.update(block)
    found = digest.hexdigest()[: len(match[1])]
    if found != match[1]:
        raise ValueError(
            f'checkpoint {url!r} is damaged or another file: the SHA-256 of its content begins '
            f'with {found}, its name says {match[1]}; delete {path!r} to fetch it again'
        )
