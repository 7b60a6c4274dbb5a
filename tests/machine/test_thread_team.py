"""A team of threads: shares, order, errors, end; what training leaves of torch's own threads."""

import threading

import pytest
import torch

from tests.algos.appo.test_runner import learn as learn_appo
from tests.algos.offpolicy.test_runner import learn as learn_off_policy
from unilab.machine.thread_team import ThreadTeam


@pytest.mark.parametrize("num_threads", [1, 2, 5])
def test_each_share_is_done_once_and_results_keep_their_order(num_threads):
    team = ThreadTeam(num_threads)
    for _ in range(50):
        assert team.map(lambda share: share * 10) == [share * 10 for share in range(num_threads)]
    team.close()


def test_shares_run_at_the_same_time_and_the_first_in_the_calling_thread():
    team = ThreadTeam(3)
    together = threading.Barrier(3)  # would block for ever if one thread did all

    def work(share):
        together.wait(timeout=60)
        return threading.current_thread(), torch.get_num_threads()

    answers = team.map(work)
    assert answers[0][0] is threading.current_thread()
    assert len({thread for thread, _ in answers}) == 3
    assert [intra_op for _, intra_op in answers] == [1, 1, 1]
    team.close()


def test_the_error_of_the_lowest_share_is_raised_after_all_have_ended():
    team = ThreadTeam(3)
    ended = []

    def work(share):
        ended.append(share)
        if share > 0:
            raise ValueError(f"share {share}")

    for _ in range(20):
        ended.clear()
        with pytest.raises(ValueError, match="share 1"):
            team.map(work)
        assert sorted(ended) == [0, 1, 2]
    assert team.map(lambda share: share) == [0, 1, 2]
    team.close()


def test_closing_ends_the_threads_and_can_be_repeated():
    before = threading.active_count()
    team = ThreadTeam(4)
    together = threading.Barrier(4)
    team.map(lambda _: together.wait(timeout=60))
    assert threading.active_count() == before + 3
    team.close()
    team.close()
    assert threading.active_count() == before


@pytest.mark.parametrize("learn", [learn_appo, learn_off_policy])
def test_learn_leaves_the_number_of_torch_threads_as_it_found_it(learn):
    before = torch.get_num_threads()
    changes = {"mode": "sync"} if learn is learn_appo else {"workers": {"kind": "sequential", "count": 2}}
    torch.set_num_threads(3)
    try:
        learn(iterations=1, env="tests.algos.appo.counting_env:CountingEnv", learner_threads=2, **changes)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
