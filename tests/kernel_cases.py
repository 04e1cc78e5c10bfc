"""The Triton kernels against the reference."""

from operator_cases import NAMES, with_gradients


def assert_kernels_agree(tensors, tolerance=1e-5, **arguments):
    """Outputs and gradients equal the reference's, to a relative error of their norms."""
    expected = with_gradients(tensors, **arguments, backend='reference')
    results = with_gradients(tensors, **arguments, backend='triton')
    for name, wanted, result in zip(NAMES, expected, results, strict=True):
        if wanted is None:
            assert result is None or not result.any(), name
        else:
            assert result.dtype == wanted.dtype and result.isfinite().all(), name
            # A gradient that cancels to nearly nothing is compared with the output's size.
            size = max(wanted.norm(), 0.1 * expected[0].norm())
            error = (result - wanted).norm() / size
            assert error < tolerance, f'{name}: relative error {error}'
