"""Forms from a Bento's schema, what they send, and the code to copy."""

import ast
import json
import shlex
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_canary.console import snippets
from ray_canary.console.schema import Body, Endpoint, Field, body_of, endpoints
from ray_canary.errors import ConfigError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


def one(properties: dict[str, Any], required: tuple[str, ...] = (), more: dict[str, Any] | None = None) -> Endpoint:
    taken = {"type": "object", "properties": properties, "required": list(required), **(more or {})}
    (found,) = endpoints({"routes": [{"name": "go", "route": "/go", "input": taken, "output": {"type": "string"}}]})
    return found


@pytest.mark.parametrize(
    ("schema", "kind"),
    [
        ({"type": "string"}, "text"),
        ({"type": "integer"}, "integer"),
        ({"type": "number"}, "number"),
        ({"type": "boolean"}, "boolean"),
        ({"enum": ["a", "b"], "type": "string"}, "choice"),
        ({"const": "a"}, "choice"),
        ({"type": "object"}, "json"),
        ({"type": "array", "items": {"type": "number"}}, "json"),
        ({"type": "tensor"}, "json"),
        ({}, "json"),
        ({"type": "file", "format": "binary"}, "file"),
        ({"type": "array", "items": {"type": "file"}}, "files"),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, "integer"),
        ({"anyOf": [{"type": "integer"}, {"type": "string"}]}, "json"),
        ({"allOf": [{"$ref": "#/$defs/Colour"}]}, "choice"),
        ({"$ref": "#/$defs/Colour"}, "choice"),
        ({"$ref": "#/$defs/Endless"}, "json"),
    ],
)
def test_each_kind_of_input_has_a_field_of_its_kind(schema: dict[str, Any], kind: str) -> None:
    known = {"Colour": {"enum": ["red"], "type": "string"}, "Endless": {"$ref": "#/$defs/Endless"}}
    assert one({"x": schema}, more={"$defs": known}).fields[0].kind == kind


def test_a_field_has_what_the_schema_says_of_it() -> None:
    schema = {"type": "integer", "title": "Top k", "description": "How many.", "default": 3, "minimum": 1, "maximum": 9}
    assert one({"k": schema}).fields == (
        Field("k", "integer", "Top k", required=False, says="How many.", default=3, least=1, most=9),
    )
    image = one({"x": {"type": "file", "format": "image"}}).fields[0]
    assert (image.is_image, image.media_type) == (True, "image/*")


def test_streams_and_tasks_are_marked() -> None:
    route = {"name": "a", "route": "/a", "input": {}, "output": {"is_stream": True}, "is_task": True}
    (found,) = endpoints({"routes": [route]})
    assert (found.streams, found.task, found.fields) == (True, True, ())


@pytest.mark.parametrize("schema", [{}, {"routes": None}, {"routes": "x"}])
def test_what_is_no_schema_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="it names no routes"):
        endpoints(schema)


@pytest.mark.parametrize(
    "schema",
    [
        [],
        "x",
        {"routes": [1]},
        {"routes": [{}]},
        {"routes": [{"name": "a", "route": "/a", "input": [1]}]},
        {"routes": [{"name": "a", "route": "/a", "input": {"properties": {"x": 5}}}]},
        {"routes": [{"name": "a", "route": "@evil.example/a"}]},
        {"routes": [{"name": "a", "route": "/a\x00"}]},
    ],
)
def test_a_schema_that_no_bentoml_writes_is_refused(schema: Any) -> None:
    with pytest.raises(ValueError, match="it |is no path"):
        endpoints(schema)


def test_a_default_or_a_bound_that_is_no_number_is_left_out() -> None:
    field = one({"k": {"type": "number", "default": "abc", "minimum": "x", "maximum": True}}).fields[0]
    assert (field.default, field.least, field.most) == (None, None, None)


def test_a_form_sends_json_and_leaves_out_what_is_empty() -> None:
    endpoint = one({"text": {"type": "string"}, "k": {"type": "integer"}, "more": {"type": "object"}}, ("text",))
    body = body_of(endpoint, {"text": "hello", "k": None, "more": ""})
    assert body == Body(json={"text": "hello"})
    assert body_of(endpoint, {"text": "", "k": 2.0, "more": '{"a": 1}'}).json == {"text": "", "k": 2, "more": {"a": 1}}


def test_every_wrong_field_is_told_at_once_with_its_name_and_what_is_legal() -> None:
    endpoint = one(
        {
            "k": {"type": "integer", "maximum": 9},
            "n": {"type": "integer"},
            "j": {"type": "object"},
            "f": {"type": "file"},
            "x": {"type": "number"},
        },
        ("f", "x"),
    )
    with pytest.raises(ConfigError) as raised:
        body_of(endpoint, {"k": 10, "n": 1.5, "j": "{", "x": None})
    assert [(each.path, each.message.partition(":")[0]) for each in raised.value.problems] == [
        ("k", "is greater than 9"),
        ("n", "is not a whole number"),
        ("j", "is not JSON"),
        ("f", "is required"),
        ("x", "is required"),
    ]


def test_a_form_with_a_file_is_sent_in_parts_and_what_is_no_file_as_json() -> None:
    """BentoML reads each part as JSON: the text `5` without quotes would become a number."""
    endpoint = one({"file": {"type": "file"}, "text": {"type": "string"}, "k": {"type": "integer"}}, ("file",))
    file = ("a.txt", "text/plain", b"x")
    body = body_of(endpoint, {"file": [file], "text": "5", "k": 3})
    assert body == Body(texts=(("text", '"5"'), ("k", "3")), files=(("file", file),))


def test_what_takes_one_thing_only_is_sent_as_it_is() -> None:
    endpoint = one({}, more={"root_input": True})
    assert endpoint.root
    assert body_of(endpoint, {"body": "[1, 2]"}) == Body(json=[1, 2])
    (raw,) = endpoints({"routes": [{"name": "a", "route": "/a", "input": {"type": "file", "root_input": True}}]})
    file = ("a.bin", "application/octet-stream", b"x")
    assert body_of(raw, {"body": [file]}) == Body(files=(("body", file),), raw=True)


@given(JSON, st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=20))
def test_code_to_copy_says_the_same_whatever_is_in_the_form(value: Any, key: str) -> None:
    headers = (("X-User", key),)
    words = shlex.split(
        snippets.curl("http://127.0.0.1/go?q=a b", headers, Body(json=value), token=True).replace("\\\n", " ")
    )
    assert words[:4] == ["curl", "-N", "-X", "POST"]
    assert f"X-User: {key}" in words
    assert json.loads(words[words.index("-d") + 1]) == value
    program = snippets.python("http://127.0.0.1/go", headers, Body(json=value), token=True)
    (said,) = (
        node.value
        for node in ast.walk(ast.parse(program))
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "body"
    )
    assert ast.literal_eval(said) == value


def test_a_token_is_never_in_the_code() -> None:
    for write in (snippets.curl, snippets.python):
        assert "RAY_CANARY_TOKEN" in write("http://x/", (), Body(json={}), token=True)
        assert "RAY_CANARY_TOKEN" not in write("http://x/", (), Body(json={}), token=False)
