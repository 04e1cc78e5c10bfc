"""The kernels of the landmarks' k-means against the torch operations, and where they are taken."""

import pytest
import torch
from torch.autograd import forward_ad
from torch.nn.functional import normalize

from mita_seg.ops import cluster_landmarks, pool_landmarks
from mita_seg.ops.clustering import cluster_in_torch, suits_kernels
from support.operator_cases import DEVICE, gradients, on_device, relative_error

pytest.importorskip('triton')

from mita_seg.kernel_check.launches import DryPlan
from mita_seg.ops.triton import call_plan as plans
from mita_seg.ops.triton import cluster_landmarks as kernels
from mita_seg.ops.triton import support
from mita_seg.ops.triton.gpu import ARCHITECTURES
from mita_seg.ops.triton.op import clustering, triton_cluster

LOW = [torch.float16] + [torch.bfloat16] * (DEVICE == 'cuda')
SHAPES = [  # B, H, N, m, d
    (2, 3, 70, 9, 16),
    (1, 2, 65, 33, 24),  # a landmark more than a block has
    (1, 1, 1, 1, 64),
    (1, 2, 33, 1, 128),
    (1, 1, 600, 70, 16),  # several splits of the queries, and blocks of landmarks
]


def draw(batch, heads, tokens, num_landmarks, dim):
    """Queries and landmarks."""
    return on_device([torch.randn(batch, heads, rows, dim) for rows in (tokens, num_landmarks)])


def in_kernels(query, landmarks, steps):
    return clustering(query, landmarks, steps, cluster_in_torch)


def with_gradients(function, query, landmarks, steps):
    """Landmarks, and the gradients of queries and of landmarks at the beginning."""
    moved = function(query, landmarks, steps)
    return moved, *gradients(moved, (query, landmarks))


def assert_equal_to_torch(query, landmarks, steps, function=in_kernels, **tolerance):
    results = with_gradients(function, query, landmarks, steps)
    wanted = with_gradients(cluster_in_torch, query, landmarks, steps)
    for result, expected in zip(results, wanted, strict=True):
        if expected is None:
            assert result is None
        else:
            torch.testing.assert_close(result, expected, **tolerance)


