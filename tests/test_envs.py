"""The environments against their definitions, gymnasium's conventions and brute-force simulation."""

import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import mujoco
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space, create_empty_array, iterate

import envs

IDS = ["Bandit-v0", "TabularMDP-v0", "Navigation2D-v0", "HalfCheetahVel-v0", "AntGoal-v0"]


def ks_uniform(samples, low, high):
    """Kolmogorov-Smirnov distance of samples from U[low, high]."""
    samples = np.sort(samples.ravel())
    grid = np.arange(1, len(samples) + 1) / len(samples)
    return np.abs(grid - (samples - low) / (high - low)).max()


def ks_limit(num):
    """The distance that samples of the right distribution exceed with probability below 1e-5."""
    return np.sqrt(np.log(2 / 1e-5) / (2 * num))  # the Dvoretzky-Kiefer-Wolfowitz bound


def chi_square_limit(degrees):
    """The sum of squares that `degrees` standard normals exceed with probability below 1e-5 (Laurent, Massart 2000)."""
    x = np.log(1 / 1e-5)
    return degrees + 2 * np.sqrt(degrees * x) + 2 * x


def random_actions(env, rng):
    space = env.single_action_space
    if isinstance(space, gym.spaces.Discrete):
        return rng.integers(0, space.n, env.num_envs)
    return rng.uniform(space.low, space.high, env.action_space.shape)


# ---------------------------------------------------------------------------------------------- the distributions


def test_bandit_tasks_and_rewards():
    env = envs.make("Bandit-v0", num_envs=5, num_arms=4)
    tasks = env.sample_tasks(20_000, np.random.default_rng(0))
    assert tasks.shape == (20_000, 4)
    assert ks_uniform(tasks, 0, 1) < ks_limit(tasks.size)
    means = np.array([[0.0, 0.25, 0.5, 1.0]] * 5)
    env.reset(seed=1, options={"tasks": means})
    for arm, mean in enumerate(means[0]):
        rewards = np.array([env.step(np.full(5, arm))[1] for _ in range(4000)])
        assert set(np.unique(rewards)) <= {0.0, 1.0}
        assert abs(rewards.mean() - mean) < 4.5 * np.sqrt(mean * (1 - mean) / rewards.size) + 1e-12


def test_bandit_regret_is_best_mean_minus_mean():
    env = envs.make("Bandit-v0", num_envs=100, num_arms=7)
    tasks = env.sample_tasks(100)
    env.reset(seed=0, options={"tasks": tasks})
    actions = np.arange(100) % 7
    regret = env.step(actions)[4]["regret"]
    for n in range(100):
        assert regret[n] == max(tasks[n]) - tasks[n][actions[n]] >= 0


def test_mdp_tasks():
    env = envs.make("TabularMDP-v0", num_states=6, num_actions=3)
    tasks = env.sample_tasks(5000, np.random.default_rng(0))
    transitions, rewards = tasks["transitions"], tasks["rewards"]
    assert transitions.shape == (5000, 6, 3, 6) and rewards.shape == (5000, 6, 3)
    np.testing.assert_allclose(transitions.sum(-1), 1)
    # Dirichlet(1, ..., 1) over S: each entry is Beta(1, S - 1), whose distribution function is 1 - (1 - x)^(S - 1)
    assert ks_uniform(1 - (1 - transitions[..., 2]) ** 5, 0, 1) < ks_limit(transitions[..., 2].size)
    np.testing.assert_allclose(np.cov(transitions[:, 0, 0].T)[0, 1], -1 / (6 * 6 * 7), atol=5e-4)
    assert abs(rewards.mean() - 1) < 4.5 / np.sqrt(rewards.size)
    assert abs(rewards.std() - 1) < 4.5 / np.sqrt(2 * rewards.size)


