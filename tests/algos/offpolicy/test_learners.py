"""SAC and TD3: their updates against another text of the papers, targets of known value, determinism, exact resume."""

import copy
import io

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests.algos.offpolicy.reference import Reference
from unilab.algos.torch.offpolicy import learner as learner_module
from unilab.algos.torch.offpolicy.config import CONFIGS
from unilab.algos.torch.offpolicy.learner import PASS_ROWS, divide
from unilab.algos.torch.offpolicy.sac import SAC
from unilab.algos.torch.offpolicy.td3 import TD3
from unilab.settings import SettingsError, parse

OBS, ACTIONS, BATCH = 5, 2, 32
CLASSES = {"sac": SAC, "td3": TD3}


def make(algorithm, critic_dim=0, **changes):
    settings = {
        "batch_size": BATCH,
        "learner_threads": 1,
        "network": {"actor": [16, 8], "critic": [12, 16]},
        "algorithm.actor_learning_rate": 1e-2,
        "algorithm.critic_learning_rate": 1e-2,
        **changes,
    }
    config = parse(CONFIGS[algorithm], settings)
    return CLASSES[algorithm](config, OBS, ACTIONS, critic_dim)


def make_batch(seed=0, critic_dim=0, steps=False):
    """Random transitions, packed as the replay buffer packs them, with ends of every kind."""
    generator = torch.Generator().manual_seed(seed)
    width = 2 * OBS + ACTIONS + 3
    packed = torch.randn(BATCH, width, generator=generator)
    batch = {"obs": packed[:, :OBS], "actions": packed[:, OBS : OBS + ACTIONS].tanh()}
    batch |= {"rewards": packed[:, 7], "next_obs": packed[:, 10:]}
    ends = torch.randint(4, (BATCH,), generator=generator)
    batch["dones"], batch["truncated"] = (ends >= 2).float(), (ends == 3).float()
    if critic_dim:
        batch["critic"], batch["next_critic"] = torch.randn(2, BATCH, critic_dim, generator=generator)
    if steps:
        batch["steps"] = torch.randint(1, 4, (BATCH,), generator=generator).float()
    return batch


def noise_of(learner):
    """What the learner's next update will draw."""
    generator = torch.Generator()
    generator.set_state(learner._generator.get_state())
    return torch.randn(2, BATCH, ACTIONS, generator=generator)


def parameters(*modules):
    return torch.cat([parameter.detach().flatten() for module in modules for parameter in module.parameters()])


@pytest.fixture(params=["one thread", "data-parallel", "data-parallel in parts", "inside operations"])
def threads(request, monkeypatch):
    """Threads of a learner, in each way to use them."""
    monkeypatch.setattr(learner_module, "DATA_PARALLEL_ROWS", 1 if "data-parallel" in request.param else 10**9)
    if "in parts" in request.param:
        monkeypatch.setattr(learner_module, "PASS_ROWS", 3)
    yield 1 if request.param == "one thread" else 3
    torch.set_num_threads(1)


