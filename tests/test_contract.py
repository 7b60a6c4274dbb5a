"""What the public names mean, beyond their signatures: the contract's text, one class a name."""

import csv
import gc
import logging
import queue
import select
import sys
import types

import numpy as np
import pytest
import torch

from unilab.algos.torch.appo.actor_critic import build_networks
from unilab.algos.torch.appo.config import APPOConfig
from unilab.algos.torch.appo.learner import APPOLearner
from unilab.algos.torch.appo.runner import APPORunner
from unilab.algos.torch.appo.worker import compute_timeout_bootstrap_correction, put_latest_metrics
from unilab.algos.torch.offpolicy import runner as off_policy
from unilab.algos.torch.offpolicy.config import SACAlgorithmConfig, SACConfig, TD3Config, WorkersConfig
from unilab.algos.torch.offpolicy.runner import (
    OffPolicyRunner,
    build_reward_comparison_metrics,
    replay_buffer_ready_for_learning,
)
from unilab.algos.torch.offpolicy.sac import SAC
from unilab.envs import EnvDims
from unilab.ipc import ReplayBuffer, RolloutRingBuffer, SharedObsNormStats, SharedWeightSync
from unilab.settings import SettingsError, parse

COUNTING = "tests.algos.appo.counting_env:CountingEnv"
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
IN_THIS_PROCESS = {
    "num_envs": 4,
    "batch_size": 16,
    "learning_starts": 6,
    "updates_per_step": 1,
    "replay_capacity": 100,
    "network": {"actor": [8], "critic": [8]},
    "env_threads": 1,
    "learner_threads": 1,
    "workers.kind": "sequential",
}


def off_policy_runner(**changes):
    return OffPolicyRunner.from_config(parse(TD3Config, {"env": COUNTING, **IN_THIS_PROCESS, **changes}))


class TestSharedObsNormStats:
    """``put`` takes a pair (mean, std) or a dict and never blocks; ``get`` returns what was put, once."""

    def test_a_pair_of_arrays(self, stats):
        stats.put((np.array([1.0, 2.0]), np.array([0.5, 0.25])))
        mean, std = stats.get()
        assert (mean.tolist(), std.tolist()) == ([1, 2], [0.5, 0.25])
        assert stats.get() is None

    def test_a_pair_of_tensors_without_what_they_are_part_of(self, stats):
        everything = torch.ones(1_000_000, requires_grad=True)  # more than the mailbox holds
        stats.put((everything[:3], everything[3:6]))
        mean, std = stats.get()
        assert torch.equal(mean, torch.ones(3)) and torch.equal(std, torch.ones(3))
        assert not mean.requires_grad

    def test_a_dict(self, stats):
        stats.put({"mean": torch.tensor([1.0]), "nested": {"count": 3, "std": np.array([2.0])}})
        got = stats.get()
        assert got["mean"].tolist() == [1]
        assert (got["nested"]["count"], got["nested"]["std"].tolist()) == (3, [2])

    def test_nobody_needs_to_read(self, stats):
        for count in range(1000):
            stats.put((count, 0))
        assert stats.get() == (999, 0)

    @pytest.fixture
    def stats(self):
        shared = SharedObsNormStats(None)
        yield shared
        shared.cleanup()


class TestSharedWeightSync:
    """``from_state_dict(state_dict)`` holds the values of ``state_dict`` from then on."""

    def test_a_reader_gets_the_values_at_once(self):
        given = {"weight": torch.arange(6.0).view(2, 3), "steps": torch.tensor(7)}
        sync = SharedWeightSync.from_state_dict(given)
        reader = SharedWeightSync(sync.param_shapes, create=False, shm_name=sync.name)
        read = {name: torch.zeros_like(value) for name, value in given.items()}
        assert reader.read_weights_into(read) == reader.version == 1
        assert all(torch.equal(read[name], given[name]) for name in given)
        reader.close()
        sync.cleanup()

    def test_attaching_publishes_nothing(self):
        sync = SharedWeightSync.from_state_dict({"weight": torch.ones(2)})
        like = {"weight": torch.zeros(2)}
        reader = SharedWeightSync.from_state_dict(like, create=False, shm_name=sync.name)
        assert reader.read_weights_into(like) == 1
        assert like["weight"].tolist() == [1, 1]
        reader.close()
        sync.cleanup()


