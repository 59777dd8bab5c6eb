"""Trees as text, what makes one valid, what is shown of an episode, and who is kept out of training."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trees_kit import episode, raw_episodes, write_episodes, xml

from benchmarks.trees import baselines
from benchmarks.trees.episodes import PARTS, Palette, lab_of, read, split, split_labs
from benchmarks.trees.judge import judge, mean, scores
from benchmarks.trees.tree import Node, Tree, TreeError, from_xml, parse, problems
from graftwork import GraftError

ARITIES = {
    n: frozenset(k) for n, k in {"GO": [1], "PUT": [1, 2], "STOP": [0], "IS_SEEN": [1]}.items()
}
WORDS = st.text("abcXYZ_019", min_size=1, max_size=6)


def leaves() -> st.SearchStrategy[Node]:
    names = st.sampled_from(sorted(ARITIES))
    return names.flatmap(
        lambda n: st.sampled_from(sorted(ARITIES[n])).flatmap(
            lambda k: st.tuples(*[WORDS] * k).map(lambda values: Node(n, values))
        )
    )


def grown(inner: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
    composite = st.builds(
        lambda name, children: Node(name, (), tuple(children)),
        st.sampled_from(["Sequence", "Fallback"]), st.lists(inner, min_size=1, max_size=3),
    )  # fmt: skip
    decorator = st.builds(
        lambda name, n, child: Node(name, (str(n),), (child,)),
        st.sampled_from(["Retry", "Timeout"]), st.integers(1, 10**5), inner,
    )  # fmt: skip
    return st.one_of(composite, decorator)


@given(st.recursive(leaves(), grown, max_leaves=8), st.recursive(leaves(), grown, max_leaves=4))
def test_every_tree_parses_back_and_is_valid(main: Node, other: Node) -> None:
    for tree in (
        Tree(main),
        Tree(Node("Sequence", (), (main, Node("SubTree", ("More",)))), (("More", other),)),
    ):
        assert parse(str(tree)) == tree
        assert parse(f"  {str(tree).replace(', ', ' , ')}\n") == tree
        assert problems(tree, ARITIES) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "ends where a node"),
        ("GO", r"ends where '\('"),
        ("GO(a", r"ends where '\)'"),
        ("GO(a))", r"';' or the end was expected, not '\)'"),
        ("GO(a) STOP()", "';' or the end was expected, not 'STOP'"),
        ("Sequence()", r"a node was expected, not '\)'"),
        ("Sequence(GO(a),)", "a node was expected"),
        ("Retry(three, GO(a))", "character 6: Retry's number was expected, not 'three'"),
        ("Retry(3)", "',' was expected"),
        ("Timeout(3, GO(a), GO(b))", r"'\)' was expected, not ','"),
        ("GO(a-b)", "character 4: '-b\\)' belongs to no tree"),
        ("GO(a); More", "ends where '='"),
        ("SubTree()", "the name of a tree was expected"),
        ("Sequence(" * 60 + "STOP()" + ")" * 60, "nested more than 40 deep"),
    ],
)
def test_what_is_no_tree_is_refused_with_its_place(text: str, words: str) -> None:
    with pytest.raises(TreeError, match=words):
        parse(text)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("FLY(a)", ["FLY: unknown"]),
        ("GO()", ["GO: 0 arguments, and it takes 1"]),
        ("PUT(a, b, c)", ["PUT: 3 arguments, and it takes 1 or 2"]),
        ("Retry(0, GO(a))", ["Retry: 0 must be at least 1"]),
        ("SubTree(More)", ["More: called, and not defined"]),
        ("GO(a); More = STOP()", ["More: defined, and not called"]),
        ("SubTree(A); A = STOP(); A = STOP()", ["A: defined twice"]),
        ("SubTree(A); A = SubTree(A)", ["a tree calls itself"]),
        ("SubTree(A); A = SubTree(B); B = Sequence(GO(a), SubTree(A))", ["a tree calls itself"]),
    ],
)
def test_what_makes_a_tree_invalid(text: str, found: list[str]) -> None:
    assert problems(parse(text), ARITIES) == found


def test_the_order_holds_called_trees_and_no_conditions() -> None:
    tree = parse("Sequence(SubTree(A), IS_SEEN(x), Retry(2, PUT(x))); A = Fallback(GO(x), STOP())")
    assert tree.order() == ("GO", "STOP", "PUT")
    assert parse("SubTree(A); A = Sequence(GO(x), SubTree(A))").order() == ("GO",)
    assert parse("SubTree(Nowhere)").order() == ()


def test_xml_is_read_without_comments_and_argument_names() -> None:
    text = (
        '<root main_tree_to_execute="M"><BehaviorTree ID="Sub"><Action ID="STOP"/></BehaviorTree><BehaviorTree ID="M">'
        '<!-- c --><Fallback><RetryUntilSuccessful num_attempts="3"><Action ID="PUT" obj="a" container="b"/>'
        '</RetryUntilSuccessful><Timeout msec="90"><Condition ID="IS_SEEN" obj="a"/></Timeout><SubTree ID="Sub"/>'
        "</Fallback></BehaviorTree></root>"
    )
    want = "Fallback(Retry(3, PUT(a, b)), Timeout(90, IS_SEEN(a)), SubTree(Sub)); Sub = STOP()"
    assert str(from_xml(text)) == want
    for bad, words in [
        ("<root", "no XML"),
        ("<root/>", "main tree 'MainTree' is missing"),
        (text.replace("Fallback", "Parallel"), "Parallel: no such node"),
        (text.replace("IS_SEEN", "SEEN"), "begin with IS_"),
        (text.replace('obj="a" c', 'obj="a b" c'), "'a b' is not made of"),
        (text.replace('<Action ID="STOP"/>', ""), "BehaviorTree Sub holds 0 nodes"),
    ]:
        with pytest.raises(TreeError, match=words):
            from_xml(bad)


# -- episodes ---------------------------------------------------------------------------------------


def test_nothing_of_the_list_is_shown_but_what_the_palette_lacks(tmp_path: Path) -> None:
    known = read(write_episodes(tmp_path))
    every = [e for part in PARTS for e in known.parts[part]]
    plain = known.prompt(next(e for e in every if e.variant == "base"))
    assert "Constraints" not in plain and "Allowed" not in plain and "PICK" not in plain
    assert plain.endswith("Synonyms: none\nTask: take the cup")
    assert plain.startswith("Actions: NAVIGATE_TO(obj), GRASP(obj), OPEN(obj), RELEASE()\n")
    varied = known.prompt(next(e for e in every if e.variant == "base_lexical"))
    assert "Synonyms: PICK(obj)\n" in varied and varied.startswith(plain.partition("\nSyn")[0])
    for (
        e
    ) in every:  # two that are asked for different trees of the palette see the same but the task
        assert problems(e.tree, known.palette.arities(e.shown)) == []
        other = replace(e, tree=parse("OPEN(x)"), allowed=("OPEN",))
        assert known.prompt(other) == known.prompt(e)


def test_a_signature_with_more_arguments_is_shown_and_one_with_fewer_is_not() -> None:
    palette = Palette(("PUT(obj)", "FOLD(obj)"))
    found = palette.beyond(["PUT(obj, on)", "FOLD()", "PUT(obj)", "LAY(obj)"])
    assert found == ("LAY(obj)", "PUT(obj, on)")
    assert palette.arities(("PUT(obj, on)",))["PUT"] == {1, 2}
    with pytest.raises(GraftError, match="no signature"):
        split("PUT obj")


def test_laboratories_are_in_one_part_each_and_the_same_variant_counts_once(tmp_path: Path) -> None:
    known = read(write_episodes(tmp_path))
    labs = {part: {lab_of(e.subset) for e in known.parts[part]} for part in PARTS}
    assert all(labs.values()) and sum(map(len, labs.values())) == len(set.union(*labs.values()))
    assert labs["test"] == set(known.labs["test"])
    assert sum(len(known.parts[p]) for p in PARTS) == len(raw_episodes()) * 4 // 5
    assert {len(known.parts[p]) for p in PARTS} != {3}
    few = read(tmp_path, limit=3)
    assert [len(few.parts[p]) for p in PARTS] == [3, 3, 3]
    counts = {f"lab{i}": 10 for i in range(20)}
    found = split_labs(counts)
    assert (len(found["test"]), len(found["choice"]), len(found["train"])) == (4, 2, 14)
    assert split_labs(dict(reversed(counts.items()))) == found
    assert lab_of("bridge_0.1.0") == "berkeley"


def test_damage_is_named_and_a_damaged_list_is_counted(tmp_path: Path) -> None:
    raw = raw_episodes()
    raw[0]["allowed_actions"] = ["GRASP(obj)", "A"]
    known = read(write_episodes(tmp_path, raw))
    assert known.damaged == (raw[0]["id"],)
    raw.append(episode("asu_table", 9, "base", "x", [], "<root/>"))
    with pytest.raises(GraftError, match=r"not in the card's form.*main tree"):
        read(write_episodes(tmp_path, raw))
    (tmp_path / "primitives.json").unlink()
    with pytest.raises(
        GraftError, match=r"holds no primitives.json; see data_cards/bt-episodes.md"
    ):
        read(tmp_path)


REAL = Path(os.environ.get("GRAFTWORK_DATA", "/nowhere")) / "bt-episodes"


@pytest.mark.skipif(not REAL.is_dir(), reason="GRAFTWORK_DATA names no folder with bt-episodes")
def test_the_real_episodes_are_valid_under_what_is_shown() -> None:
    known = read(REAL)
    for part in PARTS:
        for e in known.parts[part]:
            assert parse(str(e.tree)) == e.tree
            assert problems(e.tree, known.palette.arities(e.shown)) == []
    assert len(known.palette.actions) == 22 and len(known.damaged) == 1


# -- judging ----------------------------------------------------------------------------------------


def test_an_answer_is_judged_by_its_tree(tmp_path: Path) -> None:
    known = read(write_episodes(tmp_path))
    e = next(e for e in known.parts["train"] if e.instruction == "take the cup")
    for text, want in [
        ("Sequence(NAVIGATE_TO(cup), GRASP(cup))", (True, True, True)),
        ("Sequence(NAVIGATE_TO( cup ),GRASP(cup))", (True, True, True)),
        ("Sequence(NAVIGATE_TO(mug), GRASP(mug))", (False, True, True)),
        ("Sequence(GRASP(cup), NAVIGATE_TO(cup))", (False, False, True)),
        ("Sequence(NAVIGATE_TO(cup), PICK(cup))", (False, False, False)),
        ("Sequence(NAVIGATE_TO(cup), GRASP(cup, a))", (False, True, False)),
        ("Sequence(NAVIGATE_TO(cup), GRASP(cup)", (False, False, False)),
        ("I would go to the cup.", (False, False, False)),
    ]:
        assert judge(text, e, known.palette) == want, text


def test_intervals_are_over_groups(tmp_path: Path) -> None:
    known = read(write_episodes(tmp_path))
    one = known.parts["train"][0]
    apart = [replace(one, group=str(i)) for i in range(40)]
    together = [replace(one, group=str(i // 20)) for i in range(40)]
    values = np.array([0.0] * 20 + [1.0] * 20)
    a, b = mean(values, apart), mean(values, together)
    assert a.value == b.value == 0.5 and a.n == 40
    assert 0.3 < a.lo < 0.4 < 0.6 < a.hi < 0.7
    assert (b.lo, b.hi) == (0.0, 1.0)


def test_baselines_answer_by_what_they_see(tmp_path: Path) -> None:
    known = read(write_episodes(tmp_path))
    train, test = known.parts["train"], known.parts["test"]
    exact = {
        name: scores(answer, test, known.palette)["exact match"].mean()
        for name, answer in {
            "most": baselines.most_frequent(train, test),
            "nearest": baselines.nearest(train, test),
            "lookup": baselines.lookup(train, test),
            "ceiling": baselines.ceiling(known.prompt, test),
        }.items()
    }
    assert exact["nearest"] == exact["ceiling"] == 1.0  # all robots are told the same here
    assert 0 < exact["most"] < 1
    order = scores(baselines.lookup(train, test), test, known.palette)["action order"]
    assert order.mean() == 1.0  # the list gives the set of actions away
    e = replace(test[0], instruction="fetch it", allowed=("FLY",))
    [unknown] = baselines.lookup(train, [e])
    [commonest] = baselines.most_frequent_order(train, [e])
    assert unknown == commonest
    orders = [x.tree.order() for x in train]
    assert max(map(orders.count, orders)) == orders.count(parse(commonest).order())


def test_the_kit_writes_what_the_tests_say() -> None:
    assert str(from_xml(xml("GO:a", "STOP"))) == "Sequence(GO(a), STOP())"
