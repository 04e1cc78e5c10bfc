"""Checkpoints that run code, lie or are damaged, as bytes, each made by a few lines of code."""

import io
import json
import os
import pickle
import struct
import tarfile
import zipfile

import numpy as np
import torch

_SIXTEEN = bytes(16)


class RunsCode:
    """A pickle of this makes a folder when it is read."""

    def __init__(self, trace):
        self.trace = str(trace)

    def __reduce__(self):
        return os.mkdir, (self.trace,)


def saved(content, **options):
    """What ``torch.save`` writes."""
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def zipped(**entries):
    """A zip file; two underscores in a name stand for a slash."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w') as archive:
        for name, content in entries.items():
            archive.writestr(name.replace('__', '/'), content)
    return file.getvalue()


def torch_zip(data, **entries):
    """A checkpoint of torch with this pickle."""
    entries = {'data.pkl': data, 'version': b'3\n', 'byteorder': b'little', **entries}
    return zipped(**{f'archive__{name}': content for name, content in entries.items()})


def tensor_pickle(numel=4, sizes=(4,), strides=(1,), offset=0, key='0', kind='FloatStorage'):
    """The pickle of ``{'w': tensor}`` as torch writes it, with any numbers."""

    def number(value):
        digits = value.to_bytes(value.bit_length() // 8 + 1, 'little', signed=True)
        return b'\x8a' + bytes([len(digits)]) + digits

    def text(value):
        return b'X' + struct.pack('<I', len(value)) + value.encode()

    def numbers(values):
        return b'(' + b''.join(map(number, values)) + b't'

    storage = b'(' + text('storage') + f'ctorch\n{kind}\n'.encode() + text(key) + text('cpu')
    tensor = storage + number(numel) + b'tQ' + number(offset) + numbers(sizes) + numbers(strides)
    call = b'ctorch._utils\n_rebuild_tensor_v2\n(' + tensor + b'\x89ccollections\nOrderedDict\n)RtR'
    return b'\x80\x02}' + text('w') + call + b's.'


def npy(shape=(4,), descr='<f4', data=_SIXTEEN, header=None):
    """An array of numpy with any header."""
    if header is None:
        header = repr({'descr': descr, 'fortran_order': False, 'shape': shape}).encode()
    return b'\x93NUMPY\x02\x00' + struct.pack('<I', len(header) + 1) + header + b'\n' + data


def safetensors(size=None, metadata=None, data=_SIXTEEN, **entry):
    """A file of safetensors with any header."""
    header = {'w': {'dtype': 'F32', 'shape': [4], 'data_offsets': [0, 16], **entry}}
    header = json.dumps({**header, **({'__metadata__': metadata} if metadata else {})}).encode()
    return struct.pack('<Q', len(header) if size is None else size) + header + data


def _tar():
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode='w') as archive:
        for name in ('storages', 'tensors', 'pickle'):
            entry = tarfile.TarInfo(name)
            entry.size = 16
            archive.addfile(entry, io.BytesIO(_SIXTEEN))
    return file.getvalue()


def _overlapping():
    """A zip file whose entries are all the same bytes."""
    data = zipped(**{'a.npy': npy(), 'b.npy': npy()})
    start = data.index(b'PK\x01\x02')
    second = data.index(b'PK\x01\x02', start + 4)
    end = data.index(b'PK\x05\x06')
    entry = bytearray(data[start:second])
    entries = b''.join(bytes(entry).replace(b'a.npy', f'{i:05d}'.encode()) for i in range(400))
    tail = data[end : end + 8] + struct.pack('<HHIIH', 400, 400, len(entries), start, 0)
    return data[:start] + entries + tail


def _flip(data, place):
    flipped = bytearray(data)
    flipped[place] ^= 16
    return bytes(flipped)


def running(trace):
    """Files that would make the folder `trace`.

    Returns:
        dict[str, bytes]: By name; its ending is that of the file.
    """
    code = RunsCode(trace)
    weights = {'state_dict': {'w': torch.zeros(2)}}
    objects = io.BytesIO()
    np.save(objects, np.array([code]), allow_pickle=True)
    return {
        'code.pth': saved({**weights, 'more': code}),
        'code-legacy.pth': saved({**weights, 'more': code}, _use_new_zipfile_serialization=False),
        'code-pickle.pth': pickle.dumps({'state_dict': code}),
        'code-in-weights.pth': saved({'state_dict': {'w': code}}),
        'code-in-meta.pth': saved({**weights, 'meta': {'cfg': code}}),
        'code-named.safetensors': pickle.dumps(code),
        'code-named.npz': pickle.dumps(code),
        'code-objects.npz': zipped(**{'a.npy': objects.getvalue()}),
        'code-array.npz': objects.getvalue(),
        'code-global.pth': torch_zip(b'\x80\x02ctorch\nload\nX\x01\x00\x00\x00a\x85R.'),
        'code-getattr.pth': torch_zip(b'\x80\x02cbuiltins\ngetattr\ncos\nsystem\n.'),
    }


def lying():
    """Files that are damaged, lie or are something else.

    Returns:
        dict[str, bytes]: By name; its ending is that of the file.
    """
    torch_file = saved({'state_dict': {'w': torch.arange(64.0)}, 'meta': {}})
    legacy = saved({'w': torch.arange(64.0)}, _use_new_zipfile_serialization=False)
    jit = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Identity()), jit)
    in_zip = {'numel': 10**12}, {'numel': -1}, {'sizes': (400,)}, {'strides': (100,)}
    in_zip += {'strides': (-1,)}, {'offset': -50}, {'sizes': (2**62, 4), 'strides': (1, 1)}
    in_zip += {'key': '../../../etc/passwd'}, {'kind': 'DoubleStorage'}
    in_npz = {'shape': (10**12,)}, {'shape': (2**62, 2)}, {'shape': (-1,)}, {'descr': '|O'}
    in_npz += {'descr': [('a', '<f4')]}, {'descr': '<U4'}, {'header': b'(' * 9000}
    in_npz += {'descr': '<f16', 'shape': (1,)}, {'descr': 'nonsense'}, {'shape': (True,)}
    in_safetensors = {'size': 2**63}, {'size': 90_000_000}, {'shape': [2**40, 2**40]}, {'data': b''}
    in_safetensors += {'data_offsets': [0, 160]}, {'dtype': 'F64'}, {'dtype': 'X'}, {'shape': [-4]}
    files = {
        'empty.pth': b'',
        'empty.npz': b'',
        'empty.safetensors': b'',
        'page.pth': b'<html>not found</html>' * 20,
        'program.pth': jit.getvalue(),
        'tar.pth': _tar(),
        'half.pth': torch_file[: len(torch_file) // 2],
        'half-legacy.pth': legacy[: len(legacy) // 2],
        'half.npz': zipped(**{'a.npy': npy()})[:-30],
        'half.safetensors': safetensors()[:-8],
        'flipped.pth': _flip(torch_file, torch_file.index(torch.arange(64.0).numpy().tobytes())),
        'flipped.npz': _flip(zipped(**{'a.npy': npy()}), 130),
        'no-weights.pth': torch_zip(tensor_pickle()),
        'protocol.pth': pickle.dumps({'w': 1}, pickle.HIGHEST_PROTOCOL),
        'number.pth': torch_zip(b'\x80\x02K\x01.'),
        'deep-lists.pth': torch_zip(b'\x80\x02' + b']' * 50000 + b'a' * 49999 + b'.'),
        'deep-tuples.pth': torch_zip(b'\x80\x02}K\x01)' + b'\x85' * 50000 + b's.'),
        'memo.pth': torch_zip(b'\x80\x02j\xff\xff\xff\xff.'),
        'bare.pth': torch_zip(b'\x80\x02R.'),
        'deep.safetensors': struct.pack('<Q', 90000) + b'[' * 90000,
        'overlap.npz': _overlapping(),
        'member.npz': zipped(**{'a.txt': b'text'}),
    }
    for place, wrong in enumerate(in_zip):
        content = {'data__0': _SIXTEEN}
        files[f'tensor-{place}.pth'] = torch_zip(tensor_pickle(**wrong), **content)
    files |= {f'array-{i}.npz': zipped(**{'a.npy': npy(**w)}) for i, w in enumerate(in_npz)}
    files |= {f'tensor-{i}.safetensors': safetensors(**w) for i, w in enumerate(in_safetensors)}
    return files
