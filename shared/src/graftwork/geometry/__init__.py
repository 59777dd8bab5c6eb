"""How two tasks' updates lie to each other, and what that says about forgetting; a diagnostic, no adapter.

After Steele 2026 (arXiv 2603.02224), of which the abstract and the first pages were read: forgetting is said to
follow alpha sin^2(theta_min) + beta, theta_min the smallest principal angle between the two tasks' gradient
subspaces. Definitions of the subspace, the mean over layers and the null level are ours.

    gradient_subspaces -> {layer: Subspace}          what a task's gradients span
    principal_angles, overlap, null_level            how two subspaces lie, and how random ones would
    compare -> Report                                both, layer by layer and in the mean
    fit_forgetting_law -> ForgettingLaw              alpha and beta with an interval; no sign is assumed
    effective_rank, intruder_dimensions              what an update did to a weight's spectrum

No angle means anything by itself: two random 8-dimensional subspaces of 64 dimensions meet at 53 degrees. Angles of
adapter factors mislead, because A keeps most of its random start: measure gradients, or B A.

Invariants:
1. A subspace has angle 0 with itself and 90 degrees with its complement; arguments may be exchanged.
2. No change of basis and no common rotation changes an angle.
3. Planted angles are found.
4. k = 1: |cosine| of the two directions; nested subspaces: 0; every angle in [0, 90] degrees.
5. The input side of a linear layer's gradients lies in the span of its inputs.
6. The smallest angle does not grow with k.
7. Random subspaces reproduce the null level.
8. The fit of points on a law returns it, with either sign; r has alpha's sign.
9. Scaling the loss leaves a report; scaling one layer's gradient moves only the weights of the mean.
10. 1 <= effective rank <= rank; equal singular values give the rank, rank one gives 1.
11. The same task twice has angle 0.
12. dL/dA = s B^T G, dL/dB = s G A^T with the G measured here; at B = 0 A has none.
"""

from graftwork.geometry.angles import (
    Null,
    Subspace,
    null_level,
    overlap,
    principal_angles,
    span,
)
from graftwork.geometry.gradients import gradient_subspaces
from graftwork.geometry.law import ForgettingLaw, fit_forgetting_law
from graftwork.geometry.report import Layer, Report, compare
from graftwork.geometry.spectrum import Intruders, effective_rank, intruder_dimensions

__all__ = [
    "ForgettingLaw",
    "Intruders",
    "Layer",
    "Null",
    "Report",
    "Subspace",
    "compare",
    "effective_rank",
    "fit_forgetting_law",
    "gradient_subspaces",
    "intruder_dimensions",
    "null_level",
    "overlap",
    "principal_angles",
    "span",
]
