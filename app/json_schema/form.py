"""What a published JSON Schema may not be, found without applying it to anything.

A schema is refused when it is published if it could be refused for its form when it is used: where
a reference leads to nothing or to another document, where a pattern is none, and where following
references takes endless or very many steps. All of it takes time linear in the schema's size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urljoin

from app.json_schema.evaluation import UNUSABLE, compile_schema, resolve, tokens_of
from app.json_values import Place, pointer_to

MAX_EXPANDED = 10_000
"""References may lead through at most this many schemas, unless more are written out."""

MAX_STEPS = 500
"""At most this many schemas in a row may look at the same place of the value."""

Fault = tuple[str, str]
"""The pointer of what is at fault, and a sentence that says what is expected."""

_REMOTE = "Must lead to a schema within this one; nothing is fetched."
_NOWHERE = "Must lead to a schema; there is none in this place."
_ENDLESS = "Must not lead back here before it has gone into a member or an item of the value."
_PATTERN = "Must be a regular expression of moderate size, without look-around or back references."
_EXPANDED = (
    f"Must not lead through more than {MAX_EXPANDED} schemas, nor through {MAX_STEPS} in a row, "
    "when references are followed."
)

# Where keywords hold schemas: one, a list, or one for each name. Those that look at the same place
# of the value as the schema they are in; those that go into its members or items; definitions.
_SAME_ONE = ("not", "if", "then", "else")
_SAME_LIST = ("allOf", "anyOf", "oneOf")
_SAME_MAP = ("dependentSchemas", "dependencies")
_INNER_ONE = (
    "additionalProperties",
    "unevaluatedProperties",
    "propertyNames",
    "items",
    "additionalItems",
    "unevaluatedItems",
    "contains",
)
_INNER_LIST = ("prefixItems", "items")
_INNER_MAP = ("properties", "patternProperties")
_DEFINITIONS = ("$defs", "definitions")
_REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")
# The meta-schemas, which the engine knows, and what following one of them counts.
_META = ("https://json-schema.org/draft/", "http://json-schema.org/draft-")
_META_COST = 500


@dataclass(eq=False)
class _Schema:
    """A schema within the document, and what applying it leads to."""

    value: dict[str, Any]
    place: Place
    base: str
    same: list[_Edge] = field(default_factory=list)
    inner: list[_Edge] = field(default_factory=list)
    cost: int = 1
    steps: int = 1


@dataclass(frozen=True)
class _Edge:
    """A step from one schema to another; ``reference`` is the place of the keyword that refers."""

    target: _Schema
    reference: Place | None = None


class _Document:
    """Every schema of a document, its identifiers, and its references resolved."""

    def __init__(self, root: dict[str, Any]) -> None:
        self.schemas: dict[int, _Schema] = {}
        self.faults: list[tuple[Place, str]] = []
        self._draft = root.get("$schema")
        self._resources: dict[str, tuple[dict[str, Any], Place]] = {"": (root, ())}
        self._anchors: dict[tuple[str, str], _Schema] = {}
        self._dynamic: dict[str, list[_Schema]] = {}
        self._unfollowed: list[_Schema] = []
        self.root = self._add(root, (), "")
        # A reference may lead to a place that no keyword makes a schema; what is there is one then.
        while self._unfollowed:
            self._follow(self._unfollowed.pop())

    def _add(self, value: dict[str, Any], place: Place, base: str) -> _Schema:
        """Add a schema with all that is written in it."""
        root = self._enter(value, place, base)
        waiting = [root]
        while waiting:
            schema = waiting.pop()
            for kind, inner, where in _children(schema.value, schema.place):
                if id(inner) in self.schemas:
                    child = self.schemas[id(inner)]
                else:
                    child = self._enter(inner, where, schema.base)
                    waiting.append(child)
                if kind is not None:
                    (schema.same if kind == "same" else schema.inner).append(_Edge(child))
        return root

    def _enter(self, value: dict[str, Any], place: Place, base: str) -> _Schema:
        given = value.get("id" if "draft-04" in str(self._draft) else "$id")
        anchor = None
        if isinstance(given, str):
            if given.startswith("#"):
                anchor = given[1:]
            else:
                base = _join(base, given)
                self._resources.setdefault(base, (value, place))
        schema = self.schemas[id(value)] = _Schema(value, place, base)
        self._unfollowed.append(schema)
        for name in (anchor, value.get("$anchor"), value.get("$dynamicAnchor")):
            if isinstance(name, str):
                self._anchors.setdefault((base, name), schema)
        if isinstance(value.get("$dynamicAnchor"), str):
            self._dynamic.setdefault(value["$dynamicAnchor"], []).append(schema)
        if value.get("$recursiveAnchor") is True:
            self._dynamic.setdefault("", []).append(schema)
        return schema

    def _follow(self, schema: _Schema) -> None:
        for keyword in _REFERENCES:
            reference = schema.value.get(keyword)
            if not isinstance(reference, str):
                continue
            place = (schema.place, keyword)
            targets: list[_Schema] = []
            try:
                target = self._resolve(schema.base, reference)
            except LookupError as error:
                self.faults.append((place, str(error.args[0])))
                continue
            if target is None:
                schema.cost += _META_COST
            else:
                targets.append(target)
            if keyword != "$ref":
                name = reference.rpartition("#")[2]
                targets += [other for other in self._dynamic.get(name, ()) if other is not target]
            schema.same += [_Edge(target, place) for target in targets]

    def _resolve(self, base: str, reference: str) -> _Schema | None:
        """Return what a reference leads to; None for a meta-schema, or true and false.

        Raises ``LookupError`` with what is wrong.
        """
        uri, _, fragment = reference.partition("#")
        uri = _join(base, uri) if uri else base
        if uri not in self._resources:
            if uri.startswith(_META) and self._is_known(uri, fragment):
                return None
            raise LookupError(_REMOTE)
        value, place = self._resources[uri]
        if fragment and not fragment.startswith("/"):
            if (uri, fragment) not in self._anchors:
                raise LookupError(_NOWHERE)
            return self._anchors[uri, fragment]
        tokens = tokens_of(unquote(fragment))
        try:
            target = resolve(value, tokens)
        except (LookupError, TypeError, ValueError):
            raise LookupError(_NOWHERE) from None
        if isinstance(target, bool):
            return None
        if not isinstance(target, dict):
            raise LookupError(_NOWHERE)
        for name in tokens:
            place = (place, name)
        known = self.schemas.get(id(target))
        return known if known is not None else self._add(target, place, uri)

    def _is_known(self, uri: str, fragment: str) -> bool:
        """Tell whether the engine has a meta-schema, which depends on the document's draft."""
        draft = {} if self._draft is None else {"$schema": self._draft}
        try:
            compile_schema({**draft, "$ref": f"{uri}#{fragment}" if fragment else uri})
        except UNUSABLE:
            return False
        return True


