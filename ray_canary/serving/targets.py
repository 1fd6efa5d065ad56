"""The targets of one ingress replica: where each one's requests go, whether it is ready, and how busy it is."""

from collections.abc import Callable

from ray_canary.serving.settings import TargetSettings
from ray_canary.serving.transport import Transport

Connect = Callable[[str | None, str], Transport]


class Target:
    """`main` or one canary version, as the ingress sees it."""

    __slots__ = ("in_flight", "key", "may_sleep", "settings", "transport")

    def __init__(self, key: str, settings: TargetSettings, transport: Transport, in_flight: int = 0) -> None:
        self.key = key
        self.settings = settings
        self.transport = transport
        self.in_flight = in_flight
        #: Whether the controller calls it healthy without a replica; None as long as nobody has asked.
        self.may_sleep: bool | None = None

    @property
    def ready(self) -> bool:
        """Whether this target gets its own requests (decision 17).

        1. It has a replica that can be reached.
        2. It stands at zero replicas on purpose, after having started once: a request is what wakes it.
        """
        return self.transport.routable > 0 or self.asleep

    @property
    def asleep(self) -> bool:
        """Whether a request has to start the first replica."""
        if not self.settings.scales_to_zero or self.transport.routable:
            return False
        return self.transport.seen if self.may_sleep is None else self.may_sleep

    def wait_s(self, usual: float) -> float:
        """How long a request may wait for one of this target's replicas, in seconds."""
        return self.settings.cold_start_timeout_s if self.asleep else usual

    @property
    def limit_s(self) -> float:
        """How long a request may take from its arrival to the first byte of the response, in seconds.

        Starting a first replica comes on top of the Bento's own time.
        """
        return self.settings.timeout_s + (self.settings.cold_start_timeout_s if self.asleep else 0)

    def has_room(self, ingress_replicas: int) -> bool:
        """Whether a request that was meant for another target finds spare capacity here.

        Each ingress replica gives away its part of the capacity and no more, so main's own users never wait behind
        the users of a canary that is down.
        """
        capacity = self.settings.capacity * self.transport.routable / ingress_replicas
        return self.in_flight < max(1.0, capacity)


class Connections:
    """Every transport that this process has opened, so that a change of the split reuses what it can."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._open: dict[tuple[str | None, str], Transport] = {}

    def to(self, settings: TargetSettings) -> Transport:
        """Return the transport to a target's entry deployment."""
        place = (settings.application, settings.deployment)
        if place not in self._open:
            self._open[place] = self._connect(*place)
        return self._open[place]
