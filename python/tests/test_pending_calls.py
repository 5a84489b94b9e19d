"""`max_pending_calls`: a limit for calls that have no result yet."""

import pytest

from harness import Gate, api, exceptions, wait_until

pytestmark = pytest.mark.usefixtures("cluster")


@pytest.fixture
def gate(tmp_path):
    return Gate(tmp_path / "gate")


@pytest.fixture
def worker(gate):
    @api.remote(max_pending_calls=5)
    class Worker:
        def work(self):
            gate.wait()
            return "worked"

        def try_with(self, other, count):
            made = []
            for _ in range(count):
                try:
                    made.append(other.work.remote())
                except exceptions.PendingCallsLimitExceeded:
                    break
            return len(made)

    return Worker.remote()


def test_one_call_too_many_is_refused(worker, gate):
    references = [worker.work.remote() for _ in range(5)]
    for _ in range(2):
        with pytest.raises(exceptions.PendingCallsLimitExceeded):
            worker.work.remote()
    gate.open()
    assert api.get(references) == ["worked"] * 5


def test_finished_calls_make_room(worker, gate):
    references = [worker.work.remote() for _ in range(5)]
    gate.open()
    api.get(references)

    def call():
        try:
            return worker.work.remote()
        except exceptions.PendingCallsLimitExceeded:
            return None

    for _ in range(20):
        assert api.get(wait_until(call)) == "worked"


def test_the_limit_counts_for_each_holder(worker, gate):
    @api.remote
    def calls_made(worker, count):
        made = 0
        for _ in range(count):
            try:
                worker.work.remote()
            except exceptions.PendingCallsLimitExceeded:
                break
            made += 1
        return made

    references = [worker.work.remote() for _ in range(5)]
    assert api.get(calls_made.remote(worker, 8)) == 5
    gate.open()
    assert api.get(references) == ["worked"] * 5


def test_without_the_option_there_is_no_limit(gate):
    @api.remote
    class Worker:
        def work(self):
            gate.wait()
            return 1

    worker = Worker.remote()
    references = [worker.work.remote() for _ in range(1000)]
    gate.open()
    assert api.get(references) == [1] * 1000