def _join(base: str, reference: str) -> str:
    try:
        return urljoin(base, reference).removesuffix("#")
    except ValueError:
        return reference


def _children(
    value: dict[str, Any], place: Place
) -> Iterator[tuple[str | None, dict[str, Any], Place]]:
    """Yield the schemas written in a schema, with where of the value they look, and their place."""
    for kind, ones, lists, maps in (
        ("same", _SAME_ONE, _SAME_LIST, _SAME_MAP),
        ("inner", _INNER_ONE, _INNER_LIST, _INNER_MAP),
        (None, (), (), _DEFINITIONS),
    ):
        for keyword in ones:
            if isinstance(value.get(keyword), dict):
                yield kind, value[keyword], (place, keyword)
        for keyword in lists:
            if isinstance(value.get(keyword), list):
                for index, inner in enumerate(value[keyword]):
                    if isinstance(inner, dict):
                        yield kind, inner, ((place, keyword), index)
        for keyword in maps:
            if isinstance(value.get(keyword), dict):
                for name, inner in value[keyword].items():
                    if isinstance(inner, dict):
                        yield kind, inner, ((place, keyword), name)


def form_faults(schema: dict[str, Any]) -> Iterator[Fault]:
    """Yield what a schema, which is valid by its meta-schema, may not be.

    What it lets pass can be applied: nothing but the time or memory of a check can refuse it later.
    """
    document = _Document(schema)
    found = False
    for place, detail in (
        *document.faults,
        *((place, _ENDLESS) for place in _circles(document)),
        *((place, _PATTERN) for place in _bad_patterns(document)),
    ):
        found = True
        yield pointer_to(place), detail
    if found:
        return
    expanded = _expanded_place(document)
    if expanded is not None:
        yield pointer_to(expanded), _EXPANDED
        return
    try:
        compile_schema(schema)
    except UNUSABLE:
        yield "", "Must be a schema that can be applied by itself."


def _bad_patterns(document: _Document) -> Iterator[Place]:
    """Yield the places of patterns that the engine does not compile."""
    for schema in document.schemas.values():
        patterns = [((schema.place, "pattern"), schema.value.get("pattern"))]
        named = schema.value.get("patternProperties")
        if isinstance(named, dict):
            at = (schema.place, "patternProperties")
            patterns += [((at, pattern), pattern) for pattern in named]
        for place, pattern in patterns:
            if isinstance(pattern, str):
                try:
                    compile_schema({"pattern": pattern})
                except UNUSABLE:
                    yield place


def _circles(document: _Document) -> Iterator[Place]:
    """Yield the references that lead back to where they began, at the same place of the value."""
    done: set[int] = set()
    for start in document.schemas.values():
        if id(start) in done:
            continue
        path: dict[int, Place | None] = {id(start): None}
        stack = [(start, iter(start.same))]
        while stack:
            schema, edges = stack[-1]
            edge = next(edges, None)
            if edge is None:
                stack.pop()
                del path[id(schema)]
                done.add(id(schema))
            elif id(edge.target) in path:
                yield _closing_reference(edge, path)
            elif id(edge.target) not in done:
                path[id(edge.target)] = edge.reference
                stack.append((edge.target, iter(edge.target.same)))


def _closing_reference(edge: _Edge, path: dict[int, Place | None]) -> Place:
    """Return the last reference of the circle that ``edge`` closes."""
    references = [edge.reference, *reversed(path.values())]
    return next(place for place in references if place is not None)


def _expanded_place(document: _Document) -> Place | None:
    """Return the place of the innermost schema that references expand too far, None without one.

    A way that goes into members or items may lead back to where it was: how often depends on the
    value, and the circle counts once.
    """
    limit = max(MAX_EXPANDED, len(document.schemas))
    begun: set[int] = {id(document.root)}
    done: set[int] = set()
    stack = [(document.root, iter([*document.root.same, *document.root.inner]))]
    while stack:
        schema, edges = stack[-1]
        edge = next(edges, None)
        if edge is None:
            stack.pop()
            done.add(id(schema))
            for other in (*schema.same, *schema.inner):
                schema.cost += other.target.cost if id(other.target) in done else 1
            schema.steps += max((other.target.steps for other in schema.same), default=0)
            if schema.cost > limit or schema.steps > MAX_STEPS:
                return schema.place
        elif id(edge.target) not in begun:
            begun.add(id(edge.target))
            stack.append((edge.target, iter([*edge.target.same, *edge.target.inner])))
    return None
