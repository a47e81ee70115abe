"""Run by test_store.py: a cloud is killed (SIGKILL) before every step that touches the disk,
started again, and must hold all it had promised and end with the same bits. Usage: kill_points.py
FOLDER [CODEC]; prints the number of kills. CODEC: of the models between zones and cloud."""

import os
import signal
import sys
from pathlib import Path

import numpy as np
from seamline.cloud.server import Cloud
from seamline.cloud.store import Store
from seamline.runtime import message as wire
from seamline.runtime.config import CodecSection, Job, RoundSection, TrainSection, ZoneSection
from seamline.runtime.message import Kind, Message

ZONES, ROUNDS = "AB", 3


def difference(zone: str, round_: int) -> dict[str, np.ndarray]:
    return {"w": np.random.default_rng([ord(zone), round_]).normal(size=9).astype(np.float32)}


def message(kind: Kind, round_: int, meta: dict, arrays: dict) -> bytes:
    body = wire.zone_body({"round": round_, **meta}, arrays)
    return Message(kind, round=round_, body=body).encode()


def run(job: Job, promised: int) -> str:
    """All rounds; the highest promise (round * 10 + updates accepted in it) is written to the file
    `promised`."""
    cloud = Cloud(job, lambda event: None, 0.0)
    while not cloud.rounds.done:
        for zone in ZONES:
            round_ = cloud.rounds.state.round
            meta = {"samples": 3 + ord(zone), "metrics": {}}
            update = message(Kind.ZONE_UPDATE, round_, meta, difference(zone, round_))
            cloud.receive(f"host-{zone}", update, 0.0)
            state = cloud.rounds.state
            os.pwrite(promised, b"%08d" % (state.round * 10 + len(state.updates)), 0)
    digest = cloud.finish()
    cloud.close()
    return digest


def arm(step: int) -> None:
    """SIGKILL before the step with this number (from 1) of all that touch the disk."""
    left = [step]

    def before(call):
        def wrapper(*args, **kwargs):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **kwargs)

        return wrapper

    os.replace, os.fsync, os.open = before(os.replace), before(os.fsync), before(os.open)
    Path.unlink = before(Path.unlink)
    Store.db = property(before(Store.db.fget))


def in_child(job: Job, promised: int, step: int) -> int:
    """The wait status of a process that runs the job and is killed at `step` (0: never)."""
    pid = os.fork()
    if pid == 0:
        arm(step)
        run(job, promised)
        os._exit(0)
    return os.waitpid(pid, 0)[1]


def main(folder: Path, codec: str = "f32") -> None:
    wanted, step = "", 0
    while True:
        job = Job(
            zones=[ZoneSection(zone, "") for zone in ZONES],
            devices=[],
            out=str(folder / str(step)),
            train=TrainSection(cloud_rounds=ROUNDS),
            round=RoundSection(quorum=1.0),
            codec=CodecSection(cloud=codec),
        )
        promised = os.open(folder / f"promised-{step}", os.O_RDWR | os.O_CREAT, 0o600)
        status = in_child(job, promised, step)
        store = Store(Path(job.out) / "cloud", job)
        state = store.restore()
        store.close()
        held = state.round * 10 + len(state.updates)
        assert held >= int(os.pread(promised, 8, 0) or b"0"), f"kill {step}: a promise was lost"
        digest = run(job, promised)
        wanted = wanted or digest
        assert digest == wanted, f"kill {step}: other bits"
        rubbish = [p.name for p in Path(job.out).rglob(".*.new")]
        assert not rubbish, f"kill {step}: left {rubbish}"
        if step > 0 and status == 0:
            print(step - 1)
            return
        step += 1


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
