"""The model of how workers scale, against cases that are computed by hand."""

from dataclasses import replace

import pytest
from scaling_model import Cluster, Costs, first_limit, limits, nodes_until, simulate

COSTS = Costs(
    env_steps=100,
    rollout_seconds=0.09,
    send_seconds=0.01,
    receive_seconds=0.002,
    insert_seconds=0.003,
    publish_seconds=0.005,
    load_seconds=0.0,
    update_seconds=0.05,
    rollout_bytes=1_000_000,
    insert_bytes=800_000,
    weight_bytes=4_000_000,
)
HERE = Cluster(nodes=0, workers_per_node=1, cores=8)
ABROAD = Cluster(nodes=10, workers_per_node=4, cores=8, bandwidth=1e9, latency=0.0)


def test_one_worker_with_cores_to_spare_makes_a_rollout_every_tenth_of_a_second():
    # 10 rollouts of 100 env steps a second; the learner spends 10 ms on each and needs 1/10 of its thread
    outcome = simulate(COSTS, HERE, rollouts=90)
    assert outcome.env_steps_per_second == pytest.approx(1000, rel=1e-6)
    assert outcome.busy == pytest.approx({"workers": 1.0, "learner": 0.1, "cores": 1.1 / 8}, rel=0.02)
    assert outcome.insert_bytes_per_second == pytest.approx(8_000_000)
    assert outcome.broadcasts_per_second == pytest.approx(10)
    assert first_limit(COSTS, HERE) == "workers"


def test_workers_add_up_until_the_learner_is_the_limit():
    # 10 ms of the learner a rollout: 100 rollouts a second, the supply of ten workers
    for workers, expected in ((5, 5_000), (20, 10_000), (40, 10_000)):
        cluster = replace(HERE, workers_per_node=workers, cores=64)
        assert min(limits(COSTS, cluster).values()) == pytest.approx(expected)
        assert simulate(COSTS, cluster, rollouts=900).env_steps_per_second == pytest.approx(expected, rel=0.02)
    assert first_limit(COSTS, replace(HERE, workers_per_node=20, cores=64)) == "learner"


def test_updates_and_publishing_are_shared_by_the_rollouts_of_an_iteration():
    # 4 x 5 ms + 2 x 50 ms + 5 ms = 125 ms for 4 rollouts
    cluster = replace(HERE, workers_per_node=20, cores=64, rollouts_per_iteration=4, updates_per_iteration=2)
    assert limits(COSTS, cluster)["learner"] == pytest.approx(100 * 4 / 0.125)
    outcome = simulate(COSTS, cluster, rollouts=800)
    assert outcome.env_steps_per_second == pytest.approx(3200, rel=0.02)
    assert outcome.broadcasts_per_second == pytest.approx(8, rel=0.02)
    assert outcome.busy["learner"] == pytest.approx(1, rel=0.01)


def test_cores_are_shared_by_workers_and_learner():
    # 2 cores; 100 ms of a worker and 10 ms of the learner a rollout: 2 / 0.11 rollouts a second
    cluster = replace(HERE, workers_per_node=4, cores=2)
    assert limits(COSTS, cluster)["cores"] == pytest.approx(100 * 2 / 0.11)
    assert first_limit(COSTS, cluster) == "cores"
    assert simulate(COSTS, cluster, rollouts=600).env_steps_per_second == pytest.approx(1818, rel=0.02)


def test_a_link_carries_its_bandwidth_of_rollouts():
    # 10 MB/s for rollouts of 1 MB: 10 a second, of the 400 that 40 workers could make
    cluster = replace(ABROAD, bandwidth=1e7, rollouts_per_iteration=1000)
    assert limits(COSTS, cluster)["network, rollouts"] == pytest.approx(1000)
    outcome = simulate(COSTS, cluster, rollouts=900)
    assert first_limit(COSTS, cluster) == "network, rollouts"
    assert outcome.env_steps_per_second == pytest.approx(1000, rel=0.01)
    assert outcome.rollout_bytes_per_second == pytest.approx(1e7, rel=0.01)
    assert outcome.busy["network, rollouts"] == pytest.approx(1, rel=0.01)


