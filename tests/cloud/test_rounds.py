"""The cloud's state machine in virtual time: tables of named cases, and any order of anything gives
the same bits."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from seamline.cloud.aggregate import Update, aggregate, model_hash
from seamline.cloud.rounds import (
    LATE_S,
    REPORT_DEADLINES,
    Close,
    Keep,
    Present,
    Refuse,
    Report,
    Rounds,
    Send,
    State,
)
from seamline.runtime.config import DeviceSection, Job, RoundSection, TrainSection, ZoneSection
from seamline.runtime.message import Kind


def arrays_of(zone, round_):
    """What a zone learns in a round: the same each time it is asked, of sizes that make the order
    of a sum show."""
    rng = np.random.default_rng([ord(zone[0]), round_])
    scale = 10.0 ** rng.integers(-3, 4)
    return {
        "layer.weight": (rng.normal(size=(3, 2)) * scale).astype(np.float32),
        "layer.bias": (rng.normal(size=3) * scale).astype(np.float32),
    }


def hello(rounds, zone, now=0.0):
    return rounds.receive(zone, Kind.ZONE_HELLO, {"zone": zone, "job": "job"}, {}, now)


def update(rounds, zone, round_, now=0.0, arrays=None, **meta):
    meta = {"round": round_, "samples": 10 + ord(zone[0]), "metrics": {"loss": 0.5}, **meta}
    arrays = arrays_of(zone, round_) if arrays is None else arrays
    return rounds.receive(zone, Kind.ZONE_UPDATE, meta, arrays, now)


def names(effects):
    """Effects in short: sent messages as (kind, zone), others as the name of their class."""
    return [
        (effect.kind.name.removeprefix("ZONE_"), effect.zone)
        if isinstance(effect, Send)
        else type(effect).__name__
        for effect in effects
    ]


def closes(effects):
    return [effect for effect in effects if isinstance(effect, Close)]


def refusal(effects):
    return next(effect.text for effect in effects if isinstance(effect, Refuse))


def test_a_whole_job(make_job):
    rounds = Rounds(make_job("AB", rounds=2), State(), 0.0)
    effects = hello(rounds, "A")
    assert names(effects) == ["Present", ("WELCOME", "A"), ("ROUND", "A")]
    assert effects[2].round == 0 and effects[2].arrays == {}  # the seeded initialisation
    hello(rounds, "B")
    assert names(update(rounds, "B", 0)) == ["Keep", ("ACCEPTED", "B")]
    effects = update(rounds, "A", 0, 4.0)
    assert names(effects) == ["Keep", ("ACCEPTED", "A"), "Close", ("ROUND", "A"), ("ROUND", "B")]
    assert effects[2].seconds == 4.0 and effects[2].metrics == {z: {"loss": 0.5} for z in "AB"}
    assert effects[3].round == 1 and model_hash(effects[3].arrays) == effects[2].hash
    update(rounds, "A", 1)
    effects = update(rounds, "B", 1)
    assert names(effects) == ["Keep", ("ACCEPTED", "B"), "Close", ("DONE", "A"), ("DONE", "B")]
    assert effects[3].round == 2 and rounds.done and not rounds.finished(4.0)
    for zone in "AB":
        report = rounds.receive(
            zone, Kind.ZONE_REPORT, {"round": 2, "metrics": {"acc": 1}}, {}, 5.0
        )
        assert report == [Report(zone, {"acc": 1})]
    assert rounds.finished(5.0)


def test_nothing_is_promised_before_it_is_durable(make_job):
    rounds = Rounds(make_job("AB", quorum=1.0), State(), 0.0)
    for zone in "AB":
        hello(rounds, zone)
    update(rounds, "A", 0)
    seen = names(update(rounds, "B", 0))
    assert seen.index("Keep") < seen.index(("ACCEPTED", "B"))
    assert seen.index("Close") < seen.index(("ROUND", "A"))


# case: joined zones, zones with an update at 1 s, zones lost at 2 s, when the round must close
WAITS = [
    ("everybody answered", "ABC", "ABC", "", 1.0),
    ("a slow zone is waited for until the deadline after the quorum", "ABC", "AB", "", 31.0),
    ("a zone that never came is waited for as long as joining may take", "AB", "AB", "", 20.0),
    ("a lost zone is waited for until the deadline", "ABC", "AB", "C", 31.0),
    ("no quorum, no end", "ABC", "A", "", math.inf),
    ("an update counts though its zone is lost", "ABC", "AB", "B", 31.0),
]


@pytest.mark.parametrize(
    ("joined", "answered", "gone", "end"), [w[1:] for w in WAITS], ids=[w[0] for w in WAITS]
)
def test_when_a_round_closes(make_job, joined, answered, gone, end):
    rounds = Rounds(make_job("ABC"), State(), 0.0)
    for zone in joined:
        hello(rounds, zone, 0.0)
    closed = [e for zone in answered for e in closes(update(rounds, zone, 0, 1.0))]
    if closed:
        assert end == 1.0
        return
    for zone in gone:
        assert not closes(rounds.lost(zone, "gone", 2.0))
    assert not closes(rounds.tick(min(end, 1e6) - 0.1))
    assert bool(closes(rounds.tick(min(end, 1e6)))) == (end < math.inf)


def test_a_dead_zone_costs_later_rounds_nothing(make_job):
    rounds = Rounds(make_job("ABC"), State(), 0.0)
    for zone in "ABC":
        hello(rounds, zone, 0.0)
    rounds.lost("C", "killed", 1.0)
    update(rounds, "A", 0, 25.0)
    assert not closes(update(rounds, "B", 0, 26.0))
    assert closes(rounds.tick(31.0))  # its deadline, counted from the loss
    update(rounds, "A", 1, 40.0)
    assert closes(update(rounds, "B", 1, 41.0))


def test_a_late_joiner_gets_the_open_round_and_takes_part(make_job):
    rounds = Rounds(make_job("ABC"), State(), 0.0)
    for zone in "AB":
        hello(rounds, zone)
        update(rounds, zone, 0, 19.0)
    effects = hello(rounds, "C", 19.5)
    assert names(effects) == ["Present", ("WELCOME", "C"), ("ROUND", "C")]
    assert closes(update(rounds, "C", 0, 40.0))[0].metrics.keys() == {"A", "B", "C"}


def test_a_zone_that_comes_back_is_told_the_round_again(make_job):
    rounds = Rounds(make_job("AB"), State(), 0.0)
    hello(rounds, "A")
    assert names(rounds.lost("A", "gone", 1.0)) == ["Present"]
    assert rounds.lost("A", "gone", 1.0) == []
    assert names(hello(rounds, "A", 2.0)) == ["Present", ("WELCOME", "A"), ("ROUND", "A")]
    assert names(hello(rounds, "A", 2.0)) == [("WELCOME", "A"), ("ROUND", "A")]


def test_a_zone_whose_update_is_held_is_not_sent_to_train_the_round_again(make_job):
    rounds = Rounds(make_job("AB", quorum=1.0), State(), 0.0)
    hello(rounds, "A")
    update(rounds, "A", 0)
    rounds.lost("A", "gone", 1.0)
    assert names(hello(rounds, "A", 2.0)) == ["Present", ("WELCOME", "A"), ("ACCEPTED", "A")]


def test_an_update_is_applied_once_and_accepted_each_time(make_job):
    rounds = Rounds(make_job("AB", quorum=1.0), State(), 0.0)
    hello(rounds, "A")
    update(rounds, "A", 0)
    other = {name: 2 * array for name, array in arrays_of("A", 0).items()}
    assert names(update(rounds, "A", 0, arrays=other)) == [("ACCEPTED", "A")]
    close = closes(update(rounds, "B", 0))[0]
    wanted = aggregate({}, {z: Update(10 + ord(z), arrays_of(z, 0)) for z in "AB"})
    assert close.hash == model_hash(wanted)


def test_a_stale_update_is_accepted_and_changes_nothing(make_job):
    rounds = Rounds(make_job("AB"), State(), 0.0)
    for zone in "AB":
        hello(rounds, zone)
        update(rounds, zone, 0)
    before = model_hash(rounds.state.model)
    nonsense = {"no such tensor": np.array([math.nan], np.float32)}
    assert names(update(rounds, "A", 0, arrays=nonsense)) == [("ACCEPTED", "A")]
    assert model_hash(rounds.state.model) == before and rounds.state.updates == {}


def test_an_update_of_a_future_round_gets_the_open_one(make_job):
    """A zone that trained with a cloud whose store was removed since."""
    rounds = Rounds(make_job("AB"), State(), 0.0)
    hello(rounds, "A")
    assert names(update(rounds, "A", 7)) == [("ROUND", "A")]
    assert rounds.state.updates == {}


def test_a_cloud_without_rounds_to_go_says_done_at_once(make_job):
    rounds = Rounds(make_job("AB", rounds=0), State(), 0.0)
    assert names(hello(rounds, "A")) == ["Present", ("WELCOME", "A"), ("DONE", "A")]


GOOD = arrays_of("A", 1)
BAD = [
    ("a name too many", {**GOOD, "more": GOOD["layer.bias"]}, {}, "'more' that the model has not"),
    ("a wrong shape", {"layer.bias": GOOD["layer.weight"]}, {}, "has shape [3, 2], expected [3]"),
    ("NaN", {"layer.bias": np.full(3, math.nan, np.float32)}, {}, "not finite"),
    ("a sum past the range", {"layer.bias": np.full(3, 3.4e38, np.float32)}, {}, "not finite"),
    ("no tensors", {}, {}, "no tensors"),
    ("negative samples", GOOD, {"samples": -1}, "samples: expected"),
    ("samples as text", GOOD, {"samples": "many"}, "samples: expected"),
    ("a truth as samples", GOOD, {"samples": True}, "samples: expected"),
    ("no round", GOOD, {"round": None}, "round: expected"),
    ("a list as metrics", GOOD, {"metrics": []}, "metrics: expected"),
]


@pytest.mark.parametrize(("arrays", "meta", "text"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_a_bad_update_gets_a_clear_error_and_changes_nothing(make_job, arrays, meta, text):
    model = {name: np.full_like(array, 1e38) for name, array in GOOD.items()}
    rounds = Rounds(make_job("AB"), State(1, model), 0.0)
    hello(rounds, "A")
    effects = rounds.receive(
        "A", Kind.ZONE_UPDATE, {"round": 1, "samples": 5, "metrics": {}, **meta}, arrays, 0.0
    )
    assert names(effects) == ["Refuse"] and text in refusal(effects)
    assert rounds.state.updates == {} and rounds.state.model is model
    assert names(update(rounds, "A", 1)) == ["Keep", ("ACCEPTED", "A")]


def test_in_the_first_round_shapes_are_held_against_the_updates_that_are_here(make_job):
    rounds = Rounds(make_job("AB", quorum=1.0), State(), 0.0)
    update(rounds, "A", 0)
    effects = update(rounds, "B", 0, arrays={"layer.bias": np.zeros(4, np.float32)})
    assert "has shape [4], expected [3]" in refusal(effects)
    bad_name = {"a\nb": np.zeros(4, np.float32)}
    assert "named 'a\\nb'" in refusal(update(rounds, "B", 0, arrays=bad_name))


@pytest.mark.parametrize(
    ("zone", "kind", "meta", "text"),
    [
        ("Q", Kind.ZONE_HELLO, {"zone": "Q", "job": "job"}, "it has A, B"),
        ("A", Kind.ZONE_HELLO, {"zone": "B", "job": "job"}, "join as zone 'B'"),
        ("A", Kind.ZONE_HELLO, {"zone": "A", "job": "other"}, "the same job file"),
        ("A", Kind.STEP, {}, "no message of kind 6"),
    ],
)
def test_what_does_not_belong_here_is_refused(make_job, zone, kind, meta, text):
    rounds = Rounds(make_job("AB"), State(), 0.0)
    assert text in refusal(rounds.receive(zone, kind, meta, {}, 0.0))


def over(make_job, now=100.0):
    """Rounds whose last round has just closed, both zones present."""
    rounds = Rounds(make_job("AB", rounds=1), State(), 0.0)
    for zone in "AB":
        hello(rounds, zone, now)
    for zone in "AB":
        update(rounds, zone, 0, now)
    return rounds


def test_at_the_end_a_zone_that_is_here_gets_time_to_evaluate_and_a_lost_one_the_deadline(make_job):
    rounds = over(make_job)
    rounds.receive("A", Kind.ZONE_REPORT, {"round": 1, "metrics": {}}, {}, 101.0)
    assert not rounds.finished(100.0 + REPORT_DEADLINES * 30 - 1)
    assert rounds.finished(100.0 + REPORT_DEADLINES * 30)
    rounds.lost("B", "gone", 110.0)
    assert not rounds.finished(139.0) and rounds.finished(140.0)


def test_a_report_of_another_round_gets_the_final_model_again(make_job):
    rounds = over(make_job)
    wrong = rounds.receive("A", Kind.ZONE_REPORT, {"round": 0, "metrics": {}}, {}, 101.0)
    assert names(wrong) == [("DONE", "A")] and rounds.state.reports == {}


def test_started_after_the_end_it_answers_late_zones_for_a_while(make_job):
    kept = State(3, arrays_of("A", 0), {}, {"A": {}, "B": {}})
    rounds = Rounds(make_job("AB"), kept, 0.0)
    assert names(hello(rounds, "A", 1.0)) == ["Present", ("WELCOME", "A"), ("DONE", "A")]
    assert not rounds.finished(LATE_S - 0.1) and rounds.finished(LATE_S)


ZONES, ROUNDS = "ABC", 3
JOB = Job(
    zones=[ZoneSection(zone, "") for zone in ZONES],
    devices=[DeviceSection(f"d{zone}", zone) for zone in ZONES],
    train=TrainSection(cloud_rounds=ROUNDS),
    round=RoundSection(quorum=1.0),
)


def wanted_hash():
    model = {}
    for round_ in range(ROUNDS):
        model = aggregate(model, {z: Update(10 + ord(z), arrays_of(z, round_)) for z in ZONES})
    return model_hash(model)


WANTED = wanted_hash()


class Disk:
    """What a store keeps, carried out effect by effect; a restart gives the state back."""

    def __init__(self):
        self.state = State()

    def carry_out(self, effects, most=None):
        for effect in effects[:most]:
            if isinstance(effect, Keep):
                assert effect.round == self.state.round and effect.zone not in self.state.updates
                self.state.updates[effect.zone] = effect.update
            elif isinstance(effect, Close):
                assert effect.round == self.state.round
                self.state = State(effect.round + 1, effect.model)

    def restart(self):
        state = self.state
        return Rounds(JOB, State(state.round, state.model, dict(state.updates)), 0.0)


ACTIONS = st.one_of(
    st.tuples(st.just("update"), st.sampled_from(ZONES), st.integers(0, 1)),
    st.tuples(st.sampled_from(["hello", "lost"]), st.sampled_from(ZONES), st.just(0)),
    st.tuples(st.just("kill"), st.sampled_from(ZONES), st.integers(0, 5)),
)


@settings(max_examples=150)
@given(st.lists(ACTIONS, max_size=40))
def test_any_order_repeats_losses_and_kills_give_the_same_final_bits(actions):
    """A kill strikes while the update of a zone is carried out, after any number of effects."""
    disk = Disk()
    rounds = disk.restart()
    for action, zone, number in actions:
        if action == "update":  # of the open round, or repeated from the one before
            disk.carry_out(update(rounds, zone, max(0, rounds.state.round - number)))
        elif action == "hello":
            disk.carry_out(hello(rounds, zone))
        elif action == "lost":
            disk.carry_out(rounds.lost(zone, "gone", 0.0))
        else:
            disk.carry_out(update(rounds, zone, rounds.state.round), number)
            rounds = disk.restart()
            disk.carry_out(rounds.tick(0.0))
    while not rounds.done:
        for zone in ZONES:
            disk.carry_out(update(rounds, zone, rounds.state.round))
    assert model_hash(rounds.state.model) == model_hash(disk.state.model) == WANTED


def test_presence_is_told_once(make_job):
    rounds = Rounds(make_job("AB"), State(), 0.0)
    assert hello(rounds, "A")[0] == Present("A", True)
    assert not [e for e in hello(rounds, "A") if isinstance(e, Present)]
    assert rounds.lost("A", "cut", 1.0) == [Present("A", False, "cut")]


# ---- a job that waits for all ----


def test_where_all_are_waited_for_a_round_stays_open_until_the_last_update(make_job):
    rounds = Rounds(make_job("AB", rounds=1, wait="all", quorum=0.5), State(), 0.0)
    hello(rounds, "A")
    update(rounds, "A", 0, 1.0)
    assert closes(rounds.tick(100000.0)) == []
    hello(rounds, "B", 100000.0)
    rounds.lost("B", "gone", 100001.0)
    assert closes(rounds.tick(200000.0)) == []
    assert len(closes(update(rounds, "B", 0, 200000.0))) == 1


def test_where_all_are_waited_for_a_report_is_accepted_and_missed(make_job):
    rounds = Rounds(make_job("AB", wait="all"), State(3, arrays_of("A", 0)), 0.0)
    said = {"round": 3, "metrics": {}}
    for zone in "AB":
        hello(rounds, zone)
    first = rounds.receive("A", Kind.ZONE_REPORT, said, {}, 1.0)
    assert names(first) == ["Report", ("ACCEPTED", "A")]
    assert names(rounds.receive("A", Kind.ZONE_REPORT, said, {}, 2.0)) == [("ACCEPTED", "A")]
    rounds.lost("B", "gone", 3.0)
    assert not rounds.finished(100000.0)
    rounds.receive("B", Kind.ZONE_REPORT, said, {}, 100001.0)
    assert rounds.finished(100001.0)
