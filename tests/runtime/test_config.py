"""The job file: what is accepted; every mistake is one line with file, key and what is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest
from seamline.runtime.config import JobError, job_digest, read_job, tier_names, write_toml

GOOD = """
name = "try"
[train]
batch = 8
[cloud]
address = "tcp://127.0.0.1:5700"
[[zones]]
name = "A"
address = "tcp://127.0.0.1:5710"
[[devices]]
id = "d1"
zone = "A"
[[devices]]
id = "d2"
zone = "A"
"""


@pytest.fixture
def write(tmp_path):
    def writer(text: str | bytes) -> Path:
        path = tmp_path / "job.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return writer


def test_a_small_job_is_read_with_the_defaults(write):
    job = read_job(write(GOOD))
    assert (job.train.batch, job.mode, job.codec.up, job.round.quorum) == (
        8,
        "split-v2",
        "int8",
        0.5,
    )
    assert tier_names(job) == ["cloud", "host-A", "d1", "d2"]


def test_the_ten_lines_of_the_readme_are_a_job(write):
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    text = readme.split("```toml")[1].split("```")[0]
    assert len(read_job(write(text)).devices) == 2


def changed(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new, 1)


TRAIN, DEVICE, ZONE = "batch = 8", 'id = "d1"', 'name = "A"'
PLAN = '[plan]\nreplan = "schedule"\n[[plan.moves]]\n'
MISTAKES = {
    "unknown key": (changed(TRAIN, "btach = 8"), "train.btach", "did you mean batch?"),
    "unknown section": (GOOD + "[code]\nup = 3", "code is not a key", "did you mean codec?"),
    "wrong type": (changed(TRAIN, 'batch = "8"'), "train.batch", 'a whole number, found "8"'),
    "fraction": (changed(TRAIN, "batch = 8.5"), "train.batch", "found 8.5"),
    "true for a number": (changed(TRAIN, "front_rate = true"), "train.front_rate", "found true"),
    "text for a table": (
        changed("[train]", 'model = "watch"\n[train]'),
        "model must be a table",
        "watch",
    ),
    "unknown mode": (f'mode = "splitv2"\n{GOOD}', "mode must be", '"federated"'),
    "seam of a wrong type": (
        GOOD + "[model]\nseam = [1]",
        "model.seam",
        "a whole number or a text",
    ),
    "missing zones": ("devices = []", "zones is missing", "a list of tables"),
    "missing key in a list": (changed(DEVICE, "data = {}"), "devices[0].id is missing", "a text"),
    "table instead of list": ("zones = 3\ndevices = []", "zones must be a list of tables", "3"),
    "batch 0": (changed(TRAIN, "batch = 0"), "train.batch", "1 to 4096, found 0"),
    "batch too large": (changed(TRAIN, "batch = 5000"), "train.batch", "1 to 4096"),
    "no steps": (changed(TRAIN, "device_steps = 0"), "train.device_steps", "1 to 65535"),
    "rate 0": (changed(TRAIN, "front_rate = 0.0"), "train.front_rate", "above 0"),
    "rate below 0": (changed(TRAIN, "back_rate = -1"), "train.back_rate", "above 0"),
    "rate nan": (changed(TRAIN, "back_rate = nan"), "train.back_rate", "above 0, found nan"),
    "rate inf": (changed(TRAIN, "back_rate = inf"), "train.back_rate", "above 0, found inf"),
    "momentum 1": (changed(TRAIN, "momentum = 1.0"), "train.momentum", "below 1"),
    "decay below 0": (changed(TRAIN, "weight_decay = -0.1"), "train.weight_decay", "0 or more"),
    "too many steps": (
        changed(TRAIN, "device_steps = 60000\nedge_rounds = 1000\ncloud_rounds = 1000"),
        "train.cloud_rounds",
        "2^31",
    ),
    "seed below 0": (f"seed = -1\n{GOOD}", "seed", "0 to 4294967295"),
    "seed too large": (f"seed = 4294967296\n{GOOD}", "seed", "found 4294967296"),
    "seed huge": (f"seed = {2**80}\n{GOOD}", "seed", str(2**80)),
    "quorum 0": (GOOD + "[round]\nquorum = 0", "round.quorum", "above 0 and at most 1"),
    "quorum above 1": (GOOD + "[round]\nquorum = 1.5", "round.quorum", "found 1.5"),
    "deadline 0": (GOOD + "[round]\ndeadline_s = 0", "round.deadline_s", "above 0"),
    "wait below 0": (GOOD + "[round]\njoin_wait_s = -1", "round.join_wait_s", "0 or more"),
    "seam 0": (GOOD + "[model]\nseam = 0", "model.seam", "1 or more"),
    "seam empty": (GOOD + '[model]\nseam = ""', "model.seam", "empty"),
    "model empty": (GOOD + '[model]\nname = ""', "model.name", "empty"),
    "out empty": (f'out = ""\n{GOOD}', "out", "empty"),
    "name with a line break": (changed('"try"', r'"a\nb"'), "name", "printable"),
    "frozen and federated": (
        f'mode = "federated"\n{changed(TRAIN, "freeze_front = true")}',
        "train.freeze_front",
        "federated",
    ),
    "moves of an unknown device": (
        GOOD + PLAN + 'device = "watch-7"\nseam = 1\nround = 2',
        "plan.moves[0].device",
        'found "watch-7"',
    ),
    "a move in round 0": (GOOD + PLAN + "seam = 1\nround = 0", "plan.moves[0].round", "1 to 880"),
    "a move to seam 0": (GOOD + PLAN + "seam = 0\nround = 1", "plan.moves[0].seam", "1 or more"),
    "moves in federated": (
        f'mode = "federated"\n{GOOD}{PLAN}seam = 1\nround = 2',
        "plan.replan",
        "seams move in split-v1 and split-v2",
    ),
    "moves of frozen fronts": (
        f"{changed(TRAIN, 'freeze_front = true')}{PLAN}seam = 1\nround = 2",
        "plan.replan",
        "freeze_front",
    ),
    "a schedule without moves": (
        GOOD + '[plan]\nreplan = "schedule"',
        "plan.moves",
        "at least one",
    ),
    "moves without a schedule": (
        GOOD + "[[plan.moves]]\nseam = 1\nround = 2",
        "plan.moves",
        "must be empty",
    ),
    "q8 and int4": (
        changed(TRAIN, 'arithmetic = "q8"') + '[codec]\ndown = "int4"',
        'codec.down must be "int8" with train.arithmetic "q8"',
        'found "int4"',
    ),
    "q8 and f32 parcels": (
        changed(TRAIN, 'arithmetic = "q8"') + '[codec]\nup = "f32"',
        "codec.up",
        "a q8 front computes in int8",
    ),
    "unknown arithmetic": (changed(TRAIN, 'arithmetic = "int8"'), "train.arithmetic", '"q8"'),
    "unknown rounding": (changed(TRAIN, 'q8_rounding = "up"'), "train.q8_rounding", '"truncate"'),
    "unknown momentum": (changed(TRAIN, 'q8_momentum = "f16"'), "train.q8_momentum", '"none"'),
    "unknown data": (GOOD + '[data]\nsource = "wtch"', "data.source", "watch, digits"),
    "no zones": ("zones = []\ndevices = []", "zones", "at least one zone"),
    "zone without devices": (
        GOOD + '[[zones]]\nname = "B"\naddress = "tcp://127.0.0.1:5711"',
        "zones[1].name",
        "at least one device",
    ),
    "zone twice": (
        GOOD + '[[zones]]\nname = "A"\naddress = "tcp://127.0.0.1:5711"',
        "zones[1].name",
        "unique",
    ),
    "zone name with a slash": (changed(ZONE, 'name = "A/.."'), "zones[0].name", "letters"),
    "device twice": (changed('"d2"', '"d1"'), "devices[1].id", "unique"),
    "device id with a slash": (changed('"d1"', '"../d1"'), "devices[0].id", "letters"),
    "device id with a blank": (changed('"d1"', '"d 1"'), "devices[0].id", "letters"),
    "device id with a line break": (changed('"d1"', r'"d1\n"'), "devices[0].id", "letters"),
    "device id of another tier": (changed('"d1"', '"host-A"'), "devices[0].id", "other tiers"),
    "device in no zone": (
        changed('zone = "A"', 'zone = "C"'),
        "devices[0].zone",
        "a zone of the job (A)",
    ),
    "address without port": (changed(":5700", ""), "cloud.address", "tcp://HOST:PORT"),
    "address with a wrong port": (changed(":5700", ":70000"), "cloud.address", "0 to 65535"),
    "address of another kind": (
        changed("tcp://127.0.0.1:5710", "http://a:1"),
        "zones[0].address",
        "tcp:",
    ),
    "address twice": (changed(":5710", ":5700"), "zones[0].address", "differ from cloud.address"),
    "serial without host_link": (
        changed(DEVICE, DEVICE + '\nlink = "serial:/dev/ttyUSB0:9600"'),
        "devices[0].host_link",
        "edge host's end",
    ),
    "serial without baud": (
        changed(DEVICE, DEVICE + '\nhost_link = "serial:/dev/ttyUSB0"'),
        "devices[0].host_link",
        "serial:PATH:BAUD",
    ),
    "serial with baud 0": (
        changed(DEVICE, DEVICE + '\nhost_link = "serial:/dev/ttyUSB0:0"'),
        "devices[0].host_link",
        "serial:PATH:BAUD",
    ),
    "line and network": (
        changed(DEVICE, DEVICE + '\nhost_link = "serial:/dev/a:9600"\nlink = "tcp://h:1"'),
        "devices[0].link",
        "must be a serial line",
    ),
    "one port for two": (
        changed(DEVICE, DEVICE + '\nhost_link = "serial:/dev/a:9600"').replace(
            'id = "d2"', 'id = "d2"\nhost_link = "serial:/dev/a:9600"'
        ),
        "devices[1]",
        "share",
    ),
    "link of no kind": (
        changed(DEVICE, DEVICE + '\nlink = "usb"'),
        "devices[0].link",
        "serial:PATH:BAUD",
    ),
    "not TOML": ("zones = 3 4", "not valid TOML", "line 1"),
    "not UTF-8": (b'name = "\xff"', "byte 8", "UTF-8"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_one_line_with_file_key_and_what_is_allowed(write, case):
    text, key, allowed = MISTAKES[case]
    path = write(text)
    with pytest.raises(JobError) as caught:
        read_job(path)
    said = str(caught.value)
    assert said.startswith(f"{path}: ")
    assert key in said
    assert allowed in said
    assert "\n" not in said
    assert caught.value.exit_code == 2


def test_a_missing_file_and_a_folder_are_job_errors(tmp_path):
    with pytest.raises(JobError, match=r"no job file .*seamline job init"):
        read_job(tmp_path / "none.toml")
    with pytest.raises(JobError, match="cannot be read"):
        read_job(tmp_path)


def test_relative_paths_start_at_the_job_file(write, tmp_path):
    text = GOOD.replace('id = "d1"', 'id = "d1"\nhost_link = "serial:lines/d1:9600"')
    job = read_job(
        write(f'out = "runs/x"\n{text}[data]\nsource = "d/{{id}}.npz"\n[keys]\nfolder = "k"')
    )
    assert job.out == str(tmp_path / "runs/x")
    assert job.keys.folder == str(tmp_path / "k")
    assert job.data.source == str(tmp_path / "d/{id}.npz")
    assert job.devices[0].host_link == f"serial:{tmp_path}/lines/d1:9600"


def test_written_toml_reads_back_equal(write, tmp_path):
    job = read_job(write(GOOD.replace('name = "try"', r'name = "q\"\\ ü"')))
    job.data.args = {"a": [1, 2.5, True], "b": {"c d": "x"}}
    again = tmp_path / "again.toml"
    again.write_text(write_toml(job))
    assert read_job(again) == job


def test_the_digest_names_the_training_not_the_places(write):
    plain = read_job(write(GOOD))
    moved = read_job(write(GOOD.replace("5700", "5800") + '[keys]\nfolder = "other"'))
    slower = read_job(write(GOOD.replace("batch = 8", "batch = 9")))
    assert job_digest(plain) == job_digest(moved) != job_digest(slower)