def test_weights_are_sent_once_for_each_node_and_version_that_is_begun_with():
    # R = 1: every rollout begins with a version that its node lacks, 4 MB each: 25 a second over 100 MB/s
    cluster = replace(ABROAD, bandwidth=1e8, workers_per_node=1)
    assert limits(COSTS, cluster)["network, weights"] == pytest.approx(2500)
    # R = 40: each of 10 nodes gets a version for the 4 rollouts that it makes of it: 1 MB a rollout
    assert limits(COSTS, replace(cluster, rollouts_per_iteration=40))["network, weights"] == pytest.approx(10_000)
    outcome = simulate(COSTS, cluster, rollouts=600)
    assert outcome.env_steps_per_second == pytest.approx(2500, rel=0.03)
    assert outcome.weight_bytes_per_second == pytest.approx(1e8, rel=0.01)


def test_a_cluster_without_a_bottleneck_scales_with_its_workers():
    costs = replace(COSTS, receive_seconds=1e-5, insert_seconds=1e-5, publish_seconds=1e-5, weight_bytes=1000)
    cluster = replace(ABROAD, rollouts_per_iteration=10)
    outcome = simulate(costs, cluster, rollouts=2000)
    assert outcome.env_steps_per_second == pytest.approx(40 * 1000, rel=0.02)
    assert outcome.busy["workers"] == pytest.approx(1, rel=0.02)


def test_weights_that_act_are_as_old_as_the_queue_is_long():
    # The learner takes 1 s a rollout and the worker none: both rollouts of the queue begin as soon as there is room.
    slow = replace(COSTS, rollout_seconds=0.001, send_seconds=0.0, receive_seconds=0.0, insert_seconds=0.0,
                   publish_seconds=1.0)  # fmt: skip
    assert simulate(slow, HERE, rollouts=60).policy_lag == pytest.approx(2, abs=0.1)
    assert simulate(slow, replace(HERE, queue_size=4), rollouts=60).policy_lag == pytest.approx(4, abs=0.1)


def test_durations_that_vary_keep_their_mean_and_their_seed():
    varied = replace(COSTS, spread=0.5)
    first, again = (simulate(varied, HERE, rollouts=3000, seed=1) for _ in range(2))
    assert first == again
    assert first.env_steps_per_second == pytest.approx(1000, rel=0.05)
    assert simulate(varied, HERE, rollouts=3000, seed=2) != first


def test_no_simulation_exceeds_what_paper_allows():
    for nodes in (1, 10, 100):
        for updates in (0, 1):
            cluster = replace(ABROAD, nodes=nodes, updates_per_iteration=updates, rollouts_per_iteration=4)
            simulated = simulate(COSTS, cluster, rollouts=1500).env_steps_per_second
            allowed = min(limits(COSTS, cluster).values())
            assert 0.6 * allowed < simulated < 1.01 * allowed, (nodes, updates)


def test_from_how_many_nodes_on_something_is_the_limit():
    # a node's 4 workers make 4,000 env steps a second; the learner takes 10,000, a link of 1.02 GB/s 102,000
    assert nodes_until(COSTS, ABROAD, "learner") == 3
    faster = replace(ABROAD, bandwidth=1.02e9)
    assert nodes_until(COSTS, faster, "network, rollouts") == 26
    assert nodes_until(COSTS, faster, "network, rollouts", most=25) is None
    # weights: 25,000 env steps a second once every rollout has its own (n > R = 8): 7 nodes, still 4 MB x 7/8
    cluster = replace(ABROAD, rollouts_per_iteration=8)
    assert nodes_until(COSTS, cluster, "network, weights") == 8
    assert limits(COSTS, replace(cluster, nodes=7))["network, weights"] == pytest.approx(1e9 / 3.5e6 * 100)
