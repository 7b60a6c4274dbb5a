"""Who works on what: of several drivers exactly one, also after deaths, silences and outages."""

import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from harness.study.database.database import LEASES, Database
from harness.study.database.leases import Driver, Leases
from harness.study.folder import TakenOver
from tests.postgresql import Server

SECONDS = 60
NewLeases = Callable[..., Leases]


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/study.db"
    else:
        server: Server = request.getfixturevalue("database_server")
        url = server.new_database()
    with Database(url) as database:
        yield database


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    with Database(f"sqlite:///{tmp_path_factory.mktemp('leases')}/study.db") as database:
        yield database


@pytest.fixture
def leases(database: Database) -> Iterator[NewLeases]:
    with ExitStack() as opened:

        def new(driver: Driver | None = None, study: str = "suite/id", **seconds: float) -> Leases:
            made = Leases(database, study, driver or Driver(), **seconds)
            opened.callback(made.close)
            return made

        yield new


def elsewhere() -> Driver:
    """A driver whose process nobody here can see."""
    return Driver(host="another machine")


def dead() -> Driver:
    process = subprocess.Popen(["true"])
    process.wait()
    return Driver(pid=process.pid)


def until(happens: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not happens():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_one_of_many_drivers_gets_a_lease_and_gives_it_back(leases: NewLeases) -> None:
    drivers = [leases() for _ in range(4)]
    together = threading.Barrier(4)
    taken: list[Leases] = []

    def take(driver: Leases) -> None:
        together.wait()
        if driver.take("trial 0"):
            taken.append(driver)

    threads = [threading.Thread(target=take, args=(driver,)) for driver in drivers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (holder,) = taken
    others = [driver for driver in drivers if driver is not holder]
    assert holder.take("trial 0") and holder.others() == {}
    assert others[0].others() == {"trial 0": f"process {os.getpid()} on {os.uname().nodename}"}
    assert not others[0].release("trial 0") and not others[0].take("trial 0"), "what is another's is not given back"
    assert holder.release("trial 0") and others[1].take("trial 0")


@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["take", "release"])), max_size=12))
@settings(max_examples=20, deadline=None)
def test_never_more_than_one_driver_can_write(file: Database, steps: list[tuple[int, str]]) -> None:
    """Whatever drivers do: the last of them takes every lease of the others for lost at once."""
    holder: int | None = None
    study, patience = uuid4().hex, (SECONDS, SECONDS, -1.0)
    drivers = [Leases(file, study, elsewhere(), beat_seconds=SECONDS, lost_seconds=seconds) for seconds in patience]
    for number, step in steps:
        if step == "release":
            drivers[number].release("trial 0")
            holder = None if holder == number else holder
        else:
            free = holder in (None, number) or number == 2
            assert drivers[number].take("trial 0") == free
            holder = number if free else holder
        assert [_can_write(driver) for driver in drivers] == [number == holder for number in range(3)]
    for driver in drivers:
        driver.close()


def _can_write(driver: Leases) -> bool:
    try:
        with driver.holding("trial 0"):
            return True
    except TakenOver:
        return False


def test_a_study_has_leases_of_its_own(leases: NewLeases) -> None:
    assert leases(study="a").take("turn") and leases(study="b").take("turn")


def test_the_lease_of_a_process_that_is_gone_is_free_at_once(leases: NewLeases) -> None:
    assert leases(dead()).take("trial 3")
    other = leases()
    assert other.others() == {} and other.take("trial 3")


def test_a_silent_driver_elsewhere_loses_its_lease_and_can_write_no_more(leases: NewLeases) -> None:
    silent = leases(elsewhere(), beat_seconds=SECONDS)
    other, third = leases(lost_seconds=0.3), leases(lost_seconds=SECONDS)
    assert silent.take("trial 1") and not other.take("trial 1")
    until(lambda: other.take("trial 1"))
    with pytest.raises(TakenOver, match="trial 1 was taken over by another driver"), silent.holding("trial 1"):
        pytest.fail("it has no transaction")
    assert not silent.take("trial 1") and not third.take("trial 1")
    with other.holding("trial 1") as connection:
        assert connection.execute(select(LEASES.c.driver)).scalar() == other.driver.id


def test_a_driver_that_beats_keeps_its_lease(leases: NewLeases, database: Database) -> None:
    living, other = leases(elsewhere(), beat_seconds=0.02), leases(lost_seconds=0.3)

    def beats() -> int:
        with database.engine.connect() as connection:
            return connection.execute(select(LEASES.c.beat)).scalar_one()

    def has_beaten_since(beat: int) -> bool:
        return beats() > beat

    assert living.take("trial 1")
    began = time.monotonic()
    while time.monotonic() < began + 1.0:  # longer than a silence may be
        assert not other.take("trial 1")
        until(partial(has_beaten_since, beats()))  # so the next look sees another beat, however long this took


def test_an_outage_makes_nobody_lose_anything(leases: NewLeases, database: Database) -> None:
    """Nobody could beat meanwhile, so what was seen before says nothing."""
    leases(elsewhere(), beat_seconds=SECONDS).take("trial 1")
    other = leases(lost_seconds=0.3)
    assert not other.take("trial 1")
    observed = time.monotonic()
    until(lambda: time.monotonic() > observed + 0.3)
    database.outages += 1
    assert not other.take("trial 1")
    until(lambda: other.take("trial 1"))