@pytest.mark.parametrize('steps', [0, 1, 2])
@pytest.mark.parametrize('shape', SHAPES, ids=str)
def test_float32_equals_torch_operations(shape, steps):
    assert_equal_to_torch(*draw(*shape), steps, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('dtype', LOW)
@pytest.mark.parametrize('dim', [16, 24, 64, 128])
def test_half_precision_is_near_to_float64(dim, dtype):
    """Queries lie around directions, so that rounding changes no choice."""
    directions = 4 * normalize(torch.randn(1, 2, 10, dim), dim=-1)
    query = directions[:, :, torch.arange(130) % 10] + 0.2 * torch.randn(1, 2, 130, dim)
    rounded = on_device([query, directions[:, :, :9]], dtype)
    exact = [tensor.detach().double().requires_grad_() for tensor in rounded]
    results = with_gradients(in_kernels, *rounded, 1)
    wanted = with_gradients(cluster_in_torch, *exact, 1)
    for result, expected in zip(results, wanted, strict=True):
        assert result.dtype == dtype
        if expected.any():
            assert relative_error(result, expected) < torch.finfo(dtype).eps
        else:
            assert not result.any()


def test_float16_holds_many_large_queries():
    query = torch.full((1, 1, 2000, 16), 60.0, device=DEVICE).half()
    moved = in_kernels(query, query[:, :, :2], 1)
    torch.testing.assert_close(moved, query[:, :, :2])


def test_views_and_expanded_gradients():
    query = torch.randn(2, 70, 3, 16, device=DEVICE).transpose(1, 2).requires_grad_()
    landmarks = torch.randn(2, 3, 16, 5, device=DEVICE).mT.requires_grad_()
    assert_equal_to_torch(query, landmarks, 1, rtol=1e-4, atol=1e-5)
    _, grad, _ = with_gradients(in_kernels, query, landmarks, 1)
    assert grad.stride() == query.stride()
    grads, wanted = (
        torch.autograd.grad(function(query, landmarks, 0).sum(), landmarks)
        for function in (in_kernels, cluster_in_torch)
    )
    torch.testing.assert_close(grads, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('steps', [1, 2])
@pytest.mark.parametrize('second', [1, 40])  # in the block of the first, and in another
def test_of_equal_landmarks_the_first_gets_the_queries(second, steps):
    query, landmarks = draw(1, 2, 80, 45, 16)
    landmarks.data[:, :, second] = landmarks.data[:, :, 0]
    moved, _, grad = with_gradients(in_kernels, query, landmarks, 1)
    cosines = torch.cosine_similarity(moved, landmarks, dim=-1)
    torch.testing.assert_close(cosines[:, :, second], torch.ones_like(cosines[:, :, second]))
    assert (cosines[:, :, 0] < 0.99).all()
    assert not grad[:, :, 0].any() and grad[:, :, second].any()
    assert_equal_to_torch(query, landmarks, steps, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('steps', [0, 1])
@pytest.mark.parametrize('count', [1, 3])  # of three landmarks
@pytest.mark.parametrize('factor', [0, 1e-14])  # some norms between 0 and the least divisor
def test_landmarks_of_no_length_do_what_they_do_in_torch(factor, count, steps):
    query, landmarks = draw(1, 1, 20, 3, 16)
    landmarks.data[:, :, :count] *= factor
    assert_equal_to_torch(query, landmarks, steps, rtol=1e-4, atol=1e-5)


def test_a_landmark_of_zeros_without_queries_has_the_gradient_of_torch():
    query, landmarks = draw(1, 1, 20, 2, 16)
    query.data[..., 0] = query.data[..., 0].abs() + 5
    landmarks.data.zero_()[:, :, 1, 0] = 1  # which all queries join
    assert_equal_to_torch(query, landmarks, 1, rtol=1e-4, atol=1e-5)
    assert in_kernels(query, landmarks, 1).isfinite().all()


def test_without_steps_the_queries_are_no_part_of_the_graph():
    query, landmarks = draw(1, 1, 20, 3, 16)
    assert not in_kernels(query, landmarks.detach(), 0).requires_grad
    assert in_kernels(query, landmarks.detach(), 1).requires_grad


def test_nothing_is_recorded_without_gradients():
    query, landmarks = draw(1, 1, 20, 3, 16)
    with torch.no_grad():
        moved = in_kernels(query, landmarks, 1)
    assert not moved.requires_grad
    torch.testing.assert_close(moved, cluster_in_torch(query, landmarks, 1))


def test_two_runs_are_bitwise_equal():
    tensors = draw(1, 1, 600, 70, 16)
    runs = [with_gradients(in_kernels, *tensors, 1) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_gradients_of_gradients_are_those_of_torch():
    """Landmarks come from the queries, as a layer's do; windows repeat, so half of them stay."""
    query, scale = draw(1, 2, 30, 1, 16)

    def differentiate_twice(function):
        landmarks = pool_landmarks(query * scale, (5, 6), (10, 1))
        moved = function(query, landmarks, 1)
        (grad,) = torch.autograd.grad(moved.square().sum(), query, create_graph=True)
        return grad, *torch.autograd.grad(grad.square().sum(), (query, scale))

    results, wanted = map(differentiate_twice, (in_kernels, cluster_in_torch))
    torch.testing.assert_close(results, wanted, rtol=1e-4, atol=1e-4)


def test_batched_gradients_are_those_of_single_ones():
    query, landmarks = draw(1, 2, 30, 4, 16)
    moved = in_kernels(query, landmarks, 1)
    weights = torch.randn(3, *moved.shape, device=DEVICE)
    batched = torch.autograd.grad(
        moved, (query, landmarks), weights, retain_graph=True, is_grads_batched=True
    )
    for i, each in enumerate(weights):
        single = torch.autograd.grad(moved, (query, landmarks), each, retain_graph=True)
        torch.testing.assert_close([grads[i] for grads in batched], list(single))


def compile_whole(function, backend='aot_eager', **options):
    torch._dynamo.reset()  # which would refuse too many versions of one function
    return torch.compile(function, backend=backend, fullgraph=True, **options)


@pytest.mark.parametrize('steps', [0, 1, 2])
def test_torch_compile_takes_the_registered_operator(steps):
    operators = []

    def note(module, inputs):
        operators.extend(node.target for node in module.graph.nodes)
        return torch._dynamo.lookup_backend('aot_eager')(module, inputs)

    query = torch.randn(2, 70, 3, 16, device=DEVICE).transpose(1, 2).requires_grad_()
    _, landmarks = draw(2, 3, 1, 9, 16)
    compiled = compile_whole(in_kernels, note)
    assert_equal_to_torch(query, landmarks, steps, compiled, rtol=1e-4, atol=1e-5)
    assert torch.ops.mita_seg.triton_cluster.default in operators
    _, grad, _ = with_gradients(compiled, query, landmarks, steps)
    assert grad.stride() == query.stride() if steps else grad is None


def test_torch_compile_takes_ever_new_sizes_and_landmarks_that_come_from_the_queries():
    def pool_and_move(query, grid):
        return in_kernels(query, pool_landmarks(query, grid, (2, 2)), 1)

    compiled = compile_whole(pool_and_move, dynamic=True)
    for grid in ((5, 6), (9, 7)):
        query, _ = draw(1, 2, grid[0] * grid[1], 1, 16)
        results = [function(query, grid) for function in (pool_and_move, compiled)]
        torch.testing.assert_close(*results)
        torch.testing.assert_close(*(gradients(result, query) for result in results))


@pytest.mark.parametrize('steps', [0, 1])
def test_autocast_changes_nothing_eager_or_compiled(steps):
    """No dtype, as in torch operations, and no result."""
    tensors = draw(1, 2, 30, 4, 16)
    wanted = with_gradients(in_kernels, *tensors, steps)
    compiled = compile_whole(in_kernels)
    with torch.autocast(DEVICE, torch.bfloat16):
        in_torch = cluster_in_torch(*tensors, steps)
        runs = [with_gradients(function, *tensors, steps) for function in (in_kernels, compiled)]
    assert in_torch.dtype == wanted[0].dtype
    for results in runs:
        torch.testing.assert_close(results, wanted, rtol=0, atol=0)


def test_gradients_of_gradients_of_the_registered_operator_are_refused():
    query, landmarks = draw(1, 2, 30, 4, 16)
    moved = triton_cluster(query, landmarks, 1)[0]
    (grad,) = torch.autograd.grad(moved.square().sum(), query, create_graph=True)
    with pytest.raises(RuntimeError, match='triton_cluster_backward'):
        grad.sum().backward()


@pytest.fixture
def launches(monkeypatch):
    """Of the test, in order: name of the kernel, and where its tensors are in the plan."""
    noted, launch = [], plans.Plan.launch

    def note(plan, kernel, grid, *args, **options):
        places = [plan._place(arg) for arg in args if isinstance(arg, torch.Tensor)]
        noted.append((kernel.__name__, places))
        launch(plan, kernel, grid, *args, **options)

    monkeypatch.setattr(plans.Plan, 'launch', note)
    monkeypatch.setattr(plans, '_recordings', plans.Latest())
    return noted


@pytest.mark.parametrize('steps', [0, 1, 2])
def test_launches_of_a_call(steps, launches):
    """A recorded call finds all of their tensors again, none twice in one launch."""
    with_gradients(in_kernels, *draw(1, 2, 40, 4, 16), steps)
    names = [name for name, _ in launches]
    step = ['_join_kernel', '_sum_joined_kernel', '_move_kernel']
    backward = ['_move_backward_kernel', '_joined_backward_kernel']
    assert names == (step * steps or step[-1:]) + backward[: steps + 1]
    if steps:
        for name, places in launches:
            last_alone = name == '_move_kernel' and steps == 2  # then both results are one
            assert last_alone or len(set(places)) == len(places), name


def record(body, tensors, option, monkeypatch):
    """Results of a call, and a function that repeats its launches on other tensors.

    As a recording does, but that the interpreter runs them.
    """
    launches, launch = [], plans.Plan.launch

    def note(plan, kernel, grid, *args, **options):
        places = [(*plan._place(arg), arg.dtype) for arg in args if isinstance(arg, torch.Tensor)]
        launches.append((kernel, grid, places, args[len(places) :], options))
        launch(plan, kernel, grid, *args, **options)

    plan = plans.Plan(tensors)
    with monkeypatch.context() as patched:
        patched.setattr(plans.Plan, 'launch', note)
        body(plan, *plan.tensors, option)

    def repeat(tensors):
        results = [torch.full_like(each, -77) for each in plan.results]
        scratch = torch.full((max(16, plan._scratch_bytes),), 90, dtype=torch.uint8)
        pieces = [*tensors, *results, scratch]
        for kernel, grid, places, rest, options in launches:
            args = [at(pieces[index], offset, dtype) for index, offset, dtype in places]
            kernel[grid](*args, *rest, **options)
        return results

    return plan.results, repeat


def at(piece, offset, dtype):
    """A tensor that begins at a byte of another."""
    start = piece.storage_offset() * piece.element_size() + offset
    none = torch.empty(0, dtype=dtype)
    return none.set_(piece.untyped_storage(), start // none.element_size(), (1,), (1,))


@pytest.mark.skipif(DEVICE == 'cuda', reason='recordings themselves are tested')
@pytest.mark.parametrize('steps', [1, 2])
def test_launches_that_are_repeated_work_on_the_tensors_of_the_next_call(steps, monkeypatch):
    tensors, others = (
        (torch.randn(2, 70, 3, 16).transpose(1, 2), torch.randn(2, 3, 33, 16)) for _ in range(2)
    )
    results, repeat = record(kernels.cluster, tensors, steps, monkeypatch)
    wanted, _ = record(kernels.cluster, others, steps, monkeypatch)
    assert all(map(torch.equal, repeat(others), wanted))

    backward = kernels.cluster_backward
    first, second = (results[0], tensors[0], *results[1:]), (wanted[0], others[0], *wanted[1:])
    _, repeat = record(backward, first, None, monkeypatch)
    wanted, _ = record(backward, second, None, monkeypatch)
    assert all(map(torch.equal, repeat(second), wanted))


@pytest.mark.skipif(DEVICE == 'cpu', reason='interpreted kernels are not recorded')
@pytest.mark.parametrize('steps', [0, 1, 2])
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float32])
def test_recorded_call_equals_a_direct_one(dtype, steps, monkeypatch):
    recordings = plans.Latest()
    monkeypatch.setattr(plans, '_recordings', recordings)
    given = [
        [tensor.detach().to(dtype).requires_grad_() for tensor in draw(2, 3, 500, 49, 64)]
        for _ in range(3)
    ]
    repeats = [with_gradients(in_kernels, *tensors, steps) for tensors in given]
    assert len(recordings) == 2  # forward and backward
    for tensors, repeat in zip(given, repeats, strict=True):
        recordings.clear()
        for result, direct in zip(repeat, with_gradients(in_kernels, *tensors, steps), strict=True):
            assert (result is None and direct is None) or torch.equal(result, direct)


@pytest.mark.skipif(DEVICE == 'cpu', reason='needs a GPU')
@pytest.mark.parametrize('compiled', [False, True])
def test_the_public_function_takes_the_kernels_on_a_gpu(compiled, launches):
    query, landmarks = draw(1, 2, 40, 4, 16)
    function = compile_whole(cluster_landmarks, 'inductor') if compiled else cluster_landmarks
    function(query, landmarks, steps=1).sum().backward()
    assert len(launches) == 5


@pytest.mark.skipif(DEVICE == 'cuda', reason='a GPU takes the kernels')
def test_the_public_function_takes_torch_operations_on_a_cpu(launches):
    query, landmarks = draw(1, 2, 40, 4, 16)
    cluster_landmarks(query, landmarks, steps=1)
    assert not launches


def double_in_kernels(query):
    return query * 2 if suits_kernels(query, query) else query * 1


class Subclass(torch.Tensor):
    """A tensor that may watch operations."""


class Doubling(torch.nn.Module):
    """As torch.export takes it."""

    def forward(self, query):
        return double_in_kernels(query)


def double_traced(query):
    return compile_whole(double_in_kernels, 'eager')(query)


def double_in_forward_mode(query):
    compiled = compile_whole(double_in_kernels, 'eager')
    compiled(query)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(query, torch.ones_like(query))
        return forward_ad.unpack_dual(compiled(dual)).primal


SURROUNDINGS = {
    'nothing': lambda query: double_in_kernels(query) / 2,
    'torch.compile': lambda query: double_traced(query) / 2,
    'vmap in torch.compile': lambda query: compile_whole(torch.vmap(double_in_kernels), 'eager')(
        query[None]
    )[0],
    'torch.compile in vmap': lambda query: torch.vmap(double_traced)(query[None])[0],
    'grad in torch.compile': lambda query: compile_whole(
        torch.func.grad(lambda query: double_in_kernels(query).sum()), 'eager'
    )(query),
    'torch.compile in forward mode': double_in_forward_mode,
    'subclass in torch.compile': lambda query: double_traced(
        query.as_subclass(Subclass)
    ).as_subclass(torch.Tensor),
    'torch.export': lambda query: torch.export.export(Doubling(), (query,)).module()(query),
    'torch.jit.trace': lambda query: torch.jit.trace(double_in_kernels, query, check_trace=False)(
        query
    ),
    'vmap': lambda query: torch.vmap(double_in_kernels)(query[None])[0],
    'jvp': lambda query: torch.func.jvp(double_in_kernels, (query,), (query,))[0],
    'subclass': lambda query: double_in_kernels(query.as_subclass(Subclass)).as_subclass(
        torch.Tensor
    ),
    'float64': lambda query: double_in_kernels(query.double()).float(),
    'too many landmarks': lambda query: double_in_kernels(query.repeat(1, 1, 1025, 1))[:, :, :1],
    'odd dimension': lambda query: double_in_kernels(query.repeat(1, 1, 1, 2)[..., 1:21])[..., 1:],
}


@pytest.mark.parametrize('surrounding', SURROUNDINGS)
def test_kernels_are_taken_where_nothing_watches_and_they_can_run(surrounding):
    query = torch.ones(1, 1, 1, 16, device=DEVICE)
    assert (SURROUNDINGS[surrounding](query) == 1).all()


def test_empty_batches_are_left_to_torch():
    query = torch.ones(0, 2, 5, 16, device=DEVICE)
    assert not suits_kernels(query, query)
    assert cluster_landmarks(query, query[:, :, :2], steps=1).shape == (0, 2, 2, 16)


@pytest.mark.parametrize('kernel', ['_join_kernel', '_joined_backward_kernel'])
def test_what_triton_cannot_launch_is_left_to_torch_with_a_warning(kernel, monkeypatch):
    from triton.runtime.errors import OutOfResources

    launch = plans.Plan.launch

    def launch_others(plan, kernel_, *args, **options):
        if kernel_.__name__ == kernel:
            raise OutOfResources(2**20, 2**17, 'shared memory')
        launch(plan, kernel_, *args, **options)

    monkeypatch.setattr(plans.Plan, 'launch', launch_others)
    monkeypatch.setattr(plans, '_recordings', plans.Latest())
    support._warn.cache_clear()
    with pytest.warns(UserWarning, match='out of resource: shared memory'):
        assert_equal_to_torch(*draw(1, 2, 30, 4, 16), 1, rtol=1e-4, atol=1e-5)


def test_kernels_agree_with_64_bit_offsets(monkeypatch):
    monkeypatch.setattr(kernels, 'is_wide', lambda tensor: True)
    monkeypatch.setattr(plans, '_recordings', plans.Latest())
    assert_equal_to_torch(*draw(1, 2, 70, 33, 16), 1, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('wide', ['query', 'landmarks', 'result'])
def test_no_kernel_gets_a_wide_tensor_without_knowing(wide):
    def on_meta(rows, strides):
        tensor = torch.empty(1, dtype=torch.bfloat16, device='meta')
        return tensor.as_strided((1, 64, rows, 64), strides)

    query = on_meta(2**20, (0, 0, 3072 if wide == 'query' else 64, 1))
    if wide == 'result':  # tokens outermost: the rows of its gradient lie 4,096 numbers apart
        query = on_meta(2**20, (0, 64, 4096, 1))
    landmarks = on_meta(1024, (0, 64, 2**21 if wide == 'landmarks' else 4096, 1))
    plan = DryPlan(ARCHITECTURES[90])
    kernels.cluster(plan, query, landmarks, 2)
    out, *state = plan.results
    grad = landmarks if wide == 'landmarks' else out
    kernels.cluster_backward(plan, grad, query, *state, None)
    knowing = 0
    for launch in plan.launches:
        given = [arg for arg in launch.args if torch.is_tensor(arg) and arg.ndim == 4]
        if any(kernels.is_wide(tensor) for tensor in given):
            assert launch.options['WIDE'], launch.name
            knowing += 1
    assert knowing >= 3
