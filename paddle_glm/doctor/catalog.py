"""All checks: importing this module imports Paddle."""

from paddle_glm.doctor import (  # noqa: F401  # they fill the table
    environment,
    model_checks,
    operator_checks,
    parallel_checks,
    quantisation_checks,
    speed_checks,
    training_checks,
    width_checks,
)
from paddle_glm.doctor.registry import CHECKS, GROUPS, Check


def all_checks() -> dict[str, Check]:
    """Every check by its name, in the report's order."""
    return dict(sorted(CHECKS.items(), key=lambda item: GROUPS.index(item[1].group)))
