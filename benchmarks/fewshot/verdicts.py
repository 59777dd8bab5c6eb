"""How often is the word of "should I use it?" right? One task: leave one out over six labelled cases, then the test.

The word comes from the site's six labelled cases, each segmented by a graft that was trained on the other five,
as `adapt` does. What is true comes from the test cases: the graft of the five shots against the base, by the same rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from graftwork_medseg.fewshot.verdict import judge
from graftwork_medseg.images.organs import Organs
from graftwork_medseg.prediction import metrics

from .jobs import Job

if TYPE_CHECKING:
    from .work import Bench


def verdict(bench: Bench, job: Job) -> dict[str, Any]:
    """The word, and what the test cases say."""
    site = bench.site(job.task)
    episode = site.episode(job.k, job.fold, job.organs)
    organs = bench.organs(job.task, job.organs)
    own = [*episode.train, episode.audit]
    base = base_dice(bench, job, organs, own)
    graft: dict[str, float] = {}
    seconds = 0.0
    for name in own:
        others = [n for n in own if n != name]
        dice, spent, _ = trained_dice(bench, job, organs, others, [name])
        graft |= dice
        seconds += spent
    said = judge(base, graft)
    before = base_dice(bench, job, organs, episode.test)
    after, spent, trained = trained_dice(bench, job, organs, episode.train, episode.test)
    true = judge(before, after)
    return {
        "status": "done",
        "said": said.to_json(),
        "true": true.to_json(),
        "known": organs.asked[0] in bench.base(job.task).base_classes,
        "trained": trained,
        "seconds": {"train": round(spent, 3), "judge": round(seconds, 3)},
        "own": {"base": base, "graft": graft},
        "test": {"base": before, "graft": after},
    }


def base_dice(bench: Bench, job: Job, organs: Organs, cases: Sequence[str]) -> dict[str, float]:
    """The base's Dice by case; an organ that it does not know is missing in its masks."""
    network = bench.base(job.task).network.to(bench.device)
    scores = bench.scores(network, job.task, organs, cases)
    return {name: metrics.case_dice(case) for name, case in scores.items()}


def trained_dice(
    bench: Bench, job: Job, organs: Organs, train: Sequence[str], cases: Sequence[str]
) -> tuple[dict[str, float], float, int]:
    """Dice by case of an arm trained on `train`, its seconds, and how many parameters trained."""
    from .work import JUDGE_STEPS

    steps = 2 if bench.setting.tiny else JUDGE_STEPS
    found = bench.train(job, organs, train, steps=steps)
    scores = bench.scores(found.ready.network, job.task, organs, cases)
    dice = {name: metrics.case_dice(case) for name, case in scores.items()}
    return dice, found.trace.seconds, found.ready.trained
