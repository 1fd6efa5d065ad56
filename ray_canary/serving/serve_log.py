"""A replica's log: written soon, and each line named.

Checked against ray 2.60.0. In throughput mode Serve keeps up to 1,000 lines back before it writes them, so that a quiet
replica's log is empty for hours, and what a replica said before it was killed is lost.
"""

import asyncio
import logging
from logging.handlers import MemoryHandler
from typing import Final

from ray import serve

from ray_canary.serving.serve_replica import request_id

#: Seconds that a line may be kept back.
EVERY_S: Final = 1.0


def write() -> None:
    """Write what Serve keeps back."""
    for handler in logging.getLogger("ray.serve").handlers:
        if isinstance(handler, MemoryHandler) and handler.buffer:
            handler.flush()


async def keep_writing() -> None:
    """Write it again and again, until cancelled, and then once more."""
    try:
        while True:
            await asyncio.sleep(EVERY_S)
            write()
    finally:
        write()


def name() -> str:
    """Return who logs, and for which request: application, deployment, replica and request id, as Serve's own lines.

    Empty where this is no replica.
    """
    try:
        context = serve.get_replica_context()
    except serve.exceptions.RayServeException:
        return ""
    replica = context.replica_id.unique_id
    return " ".join(filter(None, (f"{context.app_name}_{context.deployment}", replica, request_id())))
