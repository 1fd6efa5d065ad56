"""A websocket's messages on the connection between a version's replica and the ingress."""

import asyncio
import json
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

#: The kind, and how many bytes follow.
_HEAD: Final = struct.Struct("!BI")
#: RFC 6455, section 7.4.1: no code was in the close frame; the connection was closed without one.
NO_STATUS, ABNORMAL = 1005, 1006
INTERNAL_ERROR: Final = 1011


class Kind(IntEnum):
    """What a frame is."""

    TEXT = 1
    BYTES = 2
    CLOSE = 3


@dataclass(frozen=True, slots=True)
class Frame:
    """One message, or the end of the conversation: then `content` is JSON with `code` and `reason`."""

    kind: Kind
    content: bytes

    @classmethod
    def of(cls, message: Any) -> "Frame":
        """Return the frame for an ASGI message: `websocket.send`, `.receive`, `.close` or `.disconnect`."""
        if message["type"] in ("websocket.close", "websocket.disconnect"):
            return cls.close(message.get("code") or 1000, message.get("reason") or "")
        if message.get("text") is not None:
            return cls(Kind.TEXT, message["text"].encode("utf-8", "surrogatepass"))
        return cls(Kind.BYTES, bytes(message.get("bytes") or b""))

    @classmethod
    def close(cls, code: int, reason: str = "") -> "Frame":
        """Return the last frame."""
        return cls(Kind.CLOSE, json.dumps({"code": code, "reason": reason}).encode())

    def message(self, kind: str) -> dict[str, Any]:
        """Return the ASGI message of type `kind` that carries this."""
        match self.kind:
            case Kind.CLOSE:
                return {"type": kind, **json.loads(self.content)}
            case Kind.TEXT:
                return {"type": kind, "text": self.content.decode("utf-8", "surrogatepass")}
            case Kind.BYTES:
                return {"type": kind, "bytes": self.content}


class Conversation:
    """Both directions of one websocket. A writer waits while the other side reads nothing: nothing piles up."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def write(self, frame: Frame) -> None:
        """Send a frame. Raises OSError if the other side has gone."""
        if self._writer.is_closing():
            raise ConnectionResetError("the other side has gone")  # What uvloop raises by itself is a RuntimeError.
        self._writer.write(_HEAD.pack(frame.kind, len(frame.content)) + frame.content)
        await self._writer.drain()

    async def read(self) -> Frame | None:
        """Wait for the next frame; None when the other side has gone."""
        try:
            kind, size = _HEAD.unpack(await self._reader.readexactly(_HEAD.size))
            return Frame(Kind(kind), await self._reader.readexactly(size))
        except (asyncio.IncompleteReadError, OSError):
            return None

    def cut(self) -> None:
        """Close the connection now, whatever is still to be sent."""
        self._writer.transport.abort()

    def end(self) -> None:
        """Close the connection, once all that was written is sent."""
        self._writer.close()
