"""The fork server, in real processes: this one has threads, so a program of its own stands for the worker."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

PROGRAM = '''
import json, os, signal, socket, sys, threading
from uuid_utils import uuid7
from trivet_worker.run.fork_server import ForkServer, serve


def child(connection):
    """Answer each line with the process, its session and a new id."""
    for line in connection.makefile("rb"):
        word = line.decode().strip()
        if word == "leave":
            return 7
        connection.sendall(json.dumps([os.getpid(), os.getsid(0), uuid7().hex, word]).encode() + b"\\n")
    return 0


def main():
    uuid7()
    forks = ForkServer([sys.executable, __file__, "serve"])
    forks.fork(child)
    done = []

    def ask(process, word):
        process.connection.sendall(word.encode() + b"\\n")
        return json.loads(process.connection.makefile("rb").readline())

    def wait_end(process):
        assert process.connection.recv(1) == b""
        return process.ended()

    one, two = forks.start(), forks.start()
    answers = [ask(one, "first"), ask(two, "second"), ask(one, "third")]
    one.connection.sendall(b"leave\\n")
    two.send_signal(signal.SIGKILL)
    ends = [wait_end(one), wait_end(two)]
    left = forks.start()
    server = int(open(f"/proc/{left.pid}/stat").read().rpartition(")")[2].split()[1])
    os.kill(server, signal.SIGKILL)
    os.waitpid(server, 0)
    again = forks.start()
    orphan = ask(left, "orphan")
    after = ask(again, "again")
    left.send_signal(signal.SIGKILL)  # nobody who reaped it can be asked
    ends.append(wait_end(left))
    again.connection.shutdown(socket.SHUT_WR)
    ends.append(wait_end(again))
    last = forks.start()
    forks.close()
    forks.wait(30)
    assert forks._process.poll() == 0, "the server is gone"
    assert ask(last, "still")[3] == "still", "its children live on"
    print(json.dumps([os.getpid(), one.pid, two.pid, server, answers, orphan, after, ends]), flush=True)
    os._exit(0)


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        control = socket.socket(fileno=os.dup(0))
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.exit(serve(control, child))
    main()
'''


def test_children_answer_and_end_and_a_killed_server_is_replaced(tmp_path: Path) -> None:
    program = tmp_path / "worker.py"
    program.write_text(PROGRAM)
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    parent, one, two, server, answers, orphan, after, ends = json.loads(done.stdout)
    first, second, _ = answers
    assert [(a[0], a[3]) for a in answers] == [(one, "first"), (two, "second"), (one, "third")]
    assert all(answer[0] == answer[1] for answer in (first, second, orphan, after)), "each has a session of its own"
    ids: list[Any] = [answer[2] for answer in (*answers, orphan, after)]
    assert len(set(ids)) == len(ids), "children that share a generator of ids"
    assert len({parent, server, one, two}) == 4
    assert ends == ["exit code 7", "signal 9", "nobody knows how", "exit code 0"]
