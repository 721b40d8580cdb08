"""When players come and go, how long they stay, which part of them a machine has, and where they come from."""

from __future__ import annotations

import random
import statistics

import pytest

from loadtest import address
from loadtest.address import check_addresses, check_files, find_source_address, parse_addresses
from loadtest.distribution import parse_distribution
from loadtest.player_random import make_random
from loadtest.ramp import Stage, Stay, count_players, find_length_s, parse_ramp, plan_stays
from loadtest.shards import parse_shard
from loadtest.target import TargetRefused


def count_at(stays: list[Stay], at_s: float) -> int:
    return sum(stay.from_s <= at_s and (stay.until_s is None or at_s < stay.until_s) for stay in stays)


def test_a_linear_ramp_brings_everybody_evenly_and_another_seed_brings_them_otherwise() -> None:
    stays = plan_stays(1000, [Stage("linear", 1000, 100.0)], 1)
    assert all(450 < count_at(stays, 50 + shift) - shift * 10 < 550 for shift in (-2, 0, 2))
    assert count_at(stays, 100) == 1000 and count_at(stays, 0) < 20
    assert stays == plan_stays(1000, [Stage("linear", 1000, 100.0)], 1)
    assert stays != plan_stays(1000, [Stage("linear", 1000, 100.0)], 2)


def test_even_arrivals_have_even_distances() -> None:
    times = sorted(stay.from_s for stay in plan_stays(10, [Stage("linear", 10, 10.0)], 1, is_even=True))
    assert times == [0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7.5, 8.5, 9.5]


def test_stages_follow_each_other_up_and_down() -> None:
    stages = parse_ramp("linear:100:10, hold:10, step:150, hold:10, spike:300:5, linear:50:10")
    assert find_length_s(stages) == 45 and count_players(stages) == 450
    stays = plan_stays(450, stages, 3)
    assert count_at(stays, 10) == count_at(stays, 19.9) == 100
    assert count_at(stays, 21.1) == count_at(stays, 29.9) == 150
    assert count_at(stays, 31.1) == 450
    assert count_at(stays, 45) == 50


def test_each_process_gets_its_part_of_a_spike() -> None:
    stays = plan_stays(1000, parse_ramp("linear:500:10,spike:500:10"), 1)
    firsts = [sum(stay.until_s is not None for stay in stays[first : first + 250]) for first in (0, 250, 500, 750)]
    assert sum(firsts) == 500 and min(firsts) > 90


@pytest.mark.parametrize(
    "text", ["", "linear:5", "step:5:5", "hold", "linear:x:5", "spike:-1:5", "wave:5:5", "hold:1e9"]
)
def test_a_ramp_that_cannot_be_read_names_the_stage(text: str) -> None:
    with pytest.raises(ValueError, match="is no stage: use linear"):
        parse_ramp(text)


@pytest.mark.parametrize(
    ("text", "mean_s"),
    [("90", 90), ("uniform:30:90", 60), ("exponential:60", 60), ("normal:60:5", 60), ("lognormal:60:0.5", 60)],
)
def test_distributions_have_the_middle_that_they_say(text: str, mean_s: float) -> None:
    rng = random.Random(1)
    drawn = [parse_distribution(text).draw(rng) for _ in range(4000)]
    middle = statistics.median(drawn) if text.startswith("lognormal") else statistics.mean(drawn)
    assert middle == pytest.approx(mean_s, rel=0.06) and min(drawn) >= 0
    assert str(parse_distribution(text)) == text


@pytest.mark.parametrize("text", ["", "soon", "uniform:9", "uniform:9:3", "exponential:1:2", "-1", "nan", "pareto:1:2"])
def test_a_distribution_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a number|ends before"):
        parse_distribution(text)


def test_shards_have_every_player_once() -> None:
    parts = [parse_shard(f"{number}/3").find_part(100) for number in (1, 2, 3)]
    assert [player for first, count in parts for player in range(first, first + count)] == list(range(100))
    for text in ("0/3", "4/3", "1", "a/b", "1/3/5"):
        with pytest.raises(ValueError, match="is no shard"):
            parse_shard(text)


def test_players_of_loopback_are_spread_over_its_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address.sys, "platform", "linux")
    url = "ws://127.0.0.1:7400/v1/play"
    by_address: dict[object, int] = {}
    for index in range(60_000):
        source = find_source_address(url, [], index)
        by_address[source] = by_address.get(source, 0) + 1
    assert max(by_address.values()) <= 500 and by_address[None] == 500
    assert find_source_address(url, [], 7, move=3) not in (None, find_source_address(url, [], 7, move=4))
    assert find_source_address("ws://gateway.example/v1/play", [], 60_000) is None
    given = parse_addresses("10.0.0.1, 10.0.0.2")
    assert [find_source_address("wss://x/v1/play", given, index) for index in range(3)] == [
        ("10.0.0.1", 0),
        ("10.0.0.2", 0),
        ("10.0.0.1", 0),
    ]


def test_more_sockets_than_an_address_has_are_refused_naming_how_many_are_needed() -> None:
    with pytest.raises(TargetRefused, match="60000 players need 3 source addresses"):
        check_addresses(60_000, "wss://gateway.example/v1/play", ["10.0.0.1", "10.0.0.2"])
    check_addresses(60_000, "wss://gateway.example/v1/play", ["10.0.0.1", "10.0.0.2", "10.0.0.3"])


def test_more_players_than_open_files_are_refused_naming_the_number_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(resource, "getrlimit", lambda which: (4096, 4096))
    monkeypatch.setattr(resource, "setrlimit", lambda which, limits: None)
    with pytest.raises(TargetRefused) as refused:
        check_files(10_000, 2)
    assert "`ulimit -n 5064`" in str(refused.value) and "--players 8064" in str(refused.value)
    assert "--processes 3" in str(refused.value)
    check_files(8_064, 2)


def test_the_small_generator_gives_the_same_numbers_for_a_seed_and_evenly_spread_ones() -> None:
    one, other = make_random("1/7"), make_random("1/7")
    assert [one.random() for _ in range(100)] == [other.random() for _ in range(100)]
    assert one.randrange(10**30) == other.randrange(10**30) and one.sample(range(99), 9) == other.sample(range(99), 9)
    assert one.gauss(0, 1) == other.gauss(0, 1) and make_random("1/8").random() != make_random("1/7").random()
    counts = [0] * 10
    for _ in range(20_000):
        counts[int(one.random() * 10)] += 1
    assert min(counts) > 1850 and max(counts) < 2150
    assert 0 < sum(one.getrandbits(100) >> 99 for _ in range(1000)) - 400 < 200
