"""The update of asynchronous PPO."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Categorical, Independent, Normal

from unilab.algos.torch.appo.actor_critic import build_networks
from unilab.algos.torch.appo.config import APPOConfig
from unilab.algos.torch.appo.learner import APPOLearner, PackedSamples
from unilab.envs import EnvDims
from unilab.settings import parse

OBS, ACTIONS, CRITIC = 5, 2, 7


def build(critic_dim=0, obs_normalization=True, seed=0, num_actions=0, **settings):
    torch.manual_seed(seed)
    network = {"actor": [16, 16], "critic": [16], "init_noise_std": 0.8}
    config = parse(APPOConfig, {"network": network, "obs_normalization": obs_normalization})
    dims = EnvDims(OBS, 1 if num_actions else ACTIONS, critic_dim, num_actions)
    return APPOLearner(*build_networks(config, dims), **settings)


def random_rollout(steps=6, envs=5, critic_dim=0, seed=1, num_actions=0):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    rollout = {
        "obs": draw(steps, envs, OBS),
        "actions": draw(steps, envs, ACTIONS),
        "log_probs": -2 + 0.1 * draw(steps, envs),
        "rewards": draw(steps, envs),
        "dones": (draw(steps, envs) > 1.5).float(),
        "truncated": torch.zeros(steps, envs),
        "last_obs": draw(envs, OBS),
    }
    if num_actions:
        rollout["actions"] = torch.randint(num_actions, (steps, envs, 1), generator=generator).float()
    if critic_dim:
        rollout |= {"critic": draw(steps, envs, critic_dim), "last_critic": draw(envs, critic_dim)}
    return rollout


def prepared(learner, rollout):
    return learner._prepare(rollout, "critic" if "critic" in rollout else "obs")


def parameters(learner):
    return torch.cat([p.detach().flatten() for p in (*learner.actor.parameters(), *learner.critic.parameters())])


@settings(max_examples=60, deadline=None)
@given(rows=st.integers(1, 200), epochs=st.integers(1, 3), minibatches=st.integers(1, 9))
def test_every_row_is_in_exactly_one_minibatch_of_an_epoch(rows, epochs, minibatches):
    learner = build(num_learning_epochs=epochs, num_mini_batches=minibatches)
    parts = list(learner._minibatches(rows))
    per_epoch = min(minibatches, rows)
    assert len(parts) == epochs * per_epoch
    for epoch in range(epochs):
        mine = parts[epoch * per_epoch : (epoch + 1) * per_epoch]
        assert sorted(torch.cat(mine).tolist()) == list(range(rows))
        sizes = [len(part) for part in mine]
        assert min(sizes) >= 1
        assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("critic_dim", [0, CRITIC])
def test_threads_do_not_change_the_update(critic_dim):
    rollout = random_rollout(critic_dim=critic_dim)
    one, two = build(critic_dim), build(critic_dim, num_threads=2)
    metrics_one, metrics_two = one.update(rollout), two.update(rollout)
    torch.testing.assert_close(parameters(two), parameters(one), rtol=1e-4, atol=1e-5)
    assert metrics_two == pytest.approx(metrics_one, rel=1e-3, abs=1e-4)
    two.close()


@torch.no_grad()
def impact_loss_by_hand(learner, batch, behavior_log_probs):
    """The loss of IMPACT for one row at a time, with torch.distributions, in float64."""
    actor, critic = (copy.deepcopy(network).double() for network in (learner.actor, learner.critic))
    settings = learner.algorithm

    def distribution(outputs, actor):
        if actor.log_std is None:
            return Categorical(logits=outputs.double())
        return Independent(Normal(outputs.double(), actor.log_std.double().exp()), 1)

    total = 0.0
    for row in range(len(batch["obs"])):
        policy = distribution(actor.body(batch["obs"][row].double()), actor)
        target = distribution(batch["target_outputs"][row], learner.target_actor)
        action = batch["actions"][row].double()
        action = action if actor.log_std is not None else action[0]
        pi, pi_target = policy.log_prob(action), target.log_prob(action)
        behavior = behavior_log_probs[row].double()
        ratio = min(math.exp(behavior - pi_target), settings.behavior_ratio_clip) * math.exp(pi - behavior)
        clipped = min(max(ratio, 1 - settings.clip_param), 1 + settings.clip_param)
        advantage = float(batch["advantages"][row])
        policy_loss = -min(ratio * advantage, clipped * advantage)
        value = float(critic.body(batch["obs"][row].double()))
        old, goal = float(batch["values"][row]), float(batch["value_targets"][row])
        near = old + min(max(value - old, -settings.clip_param), settings.clip_param)
        value_loss = max((value - goal) ** 2, (near - goal) ** 2)
        total += policy_loss + settings.value_loss_coef * value_loss - settings.entropy_coef * float(policy.entropy())
    return total


@pytest.mark.parametrize("num_actions", [0, 4])
def test_the_loss_is_that_of_impact(num_actions):
    learner = build(entropy_coef=0.05, value_loss_coef=0.7, num_actions=num_actions)
    learner.update(random_rollout(num_actions=num_actions))  # so that learned and target policy could differ ...
    with torch.no_grad():
        for parameter in learner.target_actor.parameters():  # ... and do
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    rollout = random_rollout(seed=5, num_actions=num_actions)
    rollout["log_probs"] += torch.linspace(-3, 3, 30).view(6, 5)  # some ratios on each side of each clip
    batch = prepared(learner, rollout)
    losses, _ = learner.impact_loss(batch)
    assert losses.sum().item() == pytest.approx(
        impact_loss_by_hand(learner, batch, rollout["log_probs"].flatten()), rel=1e-4
    )


def test_target_network_follows_by_tau_at_its_frequency():
    learner = build(tau=0.25, target_update_freq=2, num_learning_epochs=1)
    start = [p.clone() for p in learner.target_actor.parameters()]
    learner.update(random_rollout(seed=1))
    for before, now in zip(start, learner.target_actor.parameters(), strict=True):
        assert torch.equal(before, now)
    learner.update(random_rollout(seed=2))
    for before, now, learned in zip(start, learner.target_actor.parameters(), learner.actor.parameters(), strict=True):
        torch.testing.assert_close(now, before + 0.25 * (learned - before))


def test_target_normalization_is_always_the_learned_one():
    learner = build(target_update_freq=1000)
    learner.update(random_rollout())
    for learned, target in zip(learner.actor.buffers(), learner.target_actor.buffers(), strict=True):
        assert torch.equal(learned, target)
    assert learner.actor.normalizer.count.item() == 30


@pytest.mark.parametrize(("kl", "factor"), [(1.0, 1 / 1.1), (0.01, 1.0), (0.0, 1.1)])
def test_learning_rate_follows_kl(kl, factor):
    learner = build(schedule="adaptive", desired_kl=0.01, learning_rate=1e-3)
    learner._adapt_learning_rate(kl)
    assert learner.learning_rate == pytest.approx(1e-3 * factor)
    assert learner.optimizer.param_groups[0]["lr"] == learner.learning_rate


@pytest.mark.parametrize(("minibatches", "changes"), [(1, 0), (2, 1), (3, 2)])
def test_the_first_minibatch_says_nothing_of_the_learning_rate(minibatches, changes):
    settings = {"schedule": "adaptive", "desired_kl": 1e-12, "num_learning_epochs": 1, "num_mini_batches": minibatches}
    learner = build(learning_rate=1e-3, **settings)
    for iteration in (1, 2):
        learner.update(random_rollout(seed=iteration))
        assert learner.learning_rate == pytest.approx(1e-3 / 1.1 ** (iteration * changes))


def test_the_first_minibatch_counts_where_the_target_policy_is_an_older_one():
    settings = {"schedule": "adaptive", "desired_kl": 1e-12, "num_learning_epochs": 1, "num_mini_batches": 1}
    learner = build(learning_rate=1e-3, target_update_freq=2, **settings)
    rates = []
    for iteration in range(4):
        learner.update(random_rollout(seed=iteration))
        rates.append(learner.learning_rate)
    assert rates == pytest.approx([1e-3, 1e-3 / 1.1, 1e-3 / 1.1, 1e-3 / 1.21])


def test_fixed_schedule_keeps_the_learning_rate():
    learner = build(schedule="fixed", learning_rate=2e-3)
    learner.update(random_rollout())
    assert learner.learning_rate == 2e-3


def test_gradients_are_clipped():
    learner = build(max_grad_norm=1e-3)
    trained = [*learner.actor.parameters(), *learner.critic.parameters()]
    for parameter in trained:
        parameter.grad = torch.full_like(parameter, 5.0)
    learner._step()
    norm = torch.cat([parameter.grad.flatten() for parameter in trained]).norm()
    assert norm.item() == pytest.approx(1e-3, rel=1e-3)


def test_lambda_is_used():
    rollout = random_rollout()
    short, long = prepared(build(lam=0.0), rollout), prepared(build(lam=1.0), rollout)
    assert not torch.allclose(short["value_targets"], long["value_targets"])


def test_without_correction_returns_do_not_depend_on_who_acted():
    rollout = random_rollout()
    other = rollout | {"log_probs": rollout["log_probs"] + 0.3}
    for correction, alike in (("none", True), ("vtrace", False)):
        learners = [build(off_policy_correction=correction) for _ in range(2)]
        first, second = (prepared(*pair)["value_targets"] for pair in zip(learners, (rollout, other), strict=True))
        assert torch.equal(first, second) is alike
    acted = learners[0].target_actor  # where the target policy acted itself, V-trace's returns are those of GAE
    with torch.no_grad():
        own = rollout | {"log_probs": acted(rollout["obs"].flatten(0, 1)).log_prob(rollout["actions"].flatten(0, 1))}
    own["log_probs"] = own["log_probs"].view(rollout["rewards"].shape)
    targets = [prepared(build(off_policy_correction=one), own)["value_targets"] for one in ("none", "vtrace")]
    torch.testing.assert_close(*targets)


def test_bfloat16_is_near_float32_and_keeps_float32_parameters():
    rollout = random_rollout(steps=32, envs=16)
    wide, narrow = build(num_learning_epochs=1), build(num_learning_epochs=1, dtype="bfloat16")
    metrics_wide, metrics_narrow = wide.update(rollout), narrow.update(rollout)
    assert parameters(narrow).dtype == torch.float32
    assert metrics_narrow["value_loss"] == pytest.approx(metrics_wide["value_loss"], rel=0.05)
    assert metrics_narrow["value_loss"] != metrics_wide["value_loss"]


def test_a_reward_that_is_not_finite_stops_the_update_and_spares_the_parameters():
    learner = build()
    rollout = random_rollout()
    before = parameters(learner).clone()
    rollout["rewards"][2, 1] = math.nan
    with pytest.raises(FloatingPointError, match="not finite"):
        learner.update(rollout)
    assert torch.equal(parameters(learner), before)


def test_what_on_minibatch_raises_ends_the_update():
    learner = build()
    calls = []

    def stop_at_third():
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learner.update(random_rollout(), on_minibatch=stop_at_third)
    assert len(calls) == 3


def test_on_epoch_is_called_between_the_passes():
    learner = build(num_learning_epochs=3, num_mini_batches=2)
    calls = []
    learner.update(random_rollout(), on_minibatch=lambda: calls.append("step"), on_epoch=lambda: calls.append("pass"))
    assert calls == ["step", "step", "pass", "step", "step", "pass", "step", "step"]
    few, calls = build(num_learning_epochs=2, num_mini_batches=1000), []
    few.update(random_rollout(), on_epoch=lambda: calls.append("pass"))
    assert calls == ["pass"], "a minibatch has one row at least"


def test_unknown_setting_names_the_nearest():
    with pytest.raises(TypeError, match="did you mean 'clip_param'"):
        build(clip_parm=0.1)


def learn(learner, reward, iterations=150):
    """Updates from one-step episodes of random observations [8, 32, O], rewarded by ``reward(obs, actions)``."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(iterations):
        obs = torch.randn(8, 32, OBS, generator=generator)
        with torch.no_grad():
            policy = learner.actor(obs)
            actions, log_probs = policy.sample_with_log_prob(policy.noise(generator))
        fields = {"obs": obs, "actions": actions, "log_probs": log_probs, "rewards": reward(obs, actions)}
        learner.update(fields | {"dones": torch.ones(8, 32), "last_obs": obs[-1]})
    return torch.randn(256, OBS, generator=generator)