VARIANTS = {
    "plain": {},
    "layer norm": {"network.layer_norm": True},
    "layer norm of the critics": {"network.layer_norm": "critics"},
    "mean of three critics": {"algorithm.num_critics": 3, "algorithm.target_reduction": "mean"},
    "distribution": {"algorithm.num_atoms": 11, "algorithm.value_min": -4.0, "algorithm.value_max": 4.0},
    "mean of distributions": {
        "algorithm.num_atoms": 11,
        "algorithm.value_min": -4.0,
        "algorithm.value_max": 4.0,
        "algorithm.target_reduction": "mean",
    },
    "rare actor updates": {"algorithm.policy_frequency": 3},
    "one hidden layer": {"network": {"actor": [16], "critic": [12], "layer_norm": True}},
    "fixed temperature": {"algorithm.auto_alpha": False, "algorithm.init_alpha": 0.3},
    "one critic": {"algorithm.num_critics": 1},
    "weight decay": {"algorithm.critic_weight_decay": 5.0},
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("algorithm", ["sac", "td3"])
def test_updates_are_those_of_the_papers(algorithm, variant, threads):
    if algorithm == "td3" and variant == "fixed temperature":
        pytest.skip("TD3 has no temperature")
    learner = make(algorithm, **{"learner_threads": threads, "algorithm.policy_frequency": 2, **VARIANTS[variant]})
    check_against_reference(learner, [make_batch(seed) for seed in range(6)])


@pytest.mark.parametrize("algorithm", ["sac", "td3"])
@pytest.mark.parametrize(("chosen", "of"), [(False, (0, 0)), ("critics", (0, 2)), (True, (2, 2))])
def test_layer_normalization_is_of_what_was_chosen(algorithm, chosen, of):
    learner = make(algorithm, **{"network.layer_norm": chosen})
    in_actor = sum(isinstance(module, nn.LayerNorm) for module in learner.actor.modules())
    assert (in_actor, len(learner.critics.body.scales)) == of


@pytest.mark.parametrize("algorithm", ["sac", "td3"])
def test_updates_with_privileged_critics_and_n_step_rows_are_those_of_the_papers(algorithm):
    learner = make(algorithm, critic_dim=4, **{"algorithm.n_step": 3, "learner_threads": 2})
    check_against_reference(learner, [make_batch(seed, critic_dim=4, steps=True) for seed in range(4)])


@pytest.mark.parametrize("algorithm", ["sac", "td3"])
def test_updates_with_normalized_observations_are_those_of_the_papers(algorithm):
    learner = make(algorithm, obs_normalization=True)
    learner.update_normalizers(torch.randn(100, OBS) * 3 + 1)
    check_against_reference(learner, [make_batch(seed) for seed in range(4)])


def check_against_reference(learner, batches):
    reference = Reference(learner, ACTIONS)
    untrained = parameters(learner.actor.body, learner.critics.body)
    for batch in batches:
        noise = noise_of(learner)
        learner.update(batch)
        reference.update(batch, noise)
    learner.close()
    # Adam divides by the gradient's size, so rounding shows where a gradient is nearly zero; hence not closer.
    close = {"rtol": 1e-3, "atol": 2e-4}
    torch.testing.assert_close(parameters(learner.actor.body), parameters(reference.actor.body), **close)
    torch.testing.assert_close(parameters(learner.critics.body), parameters(reference.critics.body), **close)
    torch.testing.assert_close(parameters(learner.target_critics.body), parameters(reference.target_critics.body))
    if isinstance(learner, SAC):
        torch.testing.assert_close(learner.log_alpha, reference.log_alpha)
    else:
        torch.testing.assert_close(parameters(learner.target_actor.body), parameters(reference.target_actor.body))
    moved = (parameters(learner.actor.body, learner.critics.body) - untrained).abs()
    assert moved.mean() > 1e-2  # or the comparison above would say nothing


@given(batch_size=st.integers(1, 40_000), threads=st.integers(1, 9))
def test_every_row_is_in_one_part(batch_size, threads):
    divided = divide(parse(CONFIGS["sac"], {"batch_size": batch_size}), threads)
    parts = [rows for parts in divided for rows in parts]
    assert [row for rows in parts for row in range(batch_size)[rows]] == list(range(batch_size))
    sizes = [rows.stop - rows.start for rows in parts]
    assert len(divided) in (1, threads)
    assert max(sizes) <= PASS_ROWS * (threads if len(divided) == 1 else 1)
    for own in divided:
        lengths = [rows.stop - rows.start for rows in own]
        assert lengths[0] == max(lengths)  # memory that all of them share is allocated for the first
        assert max(lengths) - min(lengths) <= 1


def _sure(learner, value):
    """Make every target critic say ``value`` whatever it sees."""
    for parameter in learner.target_critics.parameters():
        parameter.data.zero_()
    learner.target_critics.body.biases[-1].data.fill_(value)


def targets_of(learner, batch):
    """The values [B], none of them negative, that critics which say 0 shall learn: by their loss."""
    for parameter in learner.critics.parameters():
        parameter.data.zero_()
    losses, _ = learner.critic_loss(learner.prepared(batch))
    return (2 * losses.detach() / learner.config.algorithm.num_critics).sqrt()


@pytest.mark.parametrize("algorithm", ["sac", "td3"])
def test_termination_stops_the_return_and_truncation_does_not(algorithm):
    """A chain with rewards 1, 2, 3 and a value of 10 behind it; gamma 0.5, returns of up to two steps."""
    changes = {"algorithm.gamma": 0.5, "algorithm.n_step": 2}
    if algorithm == "sac":
        changes |= {"algorithm.init_alpha": 1e-12}  # no entropy bonus: the values are those of the chain
    learner = make(algorithm, **changes)
    _sure(learner, 10.0)
    batch = make_batch(steps=True) | {"rewards": torch.zeros(BATCH)}
    rows = {
        # reward already summed over its steps, steps, done, truncated -> target
        "goes on, two steps: 1 + 0.5 * 2 + 0.25 * 10": (2.0, 2, 0, 0, 4.5),
        "goes on, one step: 2 + 0.5 * 10": (2.0, 1, 0, 0, 7.0),
        "truncated after two steps": (2.0, 2, 1, 1, 4.5),
        "truncated after one step": (3.0, 1, 1, 1, 8.0),
        "terminated after two steps": (3.5, 2, 1, 0, 3.5),
        "terminated after one step": (3.0, 1, 1, 0, 3.0),
    }
    for row, (reward, steps, done, truncated, _) in enumerate(rows.values()):
        batch["rewards"][row], batch["steps"][row] = reward, steps
        batch["dones"][row], batch["truncated"][row] = done, truncated
    targets = targets_of(learner, batch)[: len(rows)]
    torch.testing.assert_close(targets, torch.tensor([row[-1] for row in rows.values()]))


def test_clipped_double_q_takes_the_lower_target_and_the_average_the_mean():
    for reduction, expected in (("min", 2.0), ("mean", 3.0)):
        learner = make("td3", **{"algorithm.target_reduction": reduction, "algorithm.gamma": 1.0})
        _sure(learner, 2.0)
        learner.target_critics.body.biases[-1].data[1].fill_(4.0)
        batch = make_batch() | {"rewards": torch.zeros(BATCH), "dones": torch.zeros(BATCH)}
        torch.testing.assert_close(targets_of(learner, batch), torch.full((BATCH,), expected))


@pytest.mark.parametrize("algorithm", ["sac", "td3"])
def test_rewards_are_learned_from_times_their_scale(algorithm):
    scaled, plain = make(algorithm, **{"algorithm.reward_scale": 0.25}), make(algorithm)
    for seed in range(3):
        batch = make_batch(seed)
        scaled.update(batch)
        plain.update(batch | {"rewards": 0.25 * batch["rewards"]})
    assert torch.equal(parameters(scaled.actor, scaled.critics), parameters(plain.actor, plain.critics))


@pytest.mark.parametrize("algorithm", ["sac", "td3"])
def test_decay_takes_off_weights_of_the_critics_where_there_is_no_gradient(algorithm):
    changes = {"algorithm.critic_weight_decay": 0.5, "algorithm.num_critics": 1, "algorithm.policy_frequency": 2}
    learner = make(algorithm, **changes)
    batch = make_batch() | {"dones": torch.ones(BATCH), "truncated": torch.zeros(BATCH)}
    batch["rewards"] = learner.critics(batch["obs"], batch["actions"]).detach()[0, :, 0]  # they are right already
    critics, actor = parameters(learner.critics), parameters(learner.actor)
    learner.update(batch)
    torch.testing.assert_close(parameters(learner.critics), critics * (1 - 1e-2 * 0.5))
    assert torch.equal(parameters(learner.actor), actor)


@pytest.mark.parametrize("algorithm", ["sac", "td3"])
@pytest.mark.parametrize("steps", [False, True], ids=["single steps", "several"])
def test_what_is_learned_with_rewards_that_are_followed_does_not_depend_on_their_size(algorithm, steps):
    small, large = (make(algorithm, **{"algorithm.reward_scale": "auto"}) for _ in range(2))
    for seed in range(4):
        batch = make_batch(seed, steps=steps)
        small.update(batch)
        large.update(batch | {"rewards": 1024 * batch["rewards"]})  # a power of two: the very same bits
    assert torch.equal(parameters(small.actor, small.critics), parameters(large.actor, large.critics))
    assert small.metrics()["reward_scale"] == 1024 * large.metrics()["reward_scale"]


def test_a_constant_reward_that_is_followed_is_a_return_of_one():
    learner = make("td3", **{"algorithm.reward_scale": "auto", "algorithm.gamma": 0.5})
    batch = make_batch(steps=True)
    learner.update(batch | {"rewards": torch.zeros(BATCH)})  # says nothing
    rewards = -4 * (2 - 0.5 ** (batch["steps"] - 1))  # of -4 in each of its steps, discounted
    for _ in range(3):
        learner.update(batch | {"rewards": rewards})
        assert learner.metrics()["reward_scale"] == pytest.approx(0.5 / 4)
    torch.testing.assert_close(learner.prepared(batch | {"rewards": rewards})["rewards"], rewards / 8)
    for _ in range(400):
        learner.prepared(batch | {"rewards": 3 * rewards})
    assert learner.metrics()["reward_scale"] == pytest.approx(0.5 / 12, rel=0.02)


@pytest.mark.parametrize("algorithm", ["sac", "td3"])
def test_same_seed_same_bits_and_resume_goes_on_with_them(algorithm, threads):
    batches = [make_batch(seed) for seed in range(6)]
    changes = {"learner_threads": threads, "algorithm.reward_scale": "auto"}
    through = make(algorithm, **changes)
    for batch in batches:
        through.update(batch)

    half = make(algorithm, **changes)
    for batch in batches[:3]:
        half.update(batch)
    file = io.BytesIO()
    torch.save(half.state_dict(), file)
    file.seek(0)
    resumed = make(algorithm, seed=99, **changes)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for batch in batches[3:]:
        resumed.update(batch)
    assert torch.equal(parameters(through.actor, through.critics), parameters(resumed.actor, resumed.critics))
    assert torch.equal(parameters(through.target_critics), parameters(resumed.target_critics))
    assert resumed.updates == 6 and resumed.metrics() == through.metrics()


@pytest.mark.parametrize("algorithm", ["sac", "td3"])
def test_bfloat16_computes_nearly_the_same_gradient(algorithm):
    gradients = []
    for dtype in ("float32", "bfloat16"):
        learner = make(algorithm, learner_dtype=dtype, **{"algorithm.policy_frequency": 1})
        learner.update(make_batch())
        trained = [*learner.actor.parameters(), *learner.critics.parameters()]
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in trained]))
        assert {gradient.dtype for gradient in gradients} == {torch.float32}
    precise, coarse = gradients
    assert torch.nn.functional.cosine_similarity(precise, coarse, dim=0) > 0.995
    assert 0 < (precise - coarse).norm() < 0.1 * precise.norm()