def test_mdp_transitions_and_rewards_follow_the_tables():
    num = 30_000
    env = envs.make("TabularMDP-v0", num_envs=num, num_states=5, num_actions=2, horizon=3)
    task = env.sample_tasks(1, np.random.default_rng(3))
    obs, _ = env.reset(seed=4, options={"tasks": np.repeat(task, num, axis=0)})
    assert (obs == 0).all()  # every episode starts in state 0
    for _ in range(2):
        actions = np.random.default_rng(5).integers(0, 2, num)
        next_obs, reward, *_ = env.step(actions)
        for s in np.unique(obs):
            for a in range(2):
                rows = (obs == s) & (actions == a)
                expected = rows.sum() * task["transitions"][0, s, a]
                counts = np.bincount(next_obs[rows], minlength=5)
                assert ((counts - expected) ** 2 / expected).sum() < chi_square_limit(4)
                noise = reward[rows] - task["rewards"][0, s, a]
                assert abs(noise.mean()) < 4.5 / np.sqrt(rows.sum())
                assert abs(noise.std() - 1) < 4.5 / np.sqrt(2 * rows.sum())
        obs = next_obs


def test_mdp_regret_against_recursion_by_hand():
    env = envs.make("TabularMDP-v0", num_envs=3, num_states=4, num_actions=3, horizon=5)
    tasks = env.sample_tasks(3, np.random.default_rng(0))
    obs, _ = env.reset(seed=0, options={"tasks": tasks})

    def q(task, steps_left, s, a):
        future = 0.0
        if steps_left > 1:
            future = sum(
                p * max(q(task, steps_left - 1, s2, b) for b in range(3))
                for s2, p in enumerate(task["transitions"][s, a])
            )
        return task["rewards"][s, a] + future

    rng = np.random.default_rng(1)
    for t in [*range(5), 0]:  # a whole episode and the first step of the next
        actions = rng.integers(0, 3, 3)
        next_obs, *_, info = env.step(actions)
        for n in range(3):
            values = [q(tasks[n], 5 - t, obs[n], b) for b in range(3)]
            np.testing.assert_allclose(info["regret"][n], max(values) - values[actions[n]], atol=1e-5)
        obs = next_obs
    assert (info["regret"] >= 0).all()


def test_expected_optimum():
    bandit = envs.make("Bandit-v0", num_arms=5)
    assert bandit.expected_optimum() == (5 / 6, 0.0)
    best = bandit.sample_tasks(100_000, np.random.default_rng(0)).max(axis=1)
    assert abs(best.mean() - 5 / 6) < 4.5 * best.std() / np.sqrt(100_000)
    mdp = envs.make("TabularMDP-v0")
    mean, stderr = mdp.expected_optimum(20_000)
    assert abs(mean - 21.83) < 0.1 and 0 < stderr < 0.05  # 218.3 for ten episodes: an informed planner's score


def test_optimal_policy_earns_the_optimum():
    """Monte Carlo return of a policy without regret equals V*, and summed regret explains any other policy's loss."""
    env = envs.make("TabularMDP-v0", num_envs=20_000)
    task = env.sample_tasks(1, np.random.default_rng(2))
    tasks = np.repeat(task, env.num_envs, axis=0)
    for greedy in (True, False):
        obs, _ = env.reset(seed=0, options={"tasks": tasks})
        returns = regrets = np.zeros(env.num_envs)
        rng = np.random.default_rng(0)
        value, table = envs.plan(task["transitions"], task["rewards"], 10)
        for t in range(10):
            actions = table[t, 0].argmin(axis=1)[obs] if greedy else rng.integers(0, 5, env.num_envs)
            obs, reward, _, _, info = env.step(actions)
            returns, regrets = returns + reward, regrets + info["regret"]
        if greedy:
            assert regrets.max() == 0
        error = returns + regrets - value[0]
        assert abs(error.mean()) < 4.5 * error.std() / np.sqrt(env.num_envs)