class TestAPPOLearnerWeights:
    """``get_weights()`` is the actor's flat state dict; the critic's weights have a name of their own."""

    @pytest.mark.parametrize("network", ["actor", "critic"])
    def test_weights_and_normalizer_reach_another_network_through_shared_memory(self, network):
        learner, other = appo_learner(seed=0), appo_learner(seed=1)
        learner.actor.normalizer.update(torch.randn(50, 5) + 3)
        learner.critic.normalizer.update(torch.randn(50, 5) + 3)
        weights = learner.get_weights() if network == "actor" else learner.get_critic_weights()
        sync = SharedWeightSync.from_state_dict(weights)
        theirs = getattr(other, network)
        sync.read_weights_into(theirs.state_dict())
        obs = torch.randn(4, 5)
        ours = getattr(learner, network)
        assert torch.equal(theirs.body(theirs.normalizer(obs)), ours.body(ours.normalizer(obs)))
        assert any(name.startswith("normalizer.") for name in weights)
        sync.cleanup()


def appo_learner(seed):
    torch.manual_seed(seed)
    config = parse(APPOConfig, {"network.actor": [8], "network.critic": [8]})
    return APPOLearner(*build_networks(config, EnvDims(5, 2, 0)))


class TestTimeoutBootstrapCorrection:
    """``compute_timeout_bootstrap_correction`` takes arrays or tensors and returns an array."""

    @pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor], ids=["arrays", "tensors"])
    @pytest.mark.parametrize("privileged", [False, True])
    def test_gamma_times_v_where_a_time_limit_cut_off(self, kind, privileged):
        mask, obs = kind(np.array([True, False, True])), kind(np.array([[1.0], [2.0], [3.0]]))
        final_critic = kind(np.array([[10.0], [20.0], [30.0]])) if privileged else None
        correction = compute_timeout_bootstrap_correction(lambda seen: seen.sum(1), "cpu", 0.5, mask, obs, final_critic)
        assert isinstance(correction, np.ndarray) and correction.dtype == np.float32
        assert correction.tolist() == ([5, 0, 15] if privileged else [0.5, 0, 1.5])

    def test_without_a_time_out_it_is_zero(self):
        none = np.zeros(3, bool)
        assert compute_timeout_bootstrap_correction(None, "cpu", 0.5, none, np.ones((3, 1)), None).tolist() == [0, 0, 0]


class TestPutLatestMetrics:
    """``put_latest_metrics`` puts the message as it was given; ``worker_name`` is for what is logged."""

    def test_the_message_is_not_changed(self):
        channel, message = queue.Queue(), {"env_steps": 3}
        put_latest_metrics(channel, message, worker_name="collector 7")
        assert channel.get_nowait() is message
        assert message == {"env_steps": 3}

    def test_a_full_queue_gives_up_its_oldest_message_and_the_log_names_the_sender(self, caplog):
        channel = queue.Queue(maxsize=1)
        with caplog.at_level(logging.DEBUG):
            for step in (1, 2):
                put_latest_metrics(channel, {"step": step}, worker_name="collector 7")
        assert channel.get_nowait() == {"step": 2}
        assert [record.getMessage() for record in caplog.records] == [
            "collector 7: the queue for metrics is full; its oldest message is given up"
        ]


class TestReplayBuffer:
    """``sample`` keeps nothing on the device; ``defer_gpu`` and ``packed_cpu_storage`` are accepted without effect."""

    @pytest.mark.parametrize("options", [{}, {"defer_gpu": True}, {"packed_cpu_storage": True}], ids=str)
    @pytest.mark.parametrize("device", ["meta", pytest.param("cuda", marks=needs_cuda)])
    def test_no_copy_of_the_replay_is_on_the_device(self, device, options):
        replay = ReplayBuffer(1000, 3, 2, device, **options)
        replay.add(*transitions(20))
        batch = replay.sample(4)
        assert {value.device.type for value in batch.values()} == {device}
        del batch
        there = [thing for thing in gc.get_objects() if type(thing) is torch.Tensor and thing.device.type == device]
        assert not [tensor.shape for tensor in there if tensor.untyped_storage().nbytes() >= 1000]
        replay.cleanup()

    @pytest.mark.parametrize("options", [{"defer_gpu": True}, {"packed_cpu_storage": True}], ids=str)
    def test_the_options_change_no_batch(self, options):
        batches = []
        for given in ({}, options):
            replay = ReplayBuffer(1000, 3, 2, "cpu", seed=5, **given)
            replay.add(*transitions(20))
            batches.append(replay.sample(8))
            replay.cleanup()
        assert all(torch.equal(batches[0][name], batches[1][name]) for name in batches[0])


