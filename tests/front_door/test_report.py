"""What is known of a run, from recorded events; and the page made of it, which loads nothing."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from seamline.runtime.config import make_job

from seamline.demo import result_rows, results
from seamline.events import describe
from seamline.live import Lines, summary
from seamline.progress import Counter, Progress
from seamline.report import byte_count, control_rows, ledger_rows, render

HOSTILE = "<script>alert(1)</script>"


@pytest.fixture
def job(tmp_path):
    zones = [{"name": name, "address": "tcp://127.0.0.1:0"} for name in "AB"]
    devices = [{"id": f"d{i}", "zone": "AB"[i % 2]} for i in range(4)]
    devices[3]["host_link"] = "serial:/dev/a:9600"
    values = {"zones": zones, "devices": devices, "train": {"cloud_rounds": 3}, "name": HOSTILE}
    values["codec"] = {"down": "int4"}
    return make_job(values, "job", tmp_path)


def play(job) -> Progress:
    """Three cloud rounds of two zones, as the tiers tell them."""
    progress = Progress(job, 100.0)
    now = 100.0

    def tell(tier, /, **event):
        nonlocal now
        now += 0.25
        progress.feed(tier, event, now)

    for device in job.devices:
        tell(f"host-{device.zone}", event="joined", zone=device.zone, device=device.id)
    for round_ in range(3):
        bytes_ = {"bytes_up": 1000 * (round_ + 1), "bytes_down": 900 * (round_ + 1)}
        for zone in "AB":
            devices = {
                d.id: {"loss": 1.0 / (round_ + 1), **bytes_} for d in job.devices if d.zone == zone
            }
            values = {"cloud_round": round_, "round": 10 * (round_ + 1), "loss": 1.0 / (round_ + 1)}
            tell(f"host-{zone}", event="round", zone=zone, devices=devices, seconds=0.1, **values)
        metrics = {
            zone: {
                "loss": 1.0 / (round_ + 1),
                "bytes": {
                    d.id: {"up": 1100 * (round_ + 1), "down": 900}
                    for d in job.devices
                    if d.zone == zone
                },
            }
            for zone in "AB"
        }
        tell(
            "cloud",
            event="cloud_round",
            round=round_,
            zones=["A", "B"],
            seconds=1.0,
            metrics=metrics,
        )
        for zone in "AB":
            right = {
                d.id: {"correct": 5 + round_, "total": 10, "loss": 0.5}
                for d in job.devices
                if d.zone == zone
            }
            tell(
                f"host-{zone}", event="evaluated", zone=zone, cloud_round=round_ + 1, devices=right
            )
        tables = {way: {"messages": 10, HOSTILE: 100} for way in ("up", "down")}
        tell("cloud", event="bytes", cloud_round=round_, bytes={"zones": tables})
        for zone in "AB":
            hops = {"devices": {"up": {"activations": 7}, "down": {}}, "cloud": tables}
            tell(f"host-{zone}", event="bytes", zone=zone, cloud_round=round_, bytes=hops)
    tell("d1", event="stats", device="d1", vmhwm_mb=37.5, steps=30, compute_s=0.5)
    tell("d2", event="restarted", tier="d2", reason=HOSTILE, number=1, most=3)
    tell("cloud", event="done", hash="abc", reports={})
    return progress


def history(job, **controls):
    progress = play(job)
    document = {
        **results(progress),
        "mode": "split-v2",
        "seed": 0,
        "devices": 4,
        "zones": 2,
        "codec": {"up": "int8", "down": "int4"},
        "command": f"seamline demo {HOSTILE}",
        "machine": dict.fromkeys(
            ("cpu", "cores", "system", "python", "numpy", "torch", "seamline", "kernels"), "x"
        ),
        **controls,
    }
    network = [
        {"name": "0", "kind": "Conv2d", "shape": [16, 1, 50], "parameters": 496, "side": "device"},
        {"name": "1", "kind": "Linear", "shape": [7], "parameters": 231, "side": "edge"},
    ]
    import msgspec

    return json.loads(
        json.dumps(
            {
                "title": job.name,
                "result": document,
                "record": progress.record(),
                "controls": {"federated": progress.record()} if controls else {},
                "network": network,
                "settings": msgspec.to_builtins(job),
            }
        )
    )


# ---- progress ----


def test_progress_knows_rounds_accuracy_bytes_and_memory(job):
    progress = play(job)
    assert progress.cloud_rounds == 3
    assert [point.cloud_round for point in progress.points] == [1, 2, 3]
    assert [point.accuracy for point in progress.points] == pytest.approx([0.5, 0.6, 0.7])
    assert progress.bytes_up == 4 * 3300
    assert progress.devices["d1"].vmhwm_mb == 37.5
    assert progress.devices["d3"].link == "serial"
    assert progress.hash == "abc"
    assert [text for _, text in progress.notes] == [
        f"d2: d2 died ({HOSTILE}) and was started again (1 of 3)"
    ]


def test_an_evaluation_counts_when_every_zone_has_told(job):
    progress = Progress(job, 0.0)
    devices = {"d0": {"correct": 1, "total": 2, "loss": 1.0}}
    progress.feed(
        "host-A", {"event": "evaluated", "zone": "A", "cloud_round": 1, "devices": devices}, 1
    )
    assert progress.points == []
    devices = {"d1": {"correct": 4, "total": 4, "loss": 0.0}}
    progress.feed(
        "host-B", {"event": "evaluated", "zone": "B", "cloud_round": 1, "devices": devices}, 2
    )
    assert progress.points[0].accuracy == 5 / 6


def test_bytes_go_on_counting_when_a_host_starts_anew():
    counter = Counter()
    counter.host(1000)
    counter.cloud(1500)
    counter.host(1200)  # told before the cloud's figure, heard after it
    assert counter.total == 1500
    counter.host(100)  # a new life
    counter.cloud(1500)  # of the old one
    assert counter.total == 1600


def test_unknown_events_and_devices_are_passed_over(job):
    progress = Progress(job, 0.0)
    progress.feed("x", {"event": "new"}, 1)
    progress.feed("x", {}, 1)
    progress.feed("host-A", {"event": "joined", "device": "stranger", "zone": "A"}, 1)
    assert progress.bytes_up == 0


def test_plain_lines_tell_each_evaluation_and_note_once(job, capsys):
    progress = play(job)
    show = Lines("title")
    with show:
        for _ in range(3):
            show.update(progress)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "title"
    assert len(lines) == 3
    assert summary(progress) in lines[2]
    assert "accuracy 70.0 %" in lines[2]


# ---- results ----


def test_results_are_weighted_by_samples(job):
    found = results(play(job))
    assert found["accuracy"] == 0.7
    assert found["per_device"] == dict.fromkeys(("d0", "d1", "d2", "d3"), 0.7)
    assert found["device_vmhwm_mb"] == 37.5


def test_the_table_has_only_controls_that_ran(job):
    found = history(job)["result"]
    assert [title for title, _ in result_rows(found)] == ["split training (split-v2)"]
    rows = control_rows(history(job, federated=0.65, majority=0.2))
    assert [row["points"] for row in rows] == [None, pytest.approx(-5), pytest.approx(-50)]
    assert rows[1]["up"] == 13200
    assert rows[2]["up"] is None


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (184464089, "184 MB"), (3e12, "3000 GB")],
)
def test_bytes_in_words(count, text):
    assert byte_count(count) == text


# ---- the page ----


class Page(HTMLParser):
    """Every element's end is there, and what the page refers to."""

    void = frozenset(("meta", "link", "br", "img", "input", "hr"))

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.refers: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in self.void:
            self.open.append(tag)
        self.refers += [v for k, v in attrs if k in ("src", "href", "xlink:href", "action", "data")]

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.void:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture
def page(job):
    return render(history(job, federated=0.65, isolated=0.66, majority=0.2))