def test_navigation_tasks_dynamics_and_reward():
    env = envs.make("Navigation2D-v0", num_envs=50)
    tasks = env.sample_tasks(20_000, np.random.default_rng(0))
    assert tasks.shape == (20_000, 2) and ks_uniform(tasks, -0.5, 0.5) < ks_limit(tasks.size)
    goals = tasks[:50]
    obs, _ = env.reset(seed=0, options={"tasks": goals})
    assert obs.shape == (50, 2) and (obs == 0).all()
    position, rng = np.zeros((50, 2)), np.random.default_rng(1)
    for _ in range(20):
        actions = rng.normal(0, 0.1, (50, 2))  # beyond the limits now and then
        obs, reward, terminated, truncated, _ = env.step(actions)
        for n in range(50):
            position[n] += [min(max(a, -np.float32(0.1)), np.float32(0.1)) for a in actions[n]]
            gap = position[n] - goals[n]
            assert abs(reward[n] + (gap[0] ** 2 + gap[1] ** 2) ** 0.5) < 1e-6
            assert terminated[n] == (abs(gap[0]) < 0.01 and abs(gap[1]) < 0.01)
            if terminated[n]:
                position[n] = 0
        np.testing.assert_allclose(obs, position, atol=1e-6)
        assert not truncated.any()


# -------------------------------------------------------------------------------------------------- locomotion


def contact_forces(reference, action):
    """External forces on the bodies at the start of a step's last physics step, from MuJoCo itself."""
    model, data = reference.model, mujoco.MjData(reference.model)
    mujoco.mj_copyData(data, model, reference.data)
    data.ctrl[:] = action
    mujoco.mj_step(model, data, nstep=4)
    mujoco.mj_forward(model, data)
    mujoco.mj_rnePostConstraint(model, data)
    return data.cfrc_ext


@pytest.mark.parametrize("env_id", ["HalfCheetahDir-v0", "HalfCheetahVel-v0", "AntDir-v0", "AntVel-v0", "AntGoal-v0"])
def test_locomotion_equals_gymnasiums_simulation(env_id):
    """Observations, velocities and ends to the last bit, across automatic resets; rewards by their formulas."""
    ant = env_id.startswith("Ant")
    env = envs.make(env_id, 4, horizon=40)
    options = {"include_cfrc_ext_in_observation": False} if ant else {}
    references = [gym.make("Ant-v5" if ant else "HalfCheetah-v5", **options).unwrapped for _ in range(4)]
    obs, _ = env.reset(seed=1)

    def begin(i):  # gymnasium's reset, to the state that our environment drew
        references[i].reset()
        references[i].set_state(env._qpos[i].copy(), env._qvel[i].copy())
        assert (references[i]._get_obs() == obs[i]).all()
        assert np.abs(env._qpos[i] - references[i].init_qpos).max() <= 0.1 and np.abs(env._qvel[i]).max() < 0.6

    for i in range(4):
        begin(i)
    tasks, rng, terminations, truncations = env.tasks.copy(), np.random.default_rng(0), 0, 0
    for _ in range(300):
        actions = rng.uniform(-1.2, 1.2, (4, env.single_action_space.shape[0])).astype(np.float32)  # beyond the limits
        clipped = actions.clip(-1, 1)
        forces = [contact_forces(reference, action) for reference, action in zip(references, clipped, strict=True)]
        obs, rewards, terminated, truncated, info = env.step(actions)
        for i, reference in enumerate(references):
            expected, _, unhealthy, _, theirs = reference.step(clipped[i])
            ended = terminated[i] or truncated[i]
            assert (expected == (info["final_obs"][i] if ended else obs[i])).all()
            assert theirs["x_velocity"] == info["x_velocity"][i] and unhealthy == terminated[i]
            if env_id.endswith("Dir-v0"):
                reward = tasks[i] * theirs["x_velocity"]
            elif env_id.endswith("Vel-v0"):
                reward = ant - abs(theirs["x_velocity"] - tasks[i])
            else:
                reward = 4 - abs(reference.data.body("torso").xpos[:2] - tasks[i]).sum()
            reward -= (0.005 if ant else 0.05) * float(clipped[i].astype(float) @ clipped[i])
            if ant:
                reward += 0.05 - 0.0005 * (forces[i].clip(-1, 1) ** 2).sum()
            assert abs(rewards[i] - reward) < 1e-6
            if ended:
                begin(i)
        terminations, truncations = terminations + terminated.sum(), truncations + truncated.sum()
    assert truncations > 0 and (terminations > 0) == ant
    assert (env.tasks == tasks).all()