def test_a_value_that_is_not_finite_is_named():
    learner = make("sac")
    batch = make_batch()
    batch["rewards"][3] = float("inf")
    learner.update(batch)
    with pytest.raises(FloatingPointError, match="critic_loss is inf after update 1"):
        learner.metrics()


def test_metrics_are_means_over_the_batch():
    learner = make("sac", learner_threads=2)
    batch = make_batch()
    values = learner.critics(batch["obs"], batch["actions"]).detach().mean()
    learner.update(batch)
    metrics = learner.metrics()
    assert metrics["value_mean"] == pytest.approx(float(values), rel=1e-4)
    assert metrics["alpha"] == pytest.approx(float(learner.alpha), rel=1e-6)
    assert set(metrics) == set(SAC.STATISTICS)


def test_the_temperature_never_exceeds_its_bound():
    """The policy is less random than wanted, so that it would rise."""
    rising = {"target_entropy_scale": -5.0, "init_alpha": 0.5, "alpha_learning_rate": 1e-2, "policy_frequency": 1}
    rising = {f"algorithm.{name}": value for name, value in rising.items()}
    free, bounded = make("sac", **rising), make("sac", **rising, **{"algorithm.max_alpha": 0.505})
    for seed in range(3):
        for learner in (free, bounded):
            learner.update(make_batch(seed))
        assert float(bounded.alpha) <= 0.505 * (1 + 1e-6)
    assert float(bounded.alpha) == pytest.approx(0.505)
    bounded.load_state_dict(copy.deepcopy(free.state_dict()))
    assert float(free.alpha) > 0.51
    assert float(bounded.alpha) == pytest.approx(0.505)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"num_atoms": 5, "value_min": 1.0, "value_max": 1.0},
            r"value_min: is 1\.0; it must be below value_max, 1\.0",
        ),
        ({"reward_scale": "auto", "gamma": 1.0}, "reward_scale: 'auto' needs algorithm.gamma below 1"),
        ({"reward_scale": "automatic"}, "reward_scale: Input should be"),
        ({"init_alpha": 0.2, "max_alpha": 0.1}, r"max_alpha: 0\.1 is below the first temperature: lower"),
    ],
)
def test_what_does_not_go_together_is_refused(changes, message):
    with pytest.raises(SettingsError, match=rf"^algorithm\.{message}"):
        make("sac", **{f"algorithm.{name}": value for name, value in changes.items()})


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["sac", "td3"])
def test_a_compiled_update_is_that_of_the_papers(algorithm):
    learner = make(algorithm, learner_threads=2, **{"algorithm.enable_compile": True})
    check_against_reference(learner, [make_batch(seed) for seed in range(6)])