def test_the_page_is_whole_and_refers_to_nothing_outside(page):
    parser = Page()
    parser.feed(page)
    assert parser.open == []
    assert parser.refers
    assert all(reference.startswith("#") for reference in parser.refers)
    assert not re.search(r"https?:|@import|url\((?!#)", page)
    assert "script" not in parser.tags


def test_names_from_outside_are_escaped(page):
    assert HOSTILE not in page
    assert page.count("&lt;script&gt;") >= 3


def test_the_page_shows_curves_bars_seam_controls_and_settings(page):
    assert page.count("<svg") == 5
    for text in ("Accuracy by cloud round", "Accuracy by traffic", "Accuracy by time", "Loss"):
        assert text in page
    assert "16 × 1 × 50 values a step" in page
    assert "12.8 kB of int8 activations up" in page
    assert "6.4 kB of int4 gradients down" in page
    assert "train.front_rate" in page
    assert "70.0 %" in page
    assert "−5.0" in page


LINK = {
    "event": "link",
    "tier": "host-A",
    "peer": "d3",
    "link": "serial",
    "state": "joined",
    "bytes_sent": 5000,
    "bytes_received": 70,
    "messages_sent": 9,
    "messages_received": 8,
    "losses": 1,
    "retransmits": 12,
    "frames_damaged": 13,
    "frames_forged": 14,
    "replayed": 15,
    "credit_stalls": 16,
    "rtt_us": 1700,
    "goodput_sent": 2000,
    "goodput_received": 30,
}


