"""The broker of one host: routing as the real agent's, traps included."""

from __future__ import annotations

from plugins.simulator.broker import RESPONSES, Broker, is_request_queue


class Client:
    def __init__(self) -> None:
        self.got: list[tuple[str, str, bytes]] = []

    def deliver(self, destination: str, subscription: str, message: bytes) -> None:
        self.got.append((destination, subscription, message))


def test_an_answer_goes_to_every_subscriber_of_the_queue_that_was_named() -> None:
    broker, one, two, other = Broker(), Client(), Client(), Client()
    broker.subscribe(one, "q", "1")
    broker.subscribe(two, "q", "2")
    broker.subscribe(other, "elsewhere", "1")
    broker.expect("id", "q")
    broker.answer("id", b"x")
    assert (one.got, two.got, other.got) == ([("q", "1", b"x")], [("q", "2", b"x")], [])


def test_a_reused_id_sends_both_answers_astray() -> None:
    broker, one, two = Broker(), Client(), Client()
    broker.subscribe(one, "q1", "1")
    broker.subscribe(two, "q2", "1")
    broker.expect(7, "q1")
    broker.expect(7, "q2")
    broker.answer(7, b"for one")
    broker.answer(7, b"for two")  # its id is forgotten now: the default queue, to which nobody listens
    assert (one.got, two.got) == ([], [("q2", "1", b"for one")])


def test_an_answer_to_no_known_request_goes_to_the_default_queue() -> None:
    broker, client = Broker(), Client()
    broker.subscribe(client, RESPONSES, "1")
    broker.answer(None, b"x")
    assert client.got == [(RESPONSES, "1", b"x")]


def test_without_a_reply_to_there_is_no_answer_anywhere() -> None:
    broker, client = Broker(), Client()
    broker.subscribe(client, RESPONSES, "1")
    broker.expect("id", None)
    broker.answer("id", b"x")
    assert client.got == []


def test_parents_of_a_destination_are_found_by_its_dots() -> None:
    broker, client = Broker(), Client()
    broker.subscribe(client, "a.b", "1")
    assert broker.subscribers("a.b.c") == [(client, "1")]
    assert broker.subscribers("a.bc") == []
    assert broker.subscribers("a") == []


def test_one_client_may_leave_while_another_stays() -> None:
    broker, one, two = Broker(), Client(), Client()
    broker.subscribe(one, "q", "1")
    broker.subscribe(two, "q", "1")
    broker.unsubscribe(one, "q", "1")
    broker.publish("q", b"x")
    assert (one.got, len(two.got)) == ([], 1)
    broker.unsubscribe(two, "q", "1")
    assert broker.subscribers("q") == []


def test_requests_that_are_never_answered_do_not_pile_up_for_good() -> None:
    broker, client = Broker(), Client()
    broker.subscribe(client, "q", "1")
    for number in range(10_001):
        broker.expect(number, "q")
    broker.answer(0, b"the oldest is forgotten")
    broker.answer(1, b"kept")
    assert client.got == [("q", "1", b"kept")]


def test_request_queues_are_known_by_their_name_and_what_is_below_them() -> None:
    assert is_request_queue("jms.topic.vdsm_requests")
    assert is_request_queue("jms.topic.vdsm_requests.x")
    assert is_request_queue("jms.topic.vdsm_irs_requests")
    assert not is_request_queue("jms.topic.vdsm_requestsx")
    assert not is_request_queue("jms.topic")