SIMPLE = {"learning_rate": 5e-3, "entropy_coef": 0.0, "gamma": 0.0, "num_mini_batches": 2}


def test_learns_a_simple_task():
    """One step, reward -(action - observation)^2: the policy must learn the identity."""
    learner = build(**SIMPLE)
    test = learn(learner, lambda obs, actions: -(actions - obs[..., :ACTIONS]).square().sum(-1))
    assert (learner.actor(test).mode - test[:, :ACTIONS]).square().mean().item() < 0.1


def test_learns_values_of_thousands():
    """One step, reward 5,000 + 1,000 x: the critic explains it, whatever the unit of the reward."""
    learner = build(**SIMPLE)
    test = learn(learner, lambda obs, actions: 5000 + 1000 * obs[..., 0], iterations=60)
    with torch.no_grad():
        errors = learner.critic(test) - (5000 + 1000 * test[:, 0])
    assert errors.square().mean().sqrt().item() < 100


def test_samples_have_one_row_a_step_and_environment():
    batch = prepared(build(), random_rollout(steps=4, envs=3))
    assert {len(rows) for rows in batch.values()} == {12}
    assert batch["advantages"].mean().item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("critic_dim", [0, CRITIC])
def test_packed_samples_are_the_samples(critic_dim):
    samples = prepared(build(critic_dim), random_rollout(critic_dim=critic_dim))
    assert ("critic_obs" in samples) == (critic_dim > 0)
    rows = torch.tensor([3, 0, 17, 3])
    taken = PackedSamples(samples).take(rows)
    for name in samples:
        assert torch.equal(taken[name], samples[name][rows]), name


def test_what_earlier_versions_saved_is_refused():
    learner = build()
    flat, unscaled = copy.deepcopy(learner.state_dict()), copy.deepcopy(learner.state_dict())
    flat["optimizer"]["param_groups"][0]["params"] = [0]  # one tensor with all parameters
    del unscaled["critic"]["scale.mean"]
    for state in (flat, unscaled):
        with pytest.raises(ValueError, match="moments or the critic's scale are missing"):
            learner.load_state_dict(state)