def test_locomotion_tasks():
    for env_id, low, high in (("HalfCheetahVel-v0", 0, 2), ("AntVel-v0", 0, 3), ("AntGoal-v0", -3, 3)):
        tasks = envs.make(env_id).sample_tasks(20_000, np.random.default_rng(0))
        assert tasks.shape == ((20_000, 2) if env_id == "AntGoal-v0" else (20_000,))
        assert ks_uniform(tasks, low, high) < ks_limit(tasks.size)
    for env_id in ("HalfCheetahDir-v0", "AntDir-v0"):
        tasks = envs.make(env_id).sample_tasks(20_000, np.random.default_rng(0))
        assert set(tasks) == {-1, 1} and abs(tasks.mean()) < 4.5 / np.sqrt(20_000)


def test_physics_tasks_equal_gymnasiums_half_cheetah_with_another_body():
    """Bit for bit, on a model changed by hand; a second batch of tasks scales the original model anew."""
    env, rng = envs.make("HalfCheetahParams-v0", 4, horizon=40), np.random.default_rng(0)
    for seed in range(2):
        tasks = env.sample_tasks(4, rng)
        tasks[0] = 1  # the ordinary body
        obs, _ = env.reset(seed=seed, options={"tasks": tasks})
        start, actions = (env._qpos.copy(), env._qvel.copy()), rng.uniform(-1, 1, (40, 4, 6))
        trajectory = [env.step(action) for action in actions]
        for i, (friction, mass, damping, gear) in enumerate(tasks):
            reference = gym.make("HalfCheetah-v5").unwrapped
            reference.reset(seed=0)
            model = reference.model
            model.geom_friction *= friction
            model.body_mass *= mass
            model.body_inertia *= mass
            model.dof_damping *= damping
            model.actuator_gear *= gear
            mujoco.mj_setConst(model, reference.data)
            mujoco.mj_resetData(model, reference.data)
            reference.set_state(start[0][i], start[1][i])
            for t, (obs, reward, _, truncated, info) in enumerate(trajectory):
                theirs, _, _, _, their_info = reference.step(actions[t, i])
                np.testing.assert_array_equal(info["final_obs"][i] if truncated[i] else obs[i], theirs)
                velocity, cost = their_info["x_velocity"], 0.05 * (actions[t, i].astype(np.float32) ** 2).sum()
                assert reward[i] == pytest.approx(velocity - cost, abs=1e-6)
        assert all(truncated)


def test_physics_tasks_are_log_uniform():
    tasks = envs.make("HalfCheetahParams-v0").sample_tasks(20_000, np.random.default_rng(0))
    assert tasks.shape == (20_000, 4)
    for factor in tasks.T:
        assert ks_uniform(np.log(factor) / np.log(1.5), -3, 3) < ks_limit(20_000)
    assert np.abs(np.corrcoef(tasks.T) - np.eye(4)).max() < 0.05


def test_mujoco_is_quiet():
    """Nothing reaches the terminal when a model is loaded and stepped, not even with every warning switched on."""
    code = "import envs; env = envs.make('AntDir-v0', 2); env.reset(seed=0); env.step(env.action_space.sample())"
    command, root = [sys.executable, "-W", "default", "-c", code], Path(__file__).parent.parent
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stdout == done.stderr == ""


