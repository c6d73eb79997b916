"""The message broker inside one host: who subscribed to what, and which queue awaits which answer.

Both maps belong to the host, not to a connection, as in the real agent. So an answer goes to every
subscriber of the queue that the *latest* request of that id named, whichever connection asked: two
clients that reuse ids get each other's answers. An answer nobody subscribed to is dropped silently.
"""

from __future__ import annotations

from typing import Protocol

RESPONSES = "jms.topic.vdsm_responses"
"""Where an answer goes that belongs to no known request."""
EVENTS = "jms.queue.events"
_REQUESTS = ("jms.topic.vdsm_requests", "jms.topic.vdsm_irs_requests")
_AWAITED_LIMIT = 10_000


class Subscriber(Protocol):
    """A connection that can be sent a message for one of its subscriptions."""

    def deliver(self, destination: str, subscription: str, message: bytes) -> None: ...


class Broker:
    """Subscriptions by destination, in the order in which they were made."""

    __slots__ = ("_awaited", "_subscriptions")

    def __init__(self) -> None:
        self._subscriptions: dict[str, list[tuple[Subscriber, str]]] = {}
        self._awaited: dict[object, str | None] = {}

    def subscribe(self, subscriber: Subscriber, destination: str, subscription: str) -> None:
        self._subscriptions.setdefault(destination, []).append((subscriber, subscription))

    def unsubscribe(self, subscriber: Subscriber, destination: str, subscription: str) -> None:
        remaining = self._subscriptions[destination]
        remaining.remove((subscriber, subscription))
        if not remaining:
            del self._subscriptions[destination]

    def subscribers(self, destination: str) -> list[tuple[Subscriber, str]]:
        """Those of the destination and of its parents, where dots separate the levels."""
        found: list[tuple[Subscriber, str]] = []
        parts = destination.split(".")
        for count in range(1, len(parts) + 1):
            found += self._subscriptions.get(".".join(parts[:count]), ())
        return found

    def expect(self, request_id: object, reply_to: str | None) -> None:
        """The answer to `request_id` goes to `reply_to`; without one it goes nowhere."""
        if len(self._awaited) >= _AWAITED_LIMIT:  # batches are never answered and would fill it for good
            del self._awaited[next(iter(self._awaited))]
        self._awaited[request_id] = reply_to

    def answer(self, request_id: object, message: bytes) -> None:
        destination = self._awaited.pop(request_id, RESPONSES)
        if destination is not None:
            self.publish(destination, message)

    def publish(self, destination: str, message: bytes) -> None:
        """To every subscriber of exactly this destination."""
        for subscriber, subscription in tuple(self._subscriptions.get(destination, ())):
            subscriber.deliver(destination, subscription, message)


def is_request_queue(destination: str) -> bool:
    """True for the queues that the agent itself serves, and for what is below them."""
    return any(destination == queue or destination.startswith(queue + ".") for queue in _REQUESTS)
