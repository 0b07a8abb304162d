"""Student's t: how many deviations a 95 % interval reaches when the deviation is itself known from a few values."""

# 97.5 % points for 1, 2, 3 ... degrees of freedom (Fisher and Yates 1963, table III).
POINTS = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14, 2.13)
NORMAL = 1.96  # for any number of them


def student_t(freedom: int) -> float:
    """For `freedom` degrees of freedom, 1 at least; beyond the table within 0.01 of the exact value."""
    if freedom <= len(POINTS):
        return POINTS[max(1, freedom) - 1]
    return NORMAL + (POINTS[-1] - NORMAL) * len(POINTS) / freedom