@pytest.mark.parametrize("env_id", list(envs.ENVIRONMENTS))
def test_observe_task_appends_the_task(env_id):
    env, plain = envs.make(env_id, 3, observe_task=True), envs.make(env_id, 3)
    tasks = env.sample_tasks(3)
    parts = [tasks[name] for name in tasks.dtype.names] if tasks.dtype.names else [tasks]
    shown = np.concatenate([part.reshape(3, -1) for part in parts], axis=1)
    one_hot = isinstance(plain.single_observation_space, gym.spaces.Discrete)

    def check(with_task, without):
        without = np.eye(plain.single_observation_space.n)[without] if one_hot else without
        np.testing.assert_array_equal(with_task, np.concatenate([without, shown], axis=1))

    obs, obs_plain = (e.reset(seed=0, options={"tasks": tasks})[0] for e in (env, plain))
    assert obs in env.observation_space and env.single_observation_space.shape == obs.shape[1:]
    rng = np.random.default_rng(0)
    for _ in range(plain.horizon + 1):
        check(obs, obs_plain)
        actions = random_actions(env, rng)
        (obs, *_, info), (obs_plain, *_, info_plain) = env.step(actions), plain.step(actions)
        if "final_obs" in info:
            check(info["final_obs"], info_plain["final_obs"])


# ------------------------------------------------------------------------------------------------------ resets


@pytest.mark.parametrize(
    "env_id, horizon", [("Bandit-v0", 1), ("TabularMDP-v0", 10), ("Navigation2D-v0", 100), ("HalfCheetahDir-v0", 200)]
)
def test_episodes_end_at_the_horizon_and_tasks_stay(env_id, horizon):
    env = envs.make(env_id, num_envs=6)
    assert env.horizon == horizon
    tasks, rng = env.sample_tasks(6), np.random.default_rng(0)
    env.reset(seed=0, options={"tasks": tasks})
    for t in range(1, 3 * horizon + 1):
        actions = 0 * random_actions(env, rng)
        obs, reward, terminated, truncated, info = env.step(actions)
        done = terminated | truncated
        assert done.all() == (t % horizon == 0) == done.any()
        assert ("final_obs" in info) == done.any()
        assert not (terminated & truncated).any()
    assert (env.tasks == tasks).all()


def test_same_step_reset_when_navigation_ends_early():
    env = envs.make("Navigation2D-v0", num_envs=2)
    goals = np.array([[0.1, 0.0], [0.5, 0.5]])
    env.reset(seed=0, options={"tasks": goals})
    for _ in range(3):  # the first robot reaches its goal in every step, starting from the origin each time
        obs, reward, terminated, truncated, info = env.step(np.array([[0.1, 0.0], [0.01, 0.0]]))
        assert terminated.tolist() == [True, False] and not truncated.any()
        assert info["_final_obs"].tolist() == [True, False]
        np.testing.assert_allclose(info["final_obs"][0], [0.1, 0.0], atol=1e-7)
        np.testing.assert_allclose(obs[0], [0, 0])
    np.testing.assert_allclose(obs[1], [0.03, 0], atol=1e-7)
    env.step(np.zeros((2, 2)))
    for _ in range(96):
        *_, truncated, info = env.step(np.zeros((2, 2)))
    assert truncated.tolist() == [False, True]  # robot 0's clock began anew with its third episode, at step 4
    for _ in range(3):
        *_, truncated, info = env.step(np.zeros((2, 2)))
    assert truncated.tolist() == [True, False]


def test_final_obs_of_the_mdp_is_the_state_reached():
    env = envs.make("TabularMDP-v0", num_envs=1000, horizon=2)
    env.reset(seed=0)
    first, *_ = env.step(np.zeros(1000, dtype=int))
    obs, _, _, truncated, info = env.step(np.zeros(1000, dtype=int))
    assert truncated.all() and (obs == 0).all()
    assert len(np.unique(info["final_obs"])) == 10 and info["_final_obs"].all()


@pytest.mark.parametrize("env_id", IDS)
def test_observations_are_not_overwritten_by_later_steps(env_id):
    env = envs.make(env_id, num_envs=50)
    obs, _ = env.reset(seed=0)
    kept, rng = [(obs, obs.copy())], np.random.default_rng(0)
    for _ in range(12):
        obs, reward, *_ = env.step(random_actions(env, rng))
        kept += [(obs, obs.copy()), (reward, reward.copy())]
    for array, copy in kept:
        np.testing.assert_array_equal(array, copy)


