"""A Bento that is small, and that breaks in the way that its environment says."""

import asyncio
import os

import bentoml

BREAK = os.environ.get("FRAGILE_BREAK", "")

if BREAK == "import":
    raise ImportError("the tokenizer is of another version")
if BREAK == "env":
    TOKEN = os.environ["FRAGILE_TOKEN"]


if BREAK == "secret":
    raise PermissionError(f"nobody lets {os.environ['FRAGILE_TOKEN']} in")


def load_weights() -> None:
    """Load what there is to load."""
    if BREAK == "init":
        raise ValueError("the weights are cut off after 3 bytes")
    if BREAK.startswith("/") and os.path.exists(BREAK):
        raise ValueError("the weights are gone")


@bentoml.service(traffic={"timeout": 30})
class Fragile:
    """The only service."""

    def __init__(self) -> None:
        load_weights()

    @bentoml.api
    async def who(self) -> dict[str, object]:
        """Say which version and process this is."""
        return {"name": os.environ.get("PROBE_NAME", ""), "pid": os.getpid()}

    @bentoml.api
    async def sleep(self, seconds: float) -> float:
        """Take a while."""
        await asyncio.sleep(seconds)
        return seconds
