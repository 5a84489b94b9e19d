"""What a driver prints of what its workers print."""

import io
import sys

import pytest

from shoal import _logs
from shoal._logs import NAME_MARK, Deduplicator, Line, NamedStream, Printer


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def deduplicator(clock):
    return Deduplicator(5.0, clock=clock)


def line(pid, text, is_stderr=False):
    return Line(pid, "f", is_stderr, text)


def texts(lines):
    return [shown.text for shown in lines]


def test_a_line_from_many_workers_is_shown_once(deduplicator, clock):
    assert texts(deduplicator.feed([line(1, "hello")])) == ["hello"]
    assert texts(deduplicator.feed([line(2, "hello"), line(3, "hello")])) == []
    clock.now += 4.9
    assert deduplicator.expired() == []
    clock.now += 0.2
    assert texts(deduplicator.expired()) == ["hello [repeated 2x across cluster]"]


def test_lines_that_differ_in_numbers_are_the_same(deduplicator, clock):
    deduplicator.feed([line(1, "step 1 of 10")])
    assert deduplicator.feed([line(2, "step 2 of 10"), line(3, "step 3 of 10")]) == []
    clock.now += 6
    assert texts(deduplicator.expired()) == ["step 3 of 10 [repeated 2x across cluster]"]


def test_one_worker_may_repeat_itself(deduplicator):
    lines = [line(1, "again")] * 3
    assert texts(deduplicator.feed(lines)) == ["again"] * 3


@pytest.mark.parametrize("text", ["17", "3.14", "", "  ", "1, 2, 3"])
def test_lines_of_numbers_alone_are_never_lost(deduplicator, text):
    shown = deduplicator.feed([line(pid, text) for pid in range(5)])
    assert texts(shown) == [text] * 5


def test_a_single_repetition_is_shown_as_it_is(deduplicator, clock):
    deduplicator.feed([line(1, "a word"), line(2, "a word")])
    clock.now += 6
    assert texts(deduplicator.expired()) == ["a word"]


def test_counting_goes_on_in_the_next_window(deduplicator, clock):
    deduplicator.feed([line(1, "word"), line(2, "word"), line(3, "word")])
    clock.now += 6
    assert len(deduplicator.expired()) == 1
    assert deduplicator.feed([line(4, "word"), line(5, "word")]) == []
    clock.now += 6
    assert texts(deduplicator.expired()) == ["word [repeated 2x across cluster]"]
    clock.now += 6
    assert deduplicator.expired() == []
    assert texts(deduplicator.feed([line(6, "word")])) == ["word"]


def test_output_and_errors_are_counted_apart(deduplicator):
    assert len(deduplicator.feed([line(1, "word"), line(2, "word", is_stderr=True)])) == 2


def test_nothing_is_lost_at_the_end(deduplicator):
    deduplicator.feed([line(pid, "word") for pid in range(4)])
    assert texts(deduplicator.drain()) == ["word [repeated 3x across cluster]"]
    assert deduplicator.drain() == []


def test_patterns_to_show_or_skip(clock):
    deduplicator = Deduplicator(5.0, allow="^keep", skip="^drop", clock=clock)
    shown = deduplicator.feed([line(pid, text) for text in ("keep this", "drop this") for pid in (1, 2)])
    assert texts(shown) == ["keep this"] * 2


def test_the_next_summary_is_scheduled(deduplicator, clock):
    assert deduplicator.next_expiry() is None
    deduplicator.feed([line(1, "word")])
    assert deduplicator.next_expiry() is None
    clock.now += 2
    deduplicator.feed([line(2, "word")])
    assert deduplicator.next_expiry() == pytest.approx(3.0)


def test_lines_are_prefixed_with_who_wrote_them(capsys):
    printer = Printer(None)
    printer(1, 17, False, [f"{NAME_MARK}Counter", "one"])
    printer(2, 18, False, ["nameless"])
    printer(1, 17, False, ["two", f"{NAME_MARK}f", "three"])
    printer(1, 17, True, [f"{NAME_MARK}g", "wrong"])
    out, err = capsys.readouterr()
    assert out.splitlines() == ["(Counter pid=17) one", "(pid=18) nameless", "(Counter pid=17) two", "(f pid=17) three"]
    assert err.splitlines() == ["(g pid=17) wrong"]


def test_prefixes_are_coloured_on_request(capsys, monkeypatch):
    monkeypatch.setenv("SHOAL_COLOR_PREFIX", "1")
    Printer(None)(1, 17, False, ["text"])
    assert capsys.readouterr().out == "\x1b[36m(pid=17)\x1b[0m text\n"


def test_a_line_and_its_end_are_one_piece(monkeypatch):
    class Pieces(io.StringIO):
        def write(self, piece):
            pieces.append(piece)
            return super().write(piece)

    pieces = []
    monkeypatch.setattr(sys, "stdout", Pieces())
    Printer(None)(1, 17, False, ["one", "two"])
    assert pieces == ["(pid=17) one\n", "(pid=17) two\n"]


def test_a_closed_output_does_not_matter(monkeypatch):
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stdout", closed)
    Printer(None)(1, 17, False, ["text"])


def test_deduplication_can_be_switched_off(monkeypatch):
    monkeypatch.setenv("SHOAL_DEDUP_LOGS", "0")
    assert _logs._deduplicator() is None


def test_a_worker_says_whose_lines_follow():
    labels = iter(["f", "f", "Counter", "Counter"])
    raw = io.StringIO()
    stream = NamedStream(raw, lambda: next(labels))
    print("one", file=stream)
    print("two", file=stream)
    stream.writelines(["three", " more\n"])
    assert raw.getvalue() == f"{NAME_MARK}f\none\ntwo\n{NAME_MARK}Counter\nthree more\n"
