"""The same request as a form sends, as Python and as curl, to copy. Pure.

A token is in neither: both read it from the environment.
"""

import json
import shlex
from pprint import pformat
from typing import Final

from ray_canary.console.schema import Body

TOKEN: Final = "RAY_CANARY_TOKEN"

Headers = tuple[tuple[str, str], ...]


def curl(url: str, headers: Headers, body: Body, token: bool) -> str:
    """Return a command for a shell; files are taken from the working directory."""
    parts = ["curl", "-N", "-X", "POST", shlex.quote(url)]
    lines = [" ".join(parts)]
    lines += [f"-H {shlex.quote(f'{name}: {value}')}" for name, value in headers]
    if token:
        lines.append(f'-H "Authorization: Bearer ${TOKEN}"')
    if body.raw:
        ((_, (name, media_type, _)),) = body.files
        lines += [f"-H {shlex.quote(f'Content-Type: {media_type}')}", f"--data-binary {shlex.quote(f'@{name}')}"]
    elif body.texts or body.files:
        lines += [f"--form-string {shlex.quote(f'{name}={value}')}" for name, value in body.texts]
        lines += [
            f"-F {shlex.quote(f'{name}=@{_quoted(file)};type={media_type}')}"
            for name, (file, media_type, _) in body.files
        ]
    else:
        lines += ["-H 'Content-Type: application/json'", f"-d {shlex.quote(json.dumps(body.json))}"]
    return " \\\n  ".join(lines)


def python(url: str, headers: Headers, body: Body, token: bool) -> str:
    """Return a program; files are taken from the working directory."""
    said = {name: value for name, value in headers}
    if body.raw:
        said["Content-Type"] = body.files[0][1][1]
    shown = pformat(said, sort_dicts=False, width=80)
    lines = ["import os", ""] if token else []
    lines += ["import httpx", "", f"headers = {shown}"]
    if token:
        lines.append(f'headers["Authorization"] = f"Bearer {{os.environ[\'{TOKEN}\']}}"')
    if body.raw:
        lines.append(f"content = open({body.files[0][1][0]!r}, 'rb').read()")
        taken = "content=content"
    elif body.texts or body.files:
        files = ", ".join(
            f"({name!r}, ({file!r}, open({file!r}, 'rb'), {media_type!r}))"
            for name, (file, media_type, _) in body.files
        )
        texts = ", ".join(f"({name!r}, (None, {value!r}))" for name, value in body.texts)
        lines.append(f"files = [{', '.join(one for one in (texts, files) if one)}]")
        taken = "files=files"
    else:
        lines.append(f"body = {pformat(body.json, sort_dicts=False, width=80)}")
        taken = "json=body"
    lines += [
        f"with httpx.stream('POST', {url!r}, headers=headers, {taken}, timeout=None) as answer:",
        "    for piece in answer.iter_bytes():",
        "        print(piece.decode(errors='replace'), end='', flush=True)",
    ]
    return "\n".join(lines) + "\n"


def _quoted(name: str) -> str:
    """Return a file's name as curl's -F takes it: in quotes where it has what means something there."""
    if not any(one in name for one in ',;"\\'):
        return name
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