# ------------------------------------------------------------------------------------------------------ seeding


@pytest.mark.parametrize("env_id", IDS)
def test_a_seed_fixes_everything(env_id):
    def run(env, seed, tasks=None):
        obs, _ = env.reset(seed=seed, options=None if tasks is None else {"tasks": tasks})
        rng, log = np.random.default_rng(0), [env.tasks.copy(), obs]
        for _ in range(15):
            obs, reward, terminated, truncated, _ = env.step(random_actions(env, rng))
            log += [obs, reward, terminated, truncated]
        return log

    env = envs.make(env_id, num_envs=20)
    first = run(env, 3)
    run(env, 4)
    env.sample_tasks(7)
    for other in (run(env, 3), run(envs.make(env_id, num_envs=20), 3)):
        assert all((a == b).all() for a, b in zip(first, other, strict=True))
    assert any((a != b).any() for a, b in zip(first, run(env, 5), strict=True))
    named = env.sample_tasks(20, np.random.default_rng(1))
    assert (run(env, 6, named)[0] == named).all()
    assert (run(env, 7)[0] == named).all()  # tasks that were named stay until others are


@pytest.mark.parametrize("env_id", IDS)
def test_held_out_tasks_depend_on_their_generator_alone(env_id):
    env = envs.make(env_id, num_envs=3)
    before = env.sample_tasks(8, np.random.default_rng(5))
    env.reset(seed=0)
    env.sample_tasks(100)
    assert (env.sample_tasks(8, np.random.default_rng(5)) == before).all()
    assert (np.repeat(before, 2, axis=0)[2:4] == before[[1, 1]]).all()


# ------------------------------------------------------------------------------------------------- gymnasium's API


@pytest.mark.parametrize("env_id", IDS)
def test_gymnasium_accepts_the_environments(env_id):
    env = gym.make_vec(env_id, num_envs=3)
    assert isinstance(env, gym.vector.VectorEnv) and env.spec.id == env_id
    assert env.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP
    assert env.observation_space == batch_space(env.single_observation_space, 3)
    assert env.action_space == batch_space(env.single_action_space, 3)
    obs, _ = env.reset(seed=0)
    assert obs in env.observation_space
    empty = create_empty_array(env.single_observation_space, 3)
    assert empty.shape == obs.shape and empty.dtype == obs.dtype
    assert len(list(iterate(env.observation_space, obs))) == 3
    wrapped = gym.wrappers.vector.RecordEpisodeStatistics(env)
    wrapped.reset(seed=0)
    for _ in range(200):
        obs, reward, terminated, truncated, info = wrapped.step(env.action_space.sample())
        assert obs in env.observation_space and reward.shape == terminated.shape == truncated.shape == (3,)
        assert reward.dtype == np.float64 and terminated.dtype == truncated.dtype == bool
    assert "episode" in info or "Ant" in env_id  # 200 is a multiple of every horizon; an Ant may have ended before