class TwoStreams(nn.Module):
    """A user's own network: two streams whose sum is the output."""

    def __init__(self, input_dim, output_dim, width):
        super().__init__()
        self.linear = nn.Linear(input_dim, output_dim)
        self.curved = nn.Sequential(nn.Linear(input_dim, width), nn.SiLU(), nn.Linear(width, output_dim))

    def forward(self, rows):
        return self.linear(rows) + self.curved(rows)


OWN = {"factory": f"{__name__}:TwoStreams", "width": 16}


@pytest.mark.parametrize("variant", ["plain", "distribution"])
@pytest.mark.parametrize("algorithm", ["sac", "td3"])
def test_networks_of_a_users_factory_learn_as_the_papers_say(algorithm, variant, threads):
    own = {"network": {"actor": OWN, "critic": OWN}, "learner_threads": threads}
    learner = make(algorithm, **{**VARIANTS[variant], **own})
    assert isinstance(learner.actor.body, TwoStreams)
    assert [type(critic) for critic in learner.critics.body] == [TwoStreams, TwoStreams]
    check_against_reference(learner, [make_batch(seed) for seed in range(6)])


def test_a_factory_of_the_critics_alone_leaves_the_actor_built_in():
    learner = make("sac", **{"network": {"actor": [16], "critic": OWN}})
    learner.update(make_batch())
    assert all(torch.isfinite(torch.tensor(list(learner.metrics().values()))))
    assert isinstance(learner.critics.body[0], TwoStreams)
