"""Behaviour trees as one line of text that parses back.

    Sequence(NAVIGATE_TO(can), Retry(3, GRASP(can)), IS_HOLDING(can), Timeout(9000, Fallback(OPEN(door), PUSH(door))))
    Sequence(SubTree(Approach), RELEASE()); Approach = Sequence(NAVIGATE_TO(mug), GRASP(mug))

The first tree is the main one; the trees that it calls follow, each with its name. A leaf is an action, or a condition
where its name begins with IS_. Retry counts attempts, Timeout milliseconds; both hold one child. The other form read
here is BehaviorTree.CPP's XML, version 3, of which comments and the names of arguments are left out.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from graftwork.errors import GraftError

COMPOSITES = ("Sequence", "Fallback")
DECORATORS = {"Retry": ("RetryUntilSuccessful", "num_attempts"), "Timeout": ("Timeout", "msec")}
CALL = "SubTree"
MAIN = "MainTree"
CONDITION = "IS_"
DEEPEST = 40
_TOKEN = re.compile(r"\s*(?:(?P<word>\w+)|(?P<mark>[(),;=]))")


class TreeError(GraftError):
    """A text or a file that is no behaviour tree; the message has the place and what was expected."""


@dataclass(frozen=True)
class Node:
    """A node: `name` is a control's, an action's or a condition's; `values` are a leaf's arguments or a decorator's
    number, and of a SubTree the name that it calls."""

    name: str
    values: tuple[str, ...] = ()
    children: tuple[Node, ...] = ()

    @property
    def is_leaf(self) -> bool:
        """Whether this is an action or a condition."""
        return self.name not in (*COMPOSITES, *DECORATORS, CALL)

    def walk(self) -> Iterator[Node]:
        """This node and all below it, parents first."""
        yield self
        for child in self.children:
            yield from child.walk()

    def __str__(self) -> str:
        return f"{self.name}({', '.join([*self.values, *map(str, self.children)])})"


@dataclass(frozen=True)
class Tree:
    """A main tree and the named ones that it calls."""

    main: Node
    named: tuple[tuple[str, Node], ...] = ()

    def __str__(self) -> str:
        return "; ".join([str(self.main), *(f"{name} = {node}" for name, node in self.named)])

    def order(self) -> tuple[str, ...]:
        """Names of the actions in the order in which they stand, called trees in the place of their calls."""
        return tuple(_order(self.main, dict(self.named), ()))


def _order(node: Node, named: Mapping[str, Node], inside: tuple[str, ...]) -> Iterator[str]:
    if node.name == CALL:
        [called] = node.values
        if called in named and called not in inside:
            yield from _order(named[called], named, (*inside, called))
    elif node.is_leaf and not node.name.startswith(CONDITION):
        yield node.name
    for child in node.children:
        yield from _order(child, named, inside)


def problems(tree: Tree, arities: Mapping[str, frozenset[int]]) -> list[str]:
    """What makes a tree invalid, in words; an empty list where it is valid.

    Args:
        arities: of each known action and condition, the numbers of arguments that it may have.
    """
    found = []
    names = [name for name, _ in tree.named]
    for name in {n for n in names if names.count(n) > 1}:
        found.append(f"{name}: defined twice")
    called = set()
    for node in (n for root in (tree.main, *(t for _, t in tree.named)) for n in root.walk()):
        if node.name == CALL:
            called.add(node.values[0])
        elif node.name in DECORATORS:
            if int(node.values[0]) < 1:
                found.append(f"{node.name}: {node.values[0]} must be at least 1")
        elif node.is_leaf and node.name not in arities:
            found.append(f"{node.name}: unknown")
        elif node.is_leaf and len(node.values) not in arities[node.name]:
            allowed = " or ".join(map(str, sorted(arities[node.name])))
            found.append(f"{node.name}: {len(node.values)} arguments, and it takes {allowed}")
    found += [f"{name}: called, and not defined" for name in sorted(called - set(names))]
    found += [f"{name}: defined, and not called" for name in sorted(set(names) - called)]
    if _is_cyclic(tree):
        found.append("a tree calls itself")
    return found


def _is_cyclic(tree: Tree) -> bool:
    named = dict(tree.named)

    def loops(node: Node, inside: tuple[str, ...]) -> bool:
        for inner in node.walk():
            if inner.name == CALL and inner.values[0] in named:
                name = inner.values[0]
                if name in inside or loops(named[name], (*inside, name)):
                    return True
        return False

    return loops(tree.main, ()) or any(loops(node, (name,)) for name, node in tree.named)


def parse(text: str) -> Tree:
    """The tree of a text.

    Raises:
        TreeError: with the character where it stops being a tree.
    """
    return _Reader(text).tree()


class _Reader:
    """A recursive descent over words and marks."""

    def __init__(self, text: str) -> None:
        self.text, self.tokens, at = text, list[tuple[str, int]](), 0
        end = len(text.rstrip())
        while at < end:
            found = _TOKEN.match(text, at)
            if found is None:
                raise TreeError(f"character {at}: {text[at : at + 10]!r} belongs to no tree")
            self.tokens.append((found["word"] or found["mark"], found.start(found.lastgroup or 0)))
            at = found.end()
        self.at = 0

    def tree(self) -> Tree:
        main, named = self.node(0), []
        while self.peek() == ";":
            self.take(";")
            name = self.word("a tree's name")
            self.take("=")
            named.append((name, self.node(0)))
        if self.at < len(self.tokens):
            raise self.wrong("';' or the end")
        return Tree(main, tuple(named))

    def node(self, depth: int) -> Node:
        if depth > DEEPEST:
            raise TreeError(f"nested more than {DEEPEST} deep")
        name = self.word("a node")
        self.take("(")
        values: tuple[str, ...] = ()
        children: tuple[Node, ...] = ()
        if name == CALL:
            values = (self.word("the name of a tree"),)
        elif name in DECORATORS:
            values = (self.number(name),)
            self.take(",")
            children = (self.node(depth + 1),)
        elif name in COMPOSITES:
            children = self.nodes(depth + 1)
        else:
            values = self.values()
        self.take(")")
        return Node(name, values, children)

    def nodes(self, depth: int) -> tuple[Node, ...]:
        found = [self.node(depth)]
        while self.peek() == ",":
            self.take(",")
            found.append(self.node(depth))
        return tuple(found)

    def values(self) -> tuple[str, ...]:
        if self.peek() == ")":
            return ()
        found = [self.word("an argument")]
        while self.peek() == ",":
            self.take(",")
            found.append(self.word("an argument"))
        return tuple(found)

    def number(self, name: str) -> str:
        value = self.word(f"{name}'s number")
        if not re.fullmatch(r"[0-9]{1,9}", value):
            self.at -= 1
            raise self.wrong(f"{name}'s number")
        return value

    def peek(self) -> str:
        return self.tokens[self.at][0] if self.at < len(self.tokens) else ""

    def word(self, what: str) -> str:
        found = self.peek()
        if not found or found in "(),;=":
            raise self.wrong(what)
        self.at += 1
        return found

    def take(self, mark: str) -> None:
        if self.peek() != mark:
            raise self.wrong(repr(mark))
        self.at += 1

    def wrong(self, what: str) -> TreeError:
        if self.at >= len(self.tokens):
            return TreeError(f"the text ends where {what} was expected")
        token, at = self.tokens[self.at]
        return TreeError(f"character {at}: {what} was expected, not {token!r}")


def from_xml(text: str) -> Tree:
    """The tree of a BehaviorTree.CPP file, comments and names of arguments left out.

    Raises:
        TreeError: no XML, no main tree, or a node that this form does not have.
    """
    try:
        root = ET.fromstring(text)
    except ET.ParseError as error:
        raise TreeError(f"no XML: {error}") from None
    found = {tree.get("ID", ""): tree for tree in root.iter("BehaviorTree")}
    main = root.get("main_tree_to_execute", MAIN)
    if main not in found:
        raise TreeError(f"the main tree {main!r} is missing")
    nodes = {name: _one(tree, f"BehaviorTree {name}") for name, tree in found.items()}
    return Tree(nodes.pop(main), tuple(nodes.items()))


def _one(element: ET.Element, where: str) -> Node:
    children = [_node(child) for child in element]
    if len(children) != 1:
        raise TreeError(f"{where} holds {len(children)} nodes, and takes one")
    return children[0]


def _node(element: ET.Element) -> Node:
    tag, name = element.tag, element.get("ID", "")
    values = tuple(v for k, v in element.attrib.items() if k != "ID")
    bad = [v for v in (name or "x", *values) if not re.fullmatch(r"\w+", v)]
    if bad:
        raise TreeError(f"{tag}: {bad[0]!r} is not made of letters, digits and underscores")
    if tag in ("Action", "Condition"):
        if (tag == "Condition") != name.startswith(CONDITION):
            raise TreeError(f"{tag} {name!r}: names of conditions, and no others, begin with IS_")
        return Node(name, values)
    if tag == CALL:
        return Node(CALL, (name,))
    for short, (long, attribute) in DECORATORS.items():
        if tag == long:
            return Node(short, (element.get(attribute, ""),), (_one(element, tag),))
    if tag not in COMPOSITES:
        raise TreeError(f"{tag}: no such node; there are Action, Condition and controls")
    return Node(tag, (), tuple(_node(child) for child in element))