# -------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: envs.make("Bandt-v0"), "Unknown environment 'Bandt-v0'"),
        (lambda: envs.make("no_such_module:X-v0"), "Cannot import"),
        (lambda: envs.make("Bandit-v0", num_arm=3), "does not take these arguments"),
        (lambda: envs.make("Bandit-v0", num_arms=0), "num_arms must be"),
        (lambda: envs.make("Bandit-v0", num_arms="many"), "num_arms must be"),
        (lambda: envs.make("Bandit-v0", num_envs=0), "num_envs must be"),
        (lambda: envs.make("TabularMDP-v0", num_states=-1), "num_states must be"),
        (lambda: envs.make("TabularMDP-v0", horizon=0), "horizon must be"),
        (lambda: envs.make("Bandit-v0").sample_tasks(0), "num_tasks must be"),
        (lambda: envs.make("Bandit-v0").step(np.array([0])), "Call reset"),
        (lambda: envs.make("CartPole-v1"), "sample_task"),
        (lambda: envs.make("AntDir-v0", horizon=0), "horizon must be"),
        (lambda: envs.make("Bandit-v0", observe_task="false"), "observe_task must be True or False, got 'false'"),
        (lambda: envs.make("AntDir-v0", body="Dog"), "does not take these arguments"),
    ],
)
def test_bad_arguments_are_one_clear_sentence(call, words):
    with pytest.raises(ValueError, match=words) as error:
        call()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "env_id, tasks",
    [
        ("Bandit-v0", np.full((3, 5), 0.5)),
        ("Bandit-v0", np.full((2, 4), 0.5)),
        ("Bandit-v0", np.full(2, 0.5)),
        ("Bandit-v0", np.full((2, 5), 1.5)),
        ("Bandit-v0", np.full((2, 5), np.nan)),
        ("TabularMDP-v0", np.zeros((2, 10, 5))),
        ("TabularMDP-v0", np.zeros(2, dtype=[("transitions", float, (10, 5, 10)), ("rewards", float, (10, 5))])),
        ("TabularMDP-v0", envs.make("TabularMDP-v0", num_states=9).sample_tasks(2)),
        ("TabularMDP-v0", envs.make("TabularMDP-v0", num_actions=1).sample_tasks(2)),
        ("Navigation2D-v0", np.zeros((2, 3))),
        ("Navigation2D-v0", np.full((2, 2), np.inf)),
        ("HalfCheetahDir-v0", np.array([1.0, 0.5])),
        ("HalfCheetahVel-v0", np.array([1.0, np.nan])),
        ("AntGoal-v0", np.array([1.0, 1.0])),
        ("HalfCheetahParams-v0", np.array([[1.0, 1.0, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0]])),
    ],
)
def test_bad_tasks_are_refused(env_id, tasks):
    env = envs.make(env_id, num_envs=2)
    with pytest.raises(ValueError, match="tasks must|task of sub-env.* not finite"):
        env.reset(options={"tasks": tasks})


@pytest.mark.parametrize(
    "env_id, actions, words",
    [
        ("Bandit-v0", np.zeros(3, dtype=int), "shape"),
        ("Bandit-v0", np.zeros((2, 1), dtype=int), "shape"),
        ("Bandit-v0", np.array([0, 5]), "0 .. 4, got int64 from 0 to 5"),
        ("Bandit-v0", np.array([-1, 0]), "0 .. 4, got int64 from -1 to 0"),
        ("Bandit-v0", np.array([0.0, 1.0]), "whole numbers"),
        ("TabularMDP-v0", np.array([0, 5]), "0 .. 4"),
        ("Navigation2D-v0", np.zeros(2), "shape"),
        ("Navigation2D-v0", np.array([[0, np.nan], [0, 0]]), "finite"),
    ],
)
def test_bad_actions_are_refused(env_id, actions, words):
    env = envs.make(env_id, num_envs=2)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=words):
        env.step(actions)


def test_unknown_reset_option_is_refused():
    with pytest.raises(ValueError, match="option"):
        envs.make("Bandit-v0").reset(options={"task": [0.5] * 5})


# ------------------------------------------------------------------------------------------------ a task of your own


