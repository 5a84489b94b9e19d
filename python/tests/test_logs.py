"""What workers print reaches the driver."""

import contextlib
import re
import threading

import pytest

from harness import NAME, PATIENCE_SECONDS, start_driver, wait_until

# Each script stays until its standard input ends, because lines of workers travel apart from results.
BEGIN = """
import os, sys
# Line by line, and not unbuffered: then other lines would come between the pieces of one.
sys.stdout.reconfigure(line_buffering=True)

def say(line):
    # In one piece: `print` writes the end of a line by itself, and a worker's line may come before it.
    sys.stdout.write(line + "\\n")

api.init(num_cpus=4, include_dashboard=False, log_to_driver={log_to_driver})
"""
END = """
say("the script is done")
sys.stdin.read()
"""


class Listener:
    """Collects the lines that a driver and its workers print, without colours."""

    def __init__(self, process):
        self.process = process
        self.lines = []
        self.threads = [threading.Thread(target=self.read, args=(pipe,)) for pipe in (process.stdout, process.stderr)]
        for thread in self.threads:
            thread.start()

    def read(self, pipe):
        for line in pipe:
            self.lines.append(re.sub(r"\x1b\[\d+m", "", line.rstrip("\n")))

    def wait_for(self, pattern, count=1):
        """Wait until `count` lines match the whole `pattern`, and return the matches."""

        def matches():
            found = [match for line in list(self.lines) if (match := re.fullmatch(pattern, line))]
            return found if len(found) >= count else None

        try:
            return wait_until(matches)
        except AssertionError:
            raise AssertionError(f"no line {pattern!r} in {self.lines}") from None

    def end(self):
        """Let the driver end, and return all lines."""
        self.process.stdin.close()
        assert self.process.wait(PATIENCE_SECONDS) == 0, self.lines
        for thread in self.threads:
            thread.join(PATIENCE_SECONDS)
        return self.lines


@contextlib.contextmanager
def listening(source, directory, log_to_driver=True, **environment):
    """Run `source` in a driver of its own and listen to it."""
    program = BEGIN.format(log_to_driver=log_to_driver) + source + END
    process = start_driver(program, directory, environment=environment)
    listener = Listener(process)
    try:
        yield listener
        listener.wait_for("the script is done")
        listener.end()
    finally:
        process.kill()
        process.wait()


def test_lines_have_the_name_and_the_process(tmp_path):
    source = """
@api.remote
def speaks():
    print("to standard output")
    print("to standard error", file=sys.stderr)
    return os.getpid()

say(f"the pid is {api.get(speaks.remote())}")
"""
    with listening(source, tmp_path) as listener:
        (pid,) = listener.wait_for(r"the pid is (\d+)")
        listener.wait_for(rf"\(speaks pid={pid[1]}\) to standard output")
        listener.wait_for(rf"\(speaks pid={pid[1]}\) to standard error")


def test_lines_of_actors_have_the_class(tmp_path):
    source = """
@api.remote
class Speaker:
    def speak(self):
        print("from a method")
        return os.getpid()

@api.remote
class Named:
    def __repr__(self):
        return "Named(7)"
    def speak(self):
        print("from a named one")
        return os.getpid()

speaker, named = Speaker.remote(), Named.remote()
pids = api.get([speaker.speak.remote(), named.speak.remote()])
say(f"the pids are {pids[0]} {pids[1]}")
"""
    with listening(source, tmp_path) as listener:
        (pids,) = listener.wait_for(r"the pids are (\d+) (\d+)")
        listener.wait_for(rf"\(Speaker pid={pids[1]}\) from a method")
        listener.wait_for(rf"\(Named\(7\) pid={pids[2]}\) from a named one")


def test_several_lines_and_parts_of_lines(tmp_path):
    source = """
@api.remote
def speaks():
    print("first\\nsecond")
    sys.stdout.write("begun ")
    sys.stdout.write("and ended\\n")

api.get(speaks.remote())
"""
    with listening(source, tmp_path) as listener:
        for line in ("first", "second", "begun and ended"):
            listener.wait_for(rf"\(speaks pid=\d+\) {line}")


SAME_LINE = """
@api.remote
class Speaker:
    def speak(self, word):
        print("all say this")
        print("one says", word)

speakers = [Speaker.remote() for _ in range(4)]
words = ["alpha", "beta", "gamma", "delta"]
api.get([speaker.speak.remote(word) for speaker, word in zip(speakers, words)])
"""


def test_the_same_line_of_many_workers_is_shown_once(tmp_path):
    with listening(SAME_LINE, tmp_path) as listener:
        listener.wait_for(r"\(Speaker pid=\d+\) one says \w+", count=4)
        lines = [line for line in listener.end() if "all say this" in line]
    assert len(lines) == 2, lines
    assert re.fullmatch(r"\(Speaker pid=\d+\) all say this \[repeated 3x across cluster\].*", lines[1])


def test_repeated_lines_may_all_be_shown(tmp_path):
    with listening(SAME_LINE, tmp_path, **{f"{NAME.upper()}_DEDUP_LOGS": "0"}) as listener:
        listener.wait_for(r"\(Speaker pid=\d+\) all say this", count=4)


def test_log_to_driver_can_be_switched_off(tmp_path):
    source = """
@api.remote
def speaks():
    print("not for the driver")

api.get(speaks.remote())
"""
    with listening(source, tmp_path, log_to_driver=False) as listener:
        listener.wait_for("the script is done")
        assert not any("not for the driver" in line for line in listener.end())


def test_the_logging_module_reaches_the_driver(tmp_path):
    source = """
@api.remote
def speaks():
    import logging
    logging.basicConfig(level=logging.INFO)
    logging.getLogger("mine").info("through logging")

api.get(speaks.remote())
"""
    with listening(source, tmp_path) as listener:
        listener.wait_for(r"\(speaks pid=\d+\) INFO:mine:through logging")


def test_what_a_dying_worker_said_is_not_lost(tmp_path):
    source = """
@api.remote(max_retries=0)
def dies():
    print("last words", flush=True)
    os._exit(1)

try:
    api.get(dies.remote())
except api.exceptions.WorkerCrashedError:
    say("died")
"""
    with listening(source, tmp_path) as listener:
        listener.wait_for("died")
        listener.wait_for(r"\(dies pid=\d+\) last words")


@pytest.mark.shoal_only(reason="Ray may lose what is printed just before the driver ends")
def test_what_is_printed_just_before_the_end_arrives(tmp_path):
    source = """
@api.remote
def speaks():
    print("at the last moment")

api.get(speaks.remote())
"""
    with listening(source, tmp_path) as listener:
        listener.wait_for("the script is done")
        assert any("at the last moment" in line for line in listener.end())
