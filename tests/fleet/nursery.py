"""Starts tiers quickly: a process that has imported all of seamline forks one for each order.

A line of JSON on stdin is an order: role (cloud, host, device), who (zone or device), job (its
path), insecure, log (where its events go) and, if others than in the job, the addresses `cloud` and
`link`; or role board, words (a command that is run) and log.
A line on stdout says that one has started or ended: {"started": pid} or {"ended": pid, "code": n}.
"""

import json
import os
import selectors
import signal
import sys
import time
import traceback

from seamline.cloud.server import run_cloud
from seamline.edge_host.host import run_host
from seamline.runtime import serial_link, zmq_link  # noqa: F401 (opened by an address later)
from seamline.runtime.config import read_job
from seamline.runtime.device import run_device
from seamline.runtime.errors import UserError


def say(**what):
    os.write(1, json.dumps(what).encode() + b"\n")


def start(order):
    pid = os.fork()
    if pid:
        say(started=pid)
        return
    code = 70
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        code = run(order)
    except BaseException:
        with open(order["log"], "a") as log:
            log.write(json.dumps({"event": "raised", "text": traceback.format_exc()}) + "\n")
    finally:
        os._exit(code)


def run(order):
    def emit(event):
        with open(order["log"], "a") as log:
            log.write(json.dumps({**event, "at": time.monotonic()}) + "\n")

    if order["role"] == "board":
        become(order)
    job, insecure = read_job(order["job"]), order["insecure"]
    if "cloud" in order:
        job.cloud.address = order["cloud"]
    emit({"event": "born"})
    try:
        if order["role"] == "cloud":
            return run_cloud(job, insecure=insecure, emit=emit)
        if order["role"] == "host":
            return run_host(job, order["who"], insecure=insecure, emit=emit)
        link = order.get("link")
        return run_device(job, order["who"], link_address=link, insecure=insecure, emit=emit)
    except UserError as error:
        emit({"event": "refused", "text": str(error)})
        return error.exit_code


def become(order):
    """Never returns: this process is another program, which says what it says to the log."""
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for out in (1, 2):
        os.dup2(log, out)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.execvp(order["words"][0], order["words"])


def reap():
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        say(ended=pid, code=os.waitstatus_to_exitcode(status))


def main():
    wake, woken = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(woken)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    selector = selectors.DefaultSelector()
    selector.register(0, selectors.EVENT_READ)
    selector.register(wake, selectors.EVENT_READ)
    say(ready=os.getpid())
    orders = b""
    while True:
        for key, _ in selector.select():
            data = os.read(key.fd, 65536)
            if key.fd == wake:
                reap()
                continue
            if not data:
                os.killpg(0, signal.SIGKILL)  # nobody is left to order: all end with us
            orders += data
            while b"\n" in orders:
                line, orders = orders.split(b"\n", 1)
                start(json.loads(line))


if __name__ == "__main__":
    os.setpgid(0, 0)
    sys.exit(main())
