"""What an image file holds, as a hash: voxels and place, whatever the compression or the header's prose."""

from __future__ import annotations

import hashlib

import numpy as np

from ..images.nifti import Array


def content_hash(voxels: Array, affine: Array) -> str:
    """SHA-256 of shape, affine (to a thousandth of a mm) and voxel values of a volume.

    The values count and not their type: integers that are kept as float32 hash alike.
    """
    place = np.round(np.asarray(affine, np.float64), 3) + 0.0  # no negative zero
    values = np.ascontiguousarray(voxels, dtype="<f4") + np.float32(0)
    digest = hashlib.sha256(np.asarray(values.shape, "<i8").tobytes())
    digest.update(place.astype("<f8").tobytes())
    digest.update(values.tobytes())
    return digest.hexdigest()
