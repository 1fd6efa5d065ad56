"""A client that reads streams, and notes when each chunk comes."""

import asyncio
import json
import time
from dataclasses import dataclass, field
from statistics import median, quantiles
from urllib.parse import urlsplit

from tests.benchmarks.results import Figure, Sample

CHUNKS = 200


@dataclass
class Stream:
    """One stream, moments in monotonic s: when it was asked for, and of each line when it was made and when it came."""

    asked: float
    ended: float = 0.0
    pieces: int = 0
    lines: list[tuple[float, float]] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        """Whether every line came."""
        return len(self.lines) == CHUNKS

    def took(self, piece: bytes, at: float) -> None:
        """Note a chunk that came."""
        self.pieces += 1
        self.lines += [(float(line), at) for line in piece.splitlines()]


def request(url: str, every_s: float) -> bytes:
    """Return the request for one stream from the side at `url`."""
    parts = urlsplit(url)
    body = json.dumps({"chunks": CHUNKS, "every_s": every_s}).encode()
    head = (
        f"POST {parts.path}/stream HTTP/1.1\r\nHost: {parts.netloc}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def read(reader: asyncio.StreamReader, asked: float) -> Stream:
    """Read one response. Raises ValueError if it isn't a stream, EOFError or OSError if it breaks off."""
    head = await reader.readuntil(b"\r\n\r\n")
    if b" 200 " not in head.split(b"\r\n", 1)[0] or b"chunked" not in head.lower():
        raise ValueError(head.decode(errors="replace"))
    stream = Stream(asked)
    while size := int(await reader.readline(), 16):
        piece = await reader.readexactly(size + 2)
        stream.took(piece[:-2], time.monotonic())
    await reader.readline()
    stream.ended = time.monotonic()
    return stream


async def _client(url: str, every_s: float, until: float, streams: list[Stream | None]) -> None:
    """Read one stream after the other; None stands for one that failed."""
    parts = urlsplit(url)
    asks = request(url, every_s)
    while time.monotonic() < until:
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        try:
            while time.monotonic() < until:
                asked = time.monotonic()
                writer.write(asks)
                stream = await read(reader, asked)
                streams.append(stream if stream.whole else None)
        except (ValueError, EOFError, OSError):
            streams.append(None)
        finally:
            writer.close()


async def _all(url: str, clients: int, every_s: float, seconds: float) -> list[Stream | None]:
    streams: list[Stream | None] = []
    until = time.monotonic() + seconds
    await asyncio.gather(*(_client(url, every_s, until, streams) for _ in range(clients)))
    return streams


def send(url: str, seconds: float, clients: int, every_s: float) -> Sample:
    """Read streams for so long, a line made every `every_s` seconds (0: as fast as it goes)."""
    streams = asyncio.run(_all(url, clients, every_s, seconds))
    whole = [stream for stream in streams if stream]
    return Sample(values=figures(whole, every_s) if whole else {}, done=len(whole), failed=len(streams) - len(whole))


def figures(streams: list[Stream], every_s: float) -> dict[Figure, float]:
    """Return what streams show: of fast ones how fast they are, of slow ones how late a chunk is."""
    if not every_s:
        return {
            Figure.FIRST: median(stream.lines[0][1] - stream.asked for stream in streams) * 1000,
            Figure.CHUNKS: median(len(stream.lines) / (stream.ended - stream.asked) for stream in streams),
        }
    delays = [came - made for stream in streams for made, came in stream.lines]
    return {
        Figure.FIRST: median(stream.lines[0][1] - stream.asked for stream in streams) * 1000,
        Figure.DELAY: median(delays) * 1000,
        Figure.DELAY_99: quantiles(delays, n=100)[98] * 1000,
        Figure.MERGED: median(len(stream.lines) - stream.pieces for stream in streams),
    }
