"""Did a fine-tuned language model see its evaluation set, and does it copy its training text?

Names load on first use, so that a command line can import this package before it knows whether it needs torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graftwork_contamination.cdd import Peakedness as Peakedness
    from graftwork_contamination.cdd import peakedness as peakedness
    from graftwork_contamination.copies import Copying as Copying
    from graftwork_contamination.copies import copying as copying
    from graftwork_contamination.copies import near_duplicates as near_duplicates
    from graftwork_contamination.detection import Result as Result
    from graftwork_contamination.detection import detect as detect
    from graftwork_contamination.distance import edit_distance as edit_distance
    from graftwork_contamination.distance import edit_distance_within as edit_distance_within
    from graftwork_contamination.items import Item as Item
    from graftwork_contamination.items import read_items as read_items
    from graftwork_contamination.likelihood import log_probs as log_probs
    from graftwork_contamination.likelihood import min_k as min_k
    from graftwork_contamination.likelihood import perplexity as perplexity
    from graftwork_contamination.parameters import Parameters as Parameters
    from graftwork_contamination.sampling import continuations as continuations
    from graftwork_contamination.scoring import Score as Score
    from graftwork_contamination.scoring import score as score
    from graftwork_contamination.statistics import auc as auc
    from graftwork_contamination.statistics import auprc as auprc
    from graftwork_contamination.statistics import bootstrap as bootstrap
    from graftwork_contamination.statistics import held_out as held_out
    from graftwork_contamination.statistics import permutation_p as permutation_p
    from graftwork_contamination.statistics import youden as youden
    from graftwork_contamination.wordgrams import distinct_n as distinct_n
    from graftwork_contamination.wordgrams import ngram_overlap as ngram_overlap
    from graftwork_contamination.wordgrams import ngrams as ngrams

_HOME = {
    "copies": ["Copying", "copying", "near_duplicates"],
    "detection": ["Result", "detect"],
    "distance": ["edit_distance", "edit_distance_within"],
    "items": ["Item", "read_items"],
    "likelihood": ["log_probs", "min_k", "perplexity"],
    "wordgrams": ["distinct_n", "ngram_overlap", "ngrams"],
    "parameters": ["Parameters"],
    "cdd": ["Peakedness", "peakedness"],
    "sampling": ["continuations"],
    "scoring": ["Score", "score"],
    "statistics": ["auc", "auprc", "bootstrap", "held_out", "permutation_p", "youden"],
}
_MODULE = {name: module for module, names in _HOME.items() for name in names}
__all__ = sorted(_MODULE)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name not in _MODULE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
