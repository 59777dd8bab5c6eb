"""The desk of a command line: which partner answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from graftwork.errors import GraftError

from ..scenario import Scenario
from .composer import Composer
from .desk import Desk
from .session import ROLES, Partner

PARTNERS = ("model", "composer")
TOKENS = 200  # of a turn at most; the longest composed one has about 170


def open_desk(
    module: Any, device: Any, partner: str | None, *, adapter: str | None, keep: bool, preset: str,
    temperature: float, form: str, constrained: bool = False, plays: Sequence[str] = ROLES,
) -> Desk:  # fmt: skip
    """A desk whose sessions are played by the model, or by the grammar's composer.

    Args:
        module: of the app, with network, tokenizer and base.
        device: the network's.
        partner: model or composer; None: the model, unless it is the random base without an adapter.
        adapter: the folder of its graft, or None.
        keep, preset: as `Desk`. temperature: of sampling. form: as in training.
        constrained: the model's tokens keep to the scenario's facts. plays: the parts that the adapter has learnt.

    Raises GraftError for an unknown partner or preset.
    """
    if partner is not None and partner not in PARTNERS:
        raise GraftError(f"partner {partner!r}; choose one of {', '.join(PARTNERS)}")
    if (
        partner or ("composer" if module.base == "tiny" and not adapter else "model")
    ) == "composer":
        if constrained:
            raise GraftError(
                "constrained: is for a model's tokens, and the composer has none; leave it out"
            )
        return Desk(Composer, "composer, the grammar without a model", keep, preset)
    from graftwork_llm.decoding import Sampling
    from graftwork_llm.pieces import Pieces

    from .model import Model, line_ends

    network, tokenizer = module.network.to(device), module.tokenizer
    sampling = Sampling(temperature, 0.9, 400, TOKENS)
    pieces = Pieces(tokenizer) if constrained else None
    base, stops = Path(module.base).name, line_ends(tokenizer)

    def made(scenario: Scenario, seed: int) -> Partner:
        return Model(
            network, tokenizer, sampling, stops=stops, seed=seed, device=device, form=form, pieces=pieces
        )  # fmt: skip

    graft = ", with an adapter" if adapter else ", without an adapter"
    apart = ", constrained to the facts" if constrained else ""
    return Desk(made, f"model {base}{graft}{apart}", keep, preset, plays)
