"""Halves the time of Triton's interpreter, without a change of what it computes or checks.

It replaces the functions of Triton's language by its own at each launch of a kernel, and again at
each call of a function in the kernel, where all are replaced already. It looks every type up in a
table that it makes anew. And it checks each sum of integers for overflow with ten operations of its
own. All this is private to Triton: a version without these names runs as slowly as it does.
"""

import functools

import numpy as np

_INT64 = {'add': np.add, 'sub': np.subtract, 'mul': np.multiply}


def quicken():
    """Change the interpreter of this process."""
    from triton.runtime import interpreter

    try:
        patch = interpreter._patch_lang
        launch = interpreter.GridExecutor.__call__
        find_dtype = interpreter._get_np_dtype
        semantic = interpreter.interpreter_semantic
        check_overflow = semantic.binary_op_sanitize_overflow_impl
    except AttributeError:
        return
    replaced = None  # while a kernel runs: ids of the global names for which it has been done

    @functools.wraps(patch)
    def patch_once(fn):
        if replaced is None:
            return patch(fn)
        if id(fn.__globals__) in replaced:
            return None
        replaced.add(id(fn.__globals__))
        return patch(fn)

    @functools.wraps(launch)
    def launch_with_memory(self, *args, **kwargs):
        nonlocal replaced
        replaced = set()
        try:
            return launch(self, *args, **kwargs)
        finally:
            replaced = None

    dtypes = {}  # by name, as types of pointers cannot be hashed

    @functools.wraps(find_dtype)
    def find_dtype_once(triton_type):
        name = triton_type.scalar.name
        if name not in dtypes:
            dtypes[name] = find_dtype(triton_type)
        return dtypes[name]

    @functools.wraps(check_overflow)
    def check_in_int64(left, right, operation):
        scalar, name = left.type.scalar, operation.__name__
        if scalar.int_bitwidth >= 64 or name not in _INT64:
            return check_overflow(left, right, operation)
        found = _INT64[name](left.handle.data, right.handle.data, dtype=np.int64, casting='unsafe')
        low, high = scalar.get_int_min_value(), scalar.get_int_max_value()
        message = f'int{scalar.int_bitwidth} overflow detected for operation {name}'
        assert found.size == 0 or (found.min() >= low and found.max() <= high), message
        return None

    interpreter._patch_lang = patch_once
    interpreter.GridExecutor.__call__ = launch_with_memory
    interpreter._get_np_dtype = find_dtype_once
    semantic.binary_op_sanitize_overflow_impl = check_in_int64