def test_the_page_shows_what_each_tier_said_last_of_its_links(job):
    progress = play(job)
    progress.feed("host-A", {**LINK, "retransmits": 5}, 200.0)
    progress.feed("host-A", LINK, 201.0)
    network = {"event": "link", "tier": "d1", "peer": HOSTILE, "link": "tcp", "state": "waiting"}
    progress.feed("d1", {**network, "retransmits": None}, 202.0)
    progress.feed("host-A", {**LINK, "state": "lost"}, 203.0)  # all rounds are done
    found = history(job)
    found["record"] = json.loads(json.dumps(progress.record()))
    text = " ".join(re.sub("<[^>]*>", " ", render(found)).split())
    cable = "host-A d3 serial joined 5.0 kB 70 B 9 / 8 1 12 13 14 15 16 1.7 ms 2.0 kB/s, 30 B/s"
    assert cable in text
    assert (
        "d1 &lt;script&gt;alert(1)&lt;/script&gt; tcp waiting 0 B 0 B 0 / 0 – – – – – – – –" in text
    )
    assert text.index("Links") < text.index(cable)


def test_a_link_in_words_has_the_figures_it_has():
    assert describe(LINK) == (
        "link to d3 (serial), joined: 5000 bytes out, 70 in, 12 sent again, 13 damaged, 14 forged, "
        "15 replayed, 16 stalls, 1 losses, round trip 1.7 ms, goodput 2000 B/s out, 30 in"
    )
    network = {"event": "link", "peer": "d1", "link": "tcp", "state": "lost", "bytes_sent": 7}
    assert describe({**network, "retransmits": None}) == "link to d1 (tcp), lost: 7 bytes out"


def test_the_ledger_is_added_up_over_rounds_and_zones(job):
    rows = ledger_rows(play(job).record()["ledger"])
    assert [tuple(row.values()) for row in rows] == [
        ("devices and edge hosts", "activations", 42, 0),
        ("devices and edge hosts", "all", 42, 0),
        ("edge hosts and cloud", HOSTILE, 300, 300),
        ("edge hosts and cloud", "messages", 30, 30),
        ("edge hosts and cloud", "all", 330, 330),
    ]
    assert "Where the bytes went" in render(history(job))


def test_a_history_of_before_has_no_links_and_a_page(job):
    found = history(job)
    del found["record"]["links"], found["record"]["ledger"]
    assert "Links" not in render(found)


def test_references_within_the_page_have_their_target_once(page):
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    wanted = set(re.findall(r'href="#([^"]+)"', page)) | set(re.findall(r"url\(#([^)]+)\)", page))
    assert wanted <= set(ids)


def test_a_run_without_evaluations_still_has_a_page(job):
    empty = history(job)
    empty["record"] |= {"points": [], "losses": [], "notes": []}
    empty["network"] = []
    empty["result"] |= {"accuracy": None, "device_vmhwm_mb": None}
    for device in empty["record"]["devices"].values():
        device["accuracy"] = None
    text = render(empty)
    assert "<svg" not in text
    assert "Settings" in text


def test_the_page_needs_only_its_template_beside_the_code():
    import seamline.report

    assert Path(seamline.report.__file__).with_name("report.html").is_file()
