"""A response that streams, on a connection of its own from a version's replica back to the ingress.

A Serve handle's call that gives one message is much cheaper than one that gives a stream, and most responses are one
message. Whether a response streams shows only when it begins. So every request by handle says where the ingress
listens, and the replica connects back if it has more to say than one message. The call lasts as long as the response:
Serve counts it, and cancels it.
"""

import pickle
from collections.abc import AsyncIterator

from ray_canary.serving.frames import Conversation, Frame, Kind
from ray_canary.serving.switchboard import connect
from ray_canary.serving.transport import Broken
from ray_canary.serving.wire import Head, Line


async def send_back(line: Line, head: Head, rest: AsyncIterator[Head | bytes]) -> None:
    """Send a response to who waits for it at `line`. Raises OSError if nobody does, and what `rest` raises."""
    conversation = await connect(line)
    try:
        await conversation.write(Frame(Kind.BYTES, pickle.dumps(head)))
        async for piece in rest:
            assert isinstance(piece, bytes)
            await conversation.write(Frame(Kind.BYTES, piece))
        await conversation.write(Frame.close(1000))
    finally:
        conversation.end()


class Reply:
    """The other end: a response as it comes."""

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation

    async def head(self) -> Head:
        """Wait for the beginning. Raises `Broken`."""
        frame = await self._conversation.read()
        if frame is None or frame.kind is not Kind.BYTES:
            raise Broken("the replica broke before its response began")
        head: Head = pickle.loads(frame.content)
        return head

    async def body(self) -> AsyncIterator[bytes]:
        """Iterate over the rest, piece by piece as they come. Raises `Broken` if it doesn't come to its end."""
        while True:
            frame = await self._conversation.read()
            if frame is None:
                raise Broken("the replica broke in the middle of its response")
            if frame.kind is Kind.CLOSE:
                return
            yield frame.content

    def end(self) -> None:
        """Close the connection."""
        self._conversation.end()