def transitions(rows):
    draw = np.random.default_rng(0).standard_normal
    return draw((rows, 3)), draw((rows, 2)), draw(rows), draw((rows, 3)), np.zeros(rows), np.zeros(rows)


class TestBuildRewardComparisonMetrics:
    """What the runner itself reports of returns, so that runs are compared by it."""

    def test_the_runner_reports_it_from_the_first_episode_on(self):
        seen = []
        runner = off_policy_runner(learning_starts=1, batch_size=8)  # 2 steps; no episode has less than 3
        runner.learn(6, log_dir=None, on_iteration=lambda progress: seen.append(progress) or True)
        assert "mean_ep100" not in seen[0].metrics
        assert seen[-1].metrics["mean_ep100"] == seen[-1].episode_return == pytest.approx(3.5, abs=0.5)

    def test_a_smoothed_value_does_not_decide(self):
        assert build_reward_comparison_metrics([1.0, 2.5], 99.0) == {"mean_ep100": 2.5}
        assert build_reward_comparison_metrics([], 99.0) == {}


class TestReplayBufferReadyForLearning:
    """What the runner itself asks before its first update."""

    def test_a_batch_and_the_first_steps_of_all_environments(self):
        sizes = {"batch_size": 256, "learning_starts": 100, "num_envs": 16}
        assert [replay_buffer_ready_for_learning(rows, **sizes) for rows in (1599, 1600)] == [False, True]
        sizes["learning_starts"] = 10
        assert [replay_buffer_ready_for_learning(rows, **sizes) for rows in (255, 256)] == [False, True]

    def test_the_runner_asks_it(self, monkeypatch):
        asked = []

        def ready(rows, **sizes):
            asked.append((rows, sizes))
            return rows >= 36

        monkeypatch.setattr(off_policy, "replay_buffer_ready_for_learning", ready)
        summary = off_policy_runner().learn(1, log_dir=None)
        assert summary.progress.env_steps == 36
        assert asked[-1] == (36, {"batch_size": 16, "learning_starts": 6, "num_envs": 4})


class TestLoggerType:
    """``learn(logger_type=...)`` of OffPolicyRunner chooses where metrics go."""

    def test_csv_is_a_table_with_a_row_for_each_iteration(self, tmp_path):
        off_policy_runner().learn(3, log_dir=tmp_path, logger_type="csv")
        with (tmp_path / "curve.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert [(row["iteration"], row["updates"], row["env_steps"]) for row in rows] == [
            ("1", "1", "24"),
            ("2", "2", "28"),
            ("3", "3", "32"),
        ]
        assert float(rows[-1]["episode_return"]) == pytest.approx(3.5)
        assert float(rows[-1]["critic_loss"]) > 0
        assert not list(tmp_path.glob("events*"))

    def test_a_resumed_run_goes_on_in_its_csv_from_the_checkpoint(self, tmp_path):
        off_policy_runner().learn(2, log_dir=tmp_path, logger_type="csv")
        checkpoint = (tmp_path / "checkpoint.pt").read_bytes()
        off_policy_runner().learn(5, log_dir=tmp_path, logger_type="csv", resume=tmp_path / "checkpoint.pt")
        (tmp_path / "checkpoint.pt").write_bytes(checkpoint)  # as if the run had been killed after iteration 5
        off_policy_runner().learn(4, log_dir=tmp_path, logger_type="csv", resume=tmp_path / "checkpoint.pt")
        with (tmp_path / "curve.csv").open() as file:
            assert [row["iteration"] for row in csv.DictReader(file)] == ["1", "2", "3", "4"]

    def test_wandb_is_used_where_it_is_installed(self, tmp_path, monkeypatch):
        rows, ended = [], []
        stand_in = types.ModuleType("wandb")  # the package writes to a server
        stand_in.init = lambda **arguments: types.SimpleNamespace(
            define_metric=lambda name, step_metric: None,
            log=rows.append,
            finish=lambda: ended.append(arguments),
        )
        monkeypatch.setitem(sys.modules, "wandb", stand_in)
        off_policy_runner().learn(2, log_dir=tmp_path, logger_type="wandb")
        assert [(row["iteration"], row["env_steps"]) for row in rows] == [(1, 24), (2, 28)]
        assert ended[0]["dir"] == str(tmp_path)
        assert ended[0]["config"]["batch_size"] == 16

    def test_wandb_where_it_is_not_installed_is_an_error(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "wandb", None)
        with pytest.raises(SettingsError, match="logger_type: wandb is not installed; run 'pip install wandb'"):
            off_policy_runner().learn(2, log_dir=tmp_path, logger_type="wandb")

    def test_anything_else_is_an_error(self):
        with pytest.raises(SettingsError, match="logger_type: unknown logger 'paper'; known: csv, tensorboard, wandb"):
            off_policy_runner().learn(1, log_dir=None, logger_type="paper")