class Corridor(gym.Env):
    """A single environment whose task is the rewarded end of a corridor of five cells."""

    observation_space, action_space = gym.spaces.Discrete(5), gym.spaces.Discrete(2)

    def sample_task(self, rng):
        return rng.integers(0, 2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.goal, self.cell = 4 * options["task"], 2
        return self.cell, {}

    def step(self, action):
        self.cell = int(np.clip(self.cell + 2 * action - 1, 0, 4))
        at_goal = self.cell == self.goal
        return self.cell, float(at_goal), bool(at_goal), False, {"regret": 0.5 + action}


gym.register("Corridor-v0", entry_point=Corridor, max_episode_steps=6)


@pytest.mark.parametrize("vectorization_mode", ["sync", "async"])
def test_single_environments_become_a_batch_of_tasks(vectorization_mode):
    sys.modules["corridor_module"] = sys.modules[__name__]
    env = envs.make("corridor_module:Corridor-v0", num_envs=2, vectorization_mode=vectorization_mode)
    assert env.horizon == 6 and env.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP
    assert set(env.sample_tasks(50, np.random.default_rng(0))) == {0, 1}
    obs, _ = env.reset(seed=0, options={"tasks": np.array([1, 0])})
    assert obs.tolist() == [2, 2]
    for t in range(8):  # always to the right: the first reaches its goal in every second step, the second never
        obs, reward, terminated, truncated, info = env.step(np.array([1, 1]))
        assert terminated.tolist() == [t % 2 == 1, False] and reward.tolist() == [t % 2, 0]
        assert truncated.tolist() == [False, t == 5]
        assert info["regret"].tolist() == [1.5, 1.5]
        assert obs[0] == (3 if t % 2 == 0 else 2)
    with pytest.raises(ValueError, match="shape"):
        env.reset(options={"tasks": np.array([1])})
    with pytest.raises(ValueError, match="option"):
        env.reset(options={"tsks": np.array([1, 1])})
    env.close()


class NextStep(envs.Bandit):
    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}


class Maze(gym.Env):
    """A level is a number drawn from the seed; steps are random, too."""

    observation_space, action_space = gym.spaces.Box(0, 1, (2,), np.float64), gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.level = self.np_random.random()
        return np.array([self.level, 0.0]), {}

    def step(self, action):
        return np.array([self.level, self.np_random.random()]), self.level, False, False, {}


@pytest.mark.parametrize("vectorization_mode", ["sync", "async"])
def test_with_levels_the_seed_is_the_task(vectorization_mode):
    gym.register("Maze-v0", entry_point=Maze, max_episode_steps=3)
    try:
        env = envs.make("Maze-v0", 4, levels=True, vectorization_mode=vectorization_mode)
        tasks = env.sample_tasks(4, np.random.default_rng(0))
        assert tasks.dtype.kind == "i" and len(set(tasks)) == 4 and tasks.min() >= 0
        levels = [np.random.default_rng(task).random() for task in tasks]  # gymnasium's own generator of this seed
        for seed in range(2):  # the environment's seed changes nothing
            noise = []
            obs, _ = env.reset(seed=seed, options={"tasks": tasks})
            for t in range(7):  # over the ends of two episodes
                np.testing.assert_array_equal(obs[:, 0], levels)
                obs, reward, _, truncated, _ = env.step(np.zeros(4, int))
                np.testing.assert_array_equal(reward, levels)
                assert truncated.all() == (t % 3 == 2)
                noise.append(obs[:, 1])
            np.testing.assert_array_equal(noise[0], noise[3])  # the same level and the same chance in every episode
        with pytest.raises(envs.UsageError, match="levels True"):
            envs.make("Maze-v0", 4)
        env.close()
    finally:
        del gym.registry["Maze-v0"]


class FromOne(envs.Bandit):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.single_action_space = gym.spaces.Discrete(5, start=1)


class Matrix(envs.Bandit):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.single_action_space = gym.spaces.Box(0, 1, (3, 4))


class Faulty(envs.Bandit):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.x = None + 1


@pytest.mark.parametrize(
    "entry_point, words",
    [(NextStep, "SAME_STEP"), (FromOne, "numbered from 0"), (Matrix, "or Box .actions: one axis.")],
)
def test_vector_environments_that_would_be_misread_are_refused(entry_point, words):
    gym.register("Own-v0", vector_entry_point=entry_point)
    try:
        with pytest.raises(envs.UsageError, match=words):
            envs.make("Own-v0")
    finally:
        del gym.registry["Own-v0"]


def test_a_fault_in_a_users_environment_keeps_its_traceback():
    gym.register("Own-v0", vector_entry_point=Faulty)
    try:
        with pytest.raises(TypeError, match="unsupported operand"):
            envs.make("Own-v0")
    finally:
        del gym.registry["Own-v0"]
