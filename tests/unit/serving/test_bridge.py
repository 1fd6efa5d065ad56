"""The sockets by which one Bento service reaches another."""

import asyncio
from pathlib import Path

import pytest

from ray_canary.serving.bridge import Bridge
from tests.unit.serving.fakes import FakeTransport

#: Longer than uvicorn keeps an idle connection by default, and shorter than BentoML's client does.
IDLE_S = 6.5
REQUEST = b"GET /x HTTP/1.1\r\nhost: inner\r\n\r\n"


async def _ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    writer.write(REQUEST)
    head = await reader.readuntil(b"\r\n\r\n")
    await reader.readuntil(b"0\r\n\r\n")  # It is chunked.
    return head.partition(b"\r\n")[0]


def test_a_connection_is_never_closed_by_the_bridge_as_its_client_could_be_sending_at_that_moment(
    tmp_path: Path,
) -> None:
    async def run() -> None:
        inner = FakeTransport()
        bridge = Bridge(tmp_path / "bridge", {"Inner": inner})
        await bridge.start()
        reader, writer = await asyncio.open_unix_connection(tmp_path / "bridge" / "0.sock")
        assert b" 200 " in await _ask(reader, writer)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), IDLE_S)
        assert b" 200 " in await _ask(reader, writer)
        assert len(inner.calls) == 2
        writer.close()
        await bridge.stop()

    asyncio.run(run())