class TestAttachSyncPrimitives:
    """``attach_sync_primitives(write_ptr, read_ptr)`` takes the creator's pair."""

    def test_with_the_pair_both_sides_wake_each_other(self):
        ring = RolloutRingBuffer(1, 1, 1, 1, num_slots=1)
        other = RolloutRingBuffer(1, 1, 1, 1, num_slots=1, create=False, shm_name_prefix=ring.name)
        other.attach_sync_primitives(*ring.sync_primitives)
        written, read = ring.sync_primitives
        other.signal_write_done()
        assert written.wait(0) is True and ring.wait_for_data(timeout=0)
        ring.advance_read()
        assert select.select([read], [], [], 0)[0] and other.wait_for_space(timeout=0)
        other.close()
        ring.cleanup()

    def test_its_documentation_says_how_another_process_gets_the_pair(self):
        text = RolloutRingBuffer.attach_sync_primitives.__doc__
        assert "write_ptr`` wakes the reader" in text
        assert "args=(ring.name, ring.sync_primitives)" in text


class TestWhoDecidesInAPPORunner:
    """An argument that is not its default, else ``rl_cfg``, else the default; two different values are an error."""

    def test_arguments_at_their_defaults_leave_it_to_rl_cfg(self):
        runner = APPORunner(COUNTING, None, {"num_envs": 64, "env_cfg": {"critic_dim": 2}})
        assert (runner.config.num_envs, runner.config.env_cfg) == (64, {"critic_dim": 2})
        assert (runner.num_envs, runner.env_cfg_overrides) == (64, {"critic_dim": 2})

    def test_arguments_decide_what_rl_cfg_does_not_say(self):
        runner = APPORunner(COUNTING, {"critic_dim": 2}, {"steps_per_env": 4}, num_envs=8)
        assert (runner.config.num_envs, runner.config.env_cfg, runner.config.steps_per_env) == (8, {"critic_dim": 2}, 4)

    def test_where_nobody_says_the_default_decides(self):
        assert APPORunner(COUNTING, None, {}).config.num_envs == 4096

    def test_the_same_value_twice_is_fine(self):
        assert APPORunner(COUNTING, {"critic_dim": 2}, {"env_cfg.critic_dim": 2}).config.env_cfg == {"critic_dim": 2}

    @pytest.mark.parametrize(
        ("arguments", "rl_cfg", "message"),
        [
            ({"num_envs": 8}, {"num_envs": 64}, "num_envs: the argument num_envs says 8, rl_cfg says 64"),
            ({"device": "cpu"}, {"learner_device": "cuda"}, "learner_device: the argument device says 'cpu', rl_cfg"),
            ({}, {"env": "Hopper"}, "env: the argument env_name says 'tests.*CountingEnv', rl_cfg says 'Hopper'"),
        ],
    )
    def test_two_values_that_differ_are_an_error_that_names_both(self, arguments, rl_cfg, message):
        with pytest.raises(SettingsError, match=message):
            APPORunner(COUNTING, None, rl_cfg, **arguments)

    def test_so_are_two_sets_of_overrides(self):
        with pytest.raises(
            SettingsError, match=r"env_cfg: .* says \{'critic_dim': 2\}, rl_cfg says \{'critic_dim': 3\}"
        ):
            APPORunner(COUNTING, {"critic_dim": 2}, {"env_cfg": {"critic_dim": 3}})


