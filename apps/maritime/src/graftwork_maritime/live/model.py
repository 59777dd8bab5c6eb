"""A causal language model as partner: it goes on with the dialogue that it was trained to write, one line."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import replace
from typing import Any

import torch

from graftwork.lightning.data import mixed_seed
from graftwork_llm.batches import encode
from graftwork_llm.decoding import Kept, Sampling, complete
from graftwork_llm.pieces import Pieces

from ..dialogues import Turn
from ..model.constrained import FactGuide
from ..model.prompts import LIVE, PAUSE, SYSTEM, WATCH, answer, prompt
from .session import Scene

_LABEL = re.compile(r"\s*(SHIP|COAST|OTHER)(?:\s*\([^)]*\))?\s*:\s*")


class Model:
    """Plays a station by writing the next line of the dialogue.

    Where it begins the line with another station's label it keeps silent. A pause is written as a turn of the other
    station in the form `live`; dialogues of other forms have none, and there the label is given after it. As a coast
    station a model of that form is told what the station knows, and nothing of the vessel.

    Args:
        network: a causal language model of transformers, grafted or not.
        tokenizer: its tokenizer.
        sampling: how tokens are chosen; `most`: of a turn.
        stops: `line_ends` of the tokenizer, which take a while to find.
        seed: of the draws.
        device: the model's.
        form: what the prompt calls the form of the dialogue.
        pieces: of the tokenizer, where the tokens are to keep to the scenario's facts.
    """

    name = "model"

    def __init__(
        self, network: Any, tokenizer: Any, sampling: Sampling, *, stops: Collection[int], seed: int = 0,
        device: torch.device | str = "cpu", form: str = "full", pieces: Pieces | None = None,
    ) -> None:  # fmt: skip
        self.network, self.tokenizer, self.sampling = network.eval(), tokenizer, sampling
        self.kept = Kept()  # of the dialogue so far, which comes again with each turn
        self.stops, self.seed, self.device, self.form = stops, seed, device, form
        self.pieces = pieces
        self.pauses: list[int] = []  # how many turns had been said at each

    def reply(self, scene: Scene) -> str | None:
        """The next line's text; None where it is not this station's, or empty."""
        own = f"{scene.role.upper()}:"
        paused = scene.heard == ""
        if paused and scene.attempt == 0:
            self.pauses.append(len(scene.turns))
        turns = self._with_pauses(scene) if self.form == LIVE else scene.turns
        before = answer(turns) + "\n" if turns else ""
        given = paused and self.form != LIVE
        watches = scene.role == "coast" and self.form == LIVE
        asked = prompt(scene.scenario, WATCH if watches else self.form)
        first = encode(self.tokenizer, asked, system=SYSTEM).prompt
        so_far = before + (own if given else "")
        told = self.tokenizer(so_far, add_special_tokens=False)["input_ids"] if so_far else []
        seed = mixed_seed("live", self.seed, scene.scenario.id, len(scene.turns), scene.attempt)
        end, guides = self.tokenizer.eos_token_id, None
        if self.pieces is not None and scene.role == "ship":  # what a person calls about is free
            guides = [FactGuide(scene.scenario, self.pieces, end, so_far)]
        [tokens] = complete(
            self.network, [[*first, *told]], [seed], end=end,
            sampling=self._sampling(scene.attempt), device=self.device, stops=self.stops, told=len(told),
            kept=self.kept, guides=guides,
        )  # fmt: skip
        text = self.tokenizer.decode(tokens, skip_special_tokens=True).strip().partition("\n")[0]
        label = _LABEL.match(text)
        if label is None:
            return text.strip() or None
        if not given and label[1].lower() != scene.role:
            return None
        return text[label.end() :].strip() or None

    def _with_pauses(self, scene: Scene) -> list[Turn]:
        silent = Turn("coast" if scene.role == "ship" else "ship", PAUSE)
        found: list[Turn] = []
        for n, turn in enumerate((*scene.turns, None)):
            found += [silent] * self.pauses.count(n)
            found += [turn] if turn is not None else []
        return found

    def _sampling(self, attempt: int) -> Sampling:
        """A likeliest answer that was refused comes again, unless it is drawn."""
        if attempt and self.sampling.temperature == 0:
            return replace(self.sampling, temperature=0.7)
        return self.sampling


def line_ends(tokenizer: Any) -> tuple[int, ...]:
    """The tokens that hold the end of a line."""
    pieces = tokenizer.batch_decode([[i] for i in range(len(tokenizer))])
    return tuple(i for i, piece in enumerate(pieces) if "\n" in piece)
