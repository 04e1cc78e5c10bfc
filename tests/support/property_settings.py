"""How many cases the property tests draw."""

import os

from hypothesis import HealthCheck, settings

# Of all property tests together. Each has a share in them, in thousandths.
TOTAL = int(os.environ.get('MITA_SEG_PROPERTY_CASES', 150))


def share(thousandths):
    """Decorator: this many of 1,000 cases, the same ones every time."""
    return settings(
        max_examples=max(1, thousandths * TOTAL // 1000),
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