class TestWhoDecidesInOffPolicyRunner:
    """An argument that is not its default, or else ``rl_cfg``, or else the learner's configuration, or the default."""

    def test_a_learner_and_a_runner_both_at_their_defaults_work(self, sac):
        learner = sac(workers=WorkersConfig("sequential"))
        OffPolicyRunner(learner, COUNTING, "sac").learn(1, log_dir=None)
        assert learner.updates == SACConfig().updates_per_step

    def test_a_learner_keeps_what_it_was_built_with(self, sac):
        learner = sac(batch_size=32, algorithm=SACAlgorithmConfig(policy_frequency=3), sync_collection=False)
        config = OffPolicyRunner(learner, COUNTING, "sac").config
        assert (config.batch_size, config.algorithm.policy_frequency, config.sync_collection) == (32, 3, False)
        assert config.network == learner.config.network

    def test_arguments_and_rl_cfg_decide_what_the_learner_leaves_at_its_defaults(self, sac):
        config = OffPolicyRunner(sac(), COUNTING, "sac", 8, rl_cfg={"learning_starts": 50}).config
        assert (config.num_envs, config.learning_starts, config.replay_capacity) == (8, 50, 1_000_000)

    def test_arguments_at_their_defaults_leave_it_to_rl_cfg(self):
        rl_cfg = {"num_envs": 16, "batch_size": 64, "network.actor": [32], "algorithm": {"policy_frequency": 1}}
        config = OffPolicyRunner(None, COUNTING, "td3", rl_cfg=rl_cfg).config
        assert (config.num_envs, config.batch_size, config.algorithm.policy_frequency) == (16, 64, 1)
        assert (config.network.actor, config.network.critic) == ((32,), (512, 512))
        assert config.replay_capacity == 16 * 1024

    def test_where_nobody_says_the_defaults_decide(self):
        config = OffPolicyRunner(None, COUNTING, "td3", actor_hidden_dim=64).config
        assert (config.num_envs, config.batch_size, config.updates_per_step) == (4096, 8192, 8)
        assert (config.replay_capacity, config.algorithm.policy_frequency) == (4096 * 1024, 4)
        assert (config.network.actor, config.network.critic) == ((64, 64), (64, 64))
        assert (config.network.layer_norm, config.seed, config.learner_device) == (True, 0, "cpu")

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (
                {"batch_size": 64, "rl_cfg": {"batch_size": 32}},
                "batch_size: the argument batch_size says 64, rl_cfg says 32",
            ),
            (
                {"replay_buffer_n": 100, "num_envs": 4, "batch_size": 8, "rl_cfg": {"replay_capacity": 300}},
                "replay_capacity: the argument replay_buffer_n says 400, rl_cfg says 300",
            ),
            (
                {"actor_hidden_dim": 64, "actor_kwargs": {"actor": [32]}},
                r"network.actor: the argument actor_hidden_dim says \(64, 64\), the argument actor_kwargs .*32",
            ),
            (
                {"use_layer_norm": False, "rl_cfg": {"network": {"layer_norm": True}}},
                "network.layer_norm: the argument use_layer_norm says False, rl_cfg says True",
            ),
            ({"env_cfg_override": {"critic_dim": 2}, "rl_cfg": {"env_cfg.critic_dim": 3}}, "env_cfg: .*2.*3"),
        ],
    )
    def test_two_values_that_differ_are_an_error_that_names_both(self, arguments, message):
        with pytest.raises(SettingsError, match=message):
            OffPolicyRunner(None, COUNTING, "sac", **arguments)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"batch_size": 64}, "batch_size: the argument batch_size says 64, the learner's configuration says 128"),
            ({"rl_cfg": {"algorithm.gamma": 0.9}}, "algorithm.gamma: rl_cfg says 0.9, the learner's .* says 0.99"),
            ({"seed": 3}, "seed: the argument seed says 3, the learner's configuration says 1"),
        ],
    )
    def test_so_are_those_of_a_learner(self, arguments, message, sac):
        with pytest.raises(SettingsError, match=message):
            OffPolicyRunner(sac(seed=1), COUNTING, "sac", **arguments)

    def test_a_learner_of_another_algorithm_or_for_another_environment_is_an_error(self, sac):
        with pytest.raises(SettingsError, match="algo_type: is td3, and the learner's is sac"):
            OffPolicyRunner(sac(), COUNTING, "td3")
        with pytest.raises(SettingsError, match=r"env: the argument env_name says .*CountingEnv'.* says 'Hopper'"):
            OffPolicyRunner(sac(env="Hopper"), COUNTING, "sac")
        with pytest.raises(
            ValueError, match="for observation 1, action 1, critic 0; 'Hopper' has observation 11, action 3"
        ):
            OffPolicyRunner(sac(), "Hopper", "sac")

    @pytest.fixture
    def sac(self):
        """Makes learners for the environment of these tests."""
        learners = []

        def build(**settings):
            learners.append(SAC(SACConfig(**settings), 1, 1))
            return learners[-1]

        threads = torch.get_num_threads()
        yield build
        for learner in learners:
            learner.close()
        torch.set_num_threads(threads)
