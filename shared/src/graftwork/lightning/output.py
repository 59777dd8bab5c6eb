"""What reaches the terminal: an app's own lines, and of the libraries' only what a user can act on."""

from __future__ import annotations

import logging
import warnings

# Each is either answered by our own code or not the user's to mend.
_NOISE = (
    r".*treespec, LeafSpec.*",  # Lightning on newer torch
    r".*module\(s\) in eval mode at the start of training.*",  # frozen norms stay in eval mode, by design
    r".*does not have many workers.*",
    r".*is smaller than the logging interval.*",
    r".*Checkpoint directory .* exists and is not empty.*",
    r".*`isinstance\(treespec.*",
    r".*Trying to infer the `batch_size`.*",
    r".*GPU available but not used.*",
    r"(?s).*Grad strides do not match bucket view strides.*",  # copies of layers in another memory order
    r"(?s).*JsonargparseDeprecationWarning.*",  # Lightning's use of its parser
    r"(?s).*was deprecated in v4\.\d+\.\d+ and will be removed in v5.*",
)


def settle_output(*, quiet: bool, verbose: bool) -> None:
    """Set the libraries' loudness for this process.

    Args:
        quiet: errors only.
        verbose: everything.
    """
    if verbose:
        return
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR if quiet else logging.WARNING)
    if quiet:
        warnings.simplefilter("ignore")
    for pattern in _NOISE:
        warnings.filterwarnings("ignore", message=pattern)
