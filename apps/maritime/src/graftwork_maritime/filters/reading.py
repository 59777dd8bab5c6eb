"""From a dialogue that was read to a case that filters judge."""

from __future__ import annotations

import dataclasses

from graftwork.errors import GraftError

from ..dialogues import Dialogue
from ..scenario import Scenario, paper_context
from .case import Case
from .unique import Texts


def case_of(dialogue: Dialogue, pool: Texts | None = None, category: str | None = None) -> Case:
    """The case of a dialogue: its scenario checked and completed, the paper's context made from it.

    Args:
        dialogue: its scenario, where there is one, is a scenario's JSON.
        pool: what it must differ from.
        category: of a dialogue that says none.

    Raises GraftError that names the dialogue and the field of its scenario.
    """
    pool = Texts() if pool is None else pool
    if dialogue.scenario is None:
        return Case(dialogue, None, dialogue.category or category, pool)
    try:
        scenario = Scenario.from_dict(dialogue.scenario)
    except GraftError as error:
        at = f"line {dialogue.line}: " if dialogue.line else ""
        raise GraftError(f"{at}dialogue {dialogue.id or '?'}: scenario: {error}") from None
    whole = dataclasses.replace(dialogue, scenario=scenario.as_dict())
    category = dialogue.category or scenario.category
    return Case(whole, paper_context(scenario), category, pool, scenario)
