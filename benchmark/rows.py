"""Every published row, as data: `run.py` trains what stands here, `plot.py` shows what is trained.

To add a row, add an entry to ROWS. Its name is that of its folder in benchmark/results. It has

    script      the file that trains it, without .py
    title       what the tables call it; MAML's rows of one title share a figure
    arguments   those that differ from the script's defaults
    seeds       one training each
    role        of MAML's rows: MAML, pretrained or oracle
    family      its line in the README's table, a key of FAMILIES; most rows have none
    papers      which papers' numbers it is compared with, see PAPERS
    baselines   a setting of results/baselines.json, and its algorithms to compare with
    episodes    of MAML on bandits and MDPs: how many episodes of a task count, see `plot.py`
"""

SEEDS = [1, 2, 3]

# The README's lines, and what bounds the return there: a text, or the row of an oracle.
FAMILIES = {
    "bandit, 5 arms, 10 pulls": "Bayes optimum",
    "bandit, 5 arms, 100 pulls": "Gittins",
    "tabular MDP, 10 episodes": "knows the MDP",
    "2D navigation, one episode": "at the goal",
    "2D navigation, 2 episodes": "at the goal",
    "HalfCheetah, direction": "halfcheetah-dir-oracle",
    "HalfCheetah, direction, 2 episodes": "rl2-halfcheetah-dir-oracle",
    "HalfCheetah, velocity": "halfcheetah-vel-oracle",
    "HalfCheetah, velocity, 2 episodes": "rl2-halfcheetah-vel-oracle",
    "HalfCheetah, physics": "halfcheetah-params-oracle",
    "HalfCheetah, physics, 2 episodes": "rl2-halfcheetah-params-oracle",
    "Ant, direction": "ant-dir-oracle",
    "Ant, direction, 2 episodes": "rl2-ant-dir-oracle",
    "Ant, velocity": "ant-vel-oracle",
    "Ant, velocity, 2 episodes": "rl2-ant-vel-oracle",
    "visual maze, 2 episodes": "knows the maze",
    "MiniGrid, red ball, 2 episodes": None,
    "highway-env, traffic, 2 episodes": None,
}

# What all three algorithms are trained on: {task: how the names of its rows end}. The row of an
# algorithm that knows the task has "-oracle" behind its name.
SIDE_BY_SIDE = {
    "HalfCheetah, direction": "halfcheetah-dir",
    "HalfCheetah, velocity": "halfcheetah-vel",
    "HalfCheetah, physics": "halfcheetah-params",
    "Ant, direction": "ant-dir",
    "Ant, velocity": "ant-vel",
}

# What the papers report: {setting of baselines.json: {paper: return of a trial}}. In MDPs the SNAIL
# paper reports shares of what value iteration earns. For 10 and 25 episodes it has .752 and .859 of
# RL^2, .766 and .862 of SNAIL, .563 and .591 of MAML. The RL^2 paper has 156.2 and 445.7 there, so
# that value iteration earns 207.7 and 518.9 in the papers' MDPs: 20.76 in an episode of any number.
PAPERS = {
    "5 arms, 10 pulls": {"RL² paper": 6.7, "SNAIL paper": 6.6, "MAML in the SNAIL paper": 6.5},
    "10 arms, 10 pulls": {"RL² paper": 6.7, "SNAIL paper": 6.7, "MAML in the SNAIL paper": 6.6},
    "50 arms, 10 pulls": {"RL² paper": 6.8, "SNAIL paper": 6.7, "MAML in the SNAIL paper": 6.6},
    "5 arms, 100 pulls": {"RL² paper": 78.7, "SNAIL paper": 79.1, "MAML in the SNAIL paper": 67.1},
    "10 arms, 100 pulls": {"RL² paper": 83.5, "SNAIL paper": 83.5, "MAML in the SNAIL paper": 70.1},
    "50 arms, 100 pulls": {"RL² paper": 84.9, "SNAIL paper": 85.1, "MAML in the SNAIL paper": 70.3},
    "5 arms, 500 pulls": {"RL² paper": 401.6, "SNAIL paper": 408.1},
    "10 arms, 500 pulls": {"RL² paper": 432.5, "SNAIL paper": 432.4},
    "50 arms, 500 pulls": {"RL² paper": 438.9, "SNAIL paper": 442.6},
    "50 arms, 1000 pulls": {"RL² in the SNAIL paper": 847.4, "SNAIL paper": 889.8},
    "MDP, 10 episodes": {
        "RL² paper": 156.2,
        "SNAIL paper": 159.1,
        "MAML in the SNAIL paper": 116.9,
    },
    "MDP, 25 episodes": {
        "RL² paper": 445.7,
        "SNAIL paper": 447.2,
        "MAML in the SNAIL paper": 306.6,
    },
    "MDP, 50 episodes": {"RL² paper": 936.1, "SNAIL paper": 942.3},
    "MDP, 75 episodes": {"RL² paper": 1428.8, "SNAIL paper": 1447.5},
    "MDP, 100 episodes": {"RL² paper": 1913.7, "SNAIL paper": 1953.1},
}

# What several rows have in common.
TEN_PULLS = ["Bayes optimum (exact)", "greedy", "Thompson sampling", "UCB tuned"]
HUNDRED_PULLS = ["finite-horizon Gittins", "greedy", "Thompson sampling", "UCB tuned"]
MDP_PLANS = ["informed optimum", "planner that knows the prior", "PSRL"]
BOTH_PAPERS = ["RL² paper", "SNAIL paper"]
MANY_ARMS = {"total_timesteps": 32_000_000, "update_epochs": 2, "learn_from_regret": True}
LONG_TRIALS = {
    "episodes_per_trial": 100,
    "num_envs": 1600,
    "num_minibatches": 16,
    "update_epochs": 2,
    "amp": True,
    "grow_trials": True,
    "ramp_fraction": 0.6,
}
FROM_REGRET = {"gae_lambda": 0.9, "gamma_start": 0.9, "learn_from_regret": True}
HUNDRED = LONG_TRIALS | FROM_REGRET | {"total_timesteps": 150_000_000, "cell": "lstm"}
# A large entropy bonus: else a policy from short trials hardly ever tries what pays in long ones.
HARDER = HUNDRED | {
    "total_timesteps": 130_000_000,
    "learning_rate": 0.01,
    "gamma": 0.998,
    "num_minibatches": 32,
    "ent_coef": 0.1,
    "ramp_fraction": 0.4,
}
# A discount that starts at 0, and small minibatches, of a batch of 320,000 steps. (HARDER's bonus
# is far too large for fifty arms.) docs/notes.md, "What held long bandits back".
FAR_BANDIT = HUNDRED | {
    "hidden_size": 128,
    "gamma": 0.999,
    "gamma_start": 0.0,
    "gae_lambda": 0.95,
    "norm_reward": True,
    "ent_coef": 0.05,
}
SNAIL_MANY_ARMS = {"total_timesteps": 20_000_000, "learn_from_regret": True}
SNAIL_HUNDRED = LONG_TRIALS | {
    "total_timesteps": 40_000_000,
    "gae_lambda": 0.6,
    "gamma": 0.998,
    "gamma_start": 0.9,
    "ent_coef": 0.1,
    "ramp_fraction": 0.4,
    "learn_from_regret": True,
}
# As FAR_BANDIT, with a batch of 120,000 steps. One TC block, and small dense blocks, of which long
# trials have many: half the time for a step.
SNAIL_FAR_BANDIT = SNAIL_HUNDRED | {
    "tc_blocks": 1,
    "sizes": (32, 16, 32, 32),
    "episodes_per_trial": 500,
    "num_envs": 240,
    "num_minibatches": 80,
    "gamma": 0.999,
    "gamma_start": 0.0,
    "gae_lambda": 0.95,
    "norm_reward": True,
    "ent_coef": 0.04,
    "ramp_fraction": 0.6,
    "eval_trials": 20_000,
}
MDP = {
    "env_id": "TabularMDP-v0",
    "num_envs": 1600,
    "num_minibatches": 32,
    "update_epochs": 2,
    "ent_coef": 0.1,
    "amp": True,
}
MDP_FROM_REGRET = {
    "gamma": 0.95,
    "gae_lambda": 0.8,
    "gamma_start": 0.0,
    "ramp_fraction": 0.9,
    "learn_from_regret": True,
}
# A discount that rises slowly, and small minibatches, of a batch of 320,000 steps: docs/notes.md,
# "What holds longer MDPs back".
RL2_MDP = (
    MDP
    | MDP_FROM_REGRET
    | {
        "cell": "lstm",
        "hidden_size": 128,
        "total_timesteps": 180_000_000,
        "grow_trials": True,
        "gamma": 0.99,
        "gae_lambda": 0.9,
        "norm_reward": True,
    }
)
# One TC block, and small batches of 120,000 steps: many steps of the optimizer in little time. (A
# long look ahead makes the value loss large, and norm_reward small.) docs/notes.md.
SNAIL_MDP = (
    MDP
    | MDP_FROM_REGRET
    | {
        "tc_blocks": 1,
        "sizes": (64, 32, 64, 64),
        "num_minibatches": 48,
        "total_timesteps": 30_000_000,
        "grow_trials": True,
        "gamma": 0.997,
        "gae_lambda": 0.95,
        "ramp_fraction": 0.6,
        "norm_reward": True,
        "eval_trials": 10_000,
    }
)
# A policy without memory: `episodes_per_task` episodes, one gradient step, then the others. A small
# trust region, and many tasks. (200 would do: docs/maml_trpo.md, "Ablations".)
MAML_BANDIT = {
    "env_id": "Bandit-v0",
    "num_iterations": 150,
    "meta_batch_size": 1000,
    "inner_lr": 3.0,
    "hidden_size": 32,
    "max_kl": 0.005,
    "fisher_fraction": 1.0,
    "eval_trials": 10_000,
}
MAML_TEN_PULLS = MAML_BANDIT | {"episodes_per_task": 5, "eval_episodes": 5}
MAML_HUNDRED_PULLS = MAML_BANDIT | {"episodes_per_task": 20, "eval_episodes": 20}
MAML_MDP = {
    "env_id": "TabularMDP-v0",
    "num_iterations": 200,
    "meta_batch_size": 300,
    "inner_lr": 3.0,
    "hidden_size": 64,
    "fisher_fraction": 1.0,
    "eval_trials": 4000,
}
HALFCHEETAH = {
    "num_iterations": 120,
    "meta_batch_size": 40,
    "action_scale": 0.1,
    "gae_lambda": 0.95,
    "max_kl": 0.03,
    "eval_trials": 100,
}
HALFCHEETAH_DIR = HALFCHEETAH | {"env_id": "HalfCheetahDir-v0", "later_fraction": 0.1}
HALFCHEETAH_VEL = HALFCHEETAH | {"env_id": "HalfCheetahVel-v0"}
# Large numbers in an observation make the inner step overshoot: docs/notes.md.
HALFCHEETAH_PARAMS = HALFCHEETAH | {
    "env_id": "HalfCheetahParams-v0",
    "num_iterations": 60,
    "norm_obs": True,
    "inner_lr": 0.05,
}
ANT_DIR = {
    "env_id": "AntDir-v0",
    "num_iterations": 60,
    "action_scale": 0.15,
    "gamma": 0.95,
    "max_kl": 0.03,
    "fisher_fraction": 0.2,
    "norm_obs": True,
    "eval_trials": 40,
}
ANT_VEL = ANT_DIR | {"env_id": "AntVel-v0"}
PRETRAINED = {"num_inner_steps": 0}
ORACLE = {"num_inner_steps": 0, "env_kwargs": {"observe_task": True}}
RL2_LOCOMOTION = {
    "episodes_per_trial": 2,
    "total_timesteps": 30_000_000,
    "num_envs": 128,
    "cell": "lstm",
    "hidden_size": 128,
    "learning_rate": 1e-3,
    "gamma": 0.97,
    "gae_lambda": 0.9,
    "num_minibatches": 16,
    "update_epochs": 4,
    "ent_coef": 0.002,
    "norm_obs": True,
    "norm_reward": True,
    "amp": True,
    "eval_trials": 200,
}
RL2_HALFCHEETAH_DIR = RL2_LOCOMOTION | {"env_id": "HalfCheetahDir-v0"}
# Large actions cost more here than they bring: it is not the fastest gait that is wanted.
RL2_HALFCHEETAH_VEL = RL2_LOCOMOTION | {"env_id": "HalfCheetahVel-v0", "action_scale": 0.3}
# A tenth of the bodies, light ones with strong motors, earn most of the return: many tasks.
PARAMS = {"env_id": "HalfCheetahParams-v0", "eval_trials": 1000}
RL2_HALFCHEETAH_PARAMS = RL2_LOCOMOTION | PARAMS
# Half the steps, for the Ant is slow to simulate. With larger actions it falls.
RL2_ANT = RL2_LOCOMOTION | {"total_timesteps": 15_000_000, "action_scale": 0.3}
RL2_ANT_DIR = RL2_ANT | {"env_id": "AntDir-v0"}
RL2_ANT_VEL = RL2_ANT | {"env_id": "AntVel-v0"}
SNAIL_LOCOMOTION = {
    "episodes_per_trial": 2,
    "total_timesteps": 20_000_000,
    "num_envs": 128,
    "tc_blocks": 1,
    "sizes": (32, 16, 32, 32),
    "learning_rate": 1e-3,
    "gamma": 0.97,
    "gae_lambda": 0.9,
    "num_minibatches": 16,
    "update_epochs": 2,
    "ent_coef": 0.002,
    "norm_obs": True,
    "norm_reward": True,
    "amp": True,
    "eval_trials": 200,
}
SNAIL_HALFCHEETAH_DIR = SNAIL_LOCOMOTION | {"env_id": "HalfCheetahDir-v0"}
SNAIL_HALFCHEETAH_VEL = SNAIL_LOCOMOTION | {"env_id": "HalfCheetahVel-v0", "action_scale": 0.3}
SNAIL_HALFCHEETAH_PARAMS = SNAIL_LOCOMOTION | PARAMS
SNAIL_ANT_DIR = SNAIL_LOCOMOTION | {"env_id": "AntDir-v0", "action_scale": 0.3}
SNAIL_ANT_VEL = SNAIL_LOCOMOTION | {"env_id": "AntVel-v0", "action_scale": 0.3}
# Images hold numbers from 0 to 255: norm_obs. A batch waits for its longest trial: so an episode
# has at most 50 steps, not the environment's 250, in training and in evaluation. (The agents are
# run with 250 as well, for mazes.json.)
MAZE = {
    "env_id": "VisualMaze-v0",
    "env_kwargs": {"horizon": 50},
    "episodes_per_trial": 2,
    "total_timesteps": 8_000_000,
    "num_envs": 128,
    "cell": "lstm",
    "hidden_size": 128,
    "learning_rate": 1e-3,
    "gae_lambda": 0.95,
    "num_minibatches": 16,
    "update_epochs": 3,
    "ent_coef": 0.01,
    "norm_obs": True,
    "amp": True,
    "eval_trials": 1000,
}
SNAIL_MAZE = {
    "env_id": "VisualMaze-v0",
    "env_kwargs": {"horizon": 50},
    "episodes_per_trial": 2,
    "total_timesteps": 5_000_000,
    "num_envs": 128,
    "tc_blocks": 1,
    "sizes": (64, 16, 32, 64),
    "learning_rate": 1e-3,
    "gae_lambda": 0.95,
    "num_minibatches": 16,
    "update_epochs": 3,
    "ent_coef": 0.01,
    "norm_obs": True,
    "amp": True,
    "eval_trials": 1000,
}
# Memory that ends with the episode.
ONE_EPISODE = {"episodes_per_trial": 1, "num_envs": 256}
TASK_IN_SIGHT = {"env_kwargs": {"observe_task": True}}

ROWS = {
    # ------------------------------------------------------------------------------------ RL^2
    "bandit-5-arms-10-pulls": {
        "script": "rl2_ppo",
        "title": "bandit, 5 arms, 10 pulls",
        "arguments": {},
        "seeds": SEEDS,
        "family": "bandit, 5 arms, 10 pulls",
        "papers": ["RL² paper"],
        "baselines": ["5 arms, 10 pulls", *TEN_PULLS],
    },
    "bandit-10-arms-10-pulls": {
        "script": "rl2_ppo",
        "title": "bandit, 10 arms, 10 pulls",
        "arguments": MANY_ARMS | {"env_kwargs": {"num_arms": 10}},
        "seeds": SEEDS,
        "papers": ["RL² paper"],
        "baselines": ["10 arms, 10 pulls", *TEN_PULLS],
    },
    "bandit-50-arms-10-pulls": {
        "script": "rl2_ppo",
        "title": "bandit, 50 arms, 10 pulls",
        "arguments": MANY_ARMS | {"env_kwargs": {"num_arms": 50}},
        "seeds": SEEDS,
        "papers": ["RL² paper"],
        "baselines": ["50 arms, 10 pulls", *TEN_PULLS],
    },
    "bandit-5-arms-100-pulls-plain": {
        "script": "rl2_ppo",
        "title": "bandit, 5 arms, 100 pulls, from rewards",
        "arguments": LONG_TRIALS
        | {
            "total_timesteps": 150_000_000,
            "cell": "lstm",
            "gamma": 0.97,
            "gae_lambda": 0.3,
            "gamma_start": 0.8,
        },
        "seeds": SEEDS,
        "papers": ["RL² paper"],
        "baselines": ["5 arms, 100 pulls", *HUNDRED_PULLS],
    },
    "bandit-5-arms-100-pulls-regret": {
        "script": "rl2_ppo",
        "title": "bandit, 5 arms, 100 pulls, from regret",
        "arguments": HUNDRED,
        "seeds": SEEDS,
        "family": "bandit, 5 arms, 100 pulls",
        "papers": ["RL² paper"],
        "baselines": ["5 arms, 100 pulls", *HUNDRED_PULLS],
    },
    "bandit-10-arms-100-pulls": {
        "script": "rl2_ppo",
        "title": "bandit, 10 arms, 100 pulls",
        "arguments": HARDER | {"env_kwargs": {"num_arms": 10}, "total_timesteps": 200_000_000},
        "seeds": SEEDS,
        "papers": ["RL² paper"],
        "baselines": ["10 arms, 100 pulls", *HUNDRED_PULLS],
    },
    "bandit-50-arms-100-pulls": {
        "script": "rl2_ppo",
        "title": "bandit, 50 arms, 100 pulls",
        "arguments": FAR_BANDIT
        | {
            "env_kwargs": {"num_arms": 50},
            "num_envs": 3200,
            "num_minibatches": 128,
            "total_timesteps": 50_000_000,
            "gamma": 0.995,
            "ramp_fraction": 0.7,
        },
        "seeds": SEEDS,
        "papers": ["RL² paper"],
        "baselines": ["50 arms, 100 pulls", *HUNDRED_PULLS],
    },
    "bandit-5-arms-500-pulls": {
        "script": "rl2_ppo",
        "title": "bandit, 5 arms, 500 pulls",
        "arguments": HUNDRED
        | {
            "episodes_per_trial": 500,
            "num_envs": 800,
            "total_timesteps": 300_000_000,
            "gamma": 0.998,
        },
        "seeds": [1],
        "papers": ["RL² paper"],
        "baselines": ["5 arms, 500 pulls", *HUNDRED_PULLS],
    },
    "bandit-10-arms-500-pulls": {
        "script": "rl2_ppo",
        "title": "bandit, 10 arms, 500 pulls",
        "arguments": FAR_BANDIT
        | {
            "env_kwargs": {"num_arms": 10},
            "episodes_per_trial": 500,
            "num_envs": 640,
            "num_minibatches": 128,
            "total_timesteps": 60_000_000,
            "ramp_fraction": 0.7,
        },
        "seeds": [1],
        "papers": ["RL² paper"],
        "baselines": ["10 arms, 500 pulls", *HUNDRED_PULLS],
    },
    "bandit-50-arms-500-pulls": {
        "script": "rl2_ppo",
        "title": "bandit, 50 arms, 500 pulls",
        "arguments": FAR_BANDIT
        | {
            "env_kwargs": {"num_arms": 50},
            "episodes_per_trial": 500,
            "num_envs": 640,
            "num_minibatches": 128,
            "total_timesteps": 55_000_000,
            "ramp_fraction": 0.7,
        },
        "seeds": [1],
        "papers": ["RL² paper"],
        "baselines": ["50 arms, 500 pulls", *HUNDRED_PULLS],
    },
    "bandit-50-arms-1000-pulls": {
        "script": "rl2_ppo",
        "title": "bandit, 50 arms, 1000 pulls",
        "arguments": FAR_BANDIT
        | {
            "env_kwargs": {"num_arms": 50},
            "episodes_per_trial": 1000,
            "num_envs": 320,
            "num_minibatches": 80,
            "total_timesteps": 100_000_000,
            "eval_trials": 20_000,
        },
        "seeds": [1],
        "papers": ["RL² in the SNAIL paper"],
        "baselines": ["50 arms, 1000 pulls", *HUNDRED_PULLS],
    },
    "mdp-10-episodes-plain": {
        "script": "rl2_ppo",
        "title": "MDP, 10 episodes, no levers",
        "arguments": MDP
        | {
            "total_timesteps": 200_000_000,
            "cell": "lstm",
            "hidden_size": 128,
            "gamma": 0.7,
        },
        "seeds": SEEDS,
        "papers": BOTH_PAPERS,
        "baselines": ["MDP, 10 episodes", *MDP_PLANS],
    },
    "mdp-10-episodes-regret": {
        "script": "rl2_ppo",
        "title": "MDP, 10 episodes, with levers",
        "arguments": MDP
        | MDP_FROM_REGRET
        | {
            "total_timesteps": 240_000_000,
            "cell": "lstm",
            "hidden_size": 128,
        },
        "seeds": SEEDS,
        "family": "tabular MDP, 10 episodes",
        "papers": BOTH_PAPERS,
        "baselines": ["MDP, 10 episodes", *MDP_PLANS],
    },
    "mdp-25-episodes": {
        "script": "rl2_ppo",
        "title": "MDP, 25 episodes",
        "arguments": RL2_MDP | {"episodes_per_trial": 25, "num_envs": 1280, "num_minibatches": 128},
        "seeds": [1],
        "papers": BOTH_PAPERS,
        "baselines": ["MDP, 25 episodes", *MDP_PLANS],
    },
    "mdp-50-episodes": {
        "script": "rl2_ppo",
        "title": "MDP, 50 episodes",
        # Larger gamma and lambda, and so a smaller bonus: docs/notes.md, "A larger λ".
        "arguments": RL2_MDP
        | {
            "episodes_per_trial": 50,
            "num_envs": 640,
            "num_minibatches": 128,
            "gamma": 0.997,
            "gae_lambda": 0.98,
            "ent_coef": 0.04,
        },
        "seeds": [1],
        "papers": BOTH_PAPERS,
        "baselines": ["MDP, 50 episodes", *MDP_PLANS],
    },
    "mdp-75-episodes": {
        "script": "rl2_ppo",
        "title": "MDP, 75 episodes",
        "arguments": RL2_MDP | {"episodes_per_trial": 75, "num_envs": 432, "num_minibatches": 108},
        "seeds": [1],
        "papers": BOTH_PAPERS,
        "baselines": ["MDP, 75 episodes", *MDP_PLANS],
    },
    "mdp-100-episodes": {
        "script": "rl2_ppo",
        "title": "MDP, 100 episodes",
        "arguments": RL2_MDP
        | {
            "episodes_per_trial": 100,
            "num_envs": 320,
            "num_minibatches": 80,
            "total_timesteps": 220_000_000,
            "gamma": 0.997,
            "gae_lambda": 0.95,
            "ramp_fraction": 0.75,
        },
        "seeds": [1],
        "papers": BOTH_PAPERS,
        "baselines": ["MDP, 100 episodes", *MDP_PLANS],
    },
    "minigrid-red-ball-2-episodes": {
        "script": "rl2_ppo",
        "title": "MiniGrid, red ball, 2 episodes",
        "arguments": {
            "cuda": False,
            "env_id": "redball:RedBall-v0",  # an example of docs/environments.md
            "env_kwargs": {"levels": True},
            "episodes_per_trial": 2,
            "total_timesteps": 1_000_000,
            "num_envs": 128,
            "hidden_size": 128,
            "learning_rate": 1e-3,
            "gamma": 0.97,
            "gae_lambda": 0.95,
            "num_minibatches": 4,
            "ent_coef": 0.01,
            "norm_obs": True,
            "eval_trials": 1000,
        },
        "seeds": [1],
        "family": "MiniGrid, red ball, 2 episodes",
    },
    "maze-2-episodes": {
        "script": "rl2_ppo",
        "title": "visual maze, 2 episodes",
        "arguments": MAZE,
        "seeds": SEEDS,
        "family": "visual maze, 2 episodes",
    },
    "traffic-2-episodes": {
        "script": "rl2_ppo",
        "title": "highway-env, traffic, 2 episodes",
        "arguments": {
            "cuda": False,
            "env_id": "traffic:Traffic-v0",  # an example of docs/environments.md
            "env_kwargs": {"levels": True, "vectorization_mode": "async"},
            "episodes_per_trial": 2,
            "total_timesteps": 80_000,
            "num_envs": 32,
            "learning_rate": 1e-3,
            "gamma": 0.97,
            "gae_lambda": 0.9,
            "num_minibatches": 4,
            "ent_coef": 0.01,
            "eval_trials": 200,
        },
        "seeds": [1],
        "family": "highway-env, traffic, 2 episodes",
    },
    "rl2-halfcheetah-dir": {
        "script": "rl2_ppo",
        "title": "HalfCheetah, direction, 2 episodes",
        "arguments": RL2_HALFCHEETAH_DIR,
        "seeds": SEEDS,
        "family": "HalfCheetah, direction, 2 episodes",
    },
    "rl2-halfcheetah-dir-oracle": {
        "script": "rl2_ppo",
        "title": "HalfCheetah, direction, 2 episodes, oracle",
        "arguments": RL2_HALFCHEETAH_DIR | TASK_IN_SIGHT,
        "seeds": SEEDS,
    },
    "rl2-halfcheetah-vel": {
        "script": "rl2_ppo",
        "title": "HalfCheetah, velocity, 2 episodes",
        "arguments": RL2_HALFCHEETAH_VEL,
        "seeds": SEEDS,
        "family": "HalfCheetah, velocity, 2 episodes",
    },
    "rl2-halfcheetah-vel-oracle": {
        "script": "rl2_ppo",
        "title": "HalfCheetah, velocity, 2 episodes, oracle",
        "arguments": RL2_HALFCHEETAH_VEL | TASK_IN_SIGHT,
        "seeds": SEEDS,
    },
    "rl2-halfcheetah-params": {
        "script": "rl2_ppo",
        "title": "HalfCheetah, physics, 2 episodes",
        "arguments": RL2_HALFCHEETAH_PARAMS,
        "seeds": SEEDS,
        "family": "HalfCheetah, physics, 2 episodes",
    },
    "rl2-halfcheetah-params-oracle": {
        "script": "rl2_ppo",
        "title": "HalfCheetah, physics, 2 episodes, oracle",
        "arguments": RL2_HALFCHEETAH_PARAMS | TASK_IN_SIGHT,
        "seeds": SEEDS,
    },
    "rl2-halfcheetah-params-one-episode": {
        "script": "rl2_ppo",
        "title": "HalfCheetah, physics, one episode",
        "arguments": RL2_HALFCHEETAH_PARAMS | ONE_EPISODE,
        "seeds": SEEDS,
    },
    "rl2-ant-dir": {
        "script": "rl2_ppo",
        "title": "Ant, direction, 2 episodes",
        "arguments": RL2_ANT_DIR,
        "seeds": SEEDS,
        "family": "Ant, direction, 2 episodes",
    },
    "rl2-ant-dir-oracle": {
        "script": "rl2_ppo",
        "title": "Ant, direction, 2 episodes, oracle",
        "arguments": RL2_ANT_DIR | TASK_IN_SIGHT,
        "seeds": SEEDS,
    },
    "rl2-ant-vel": {
        "script": "rl2_ppo",
        "title": "Ant, velocity, 2 episodes",
        "arguments": RL2_ANT_VEL,
        "seeds": SEEDS,
        "family": "Ant, velocity, 2 episodes",
    },
    "rl2-ant-vel-oracle": {
        "script": "rl2_ppo",
        "title": "Ant, velocity, 2 episodes, oracle",
        "arguments": RL2_ANT_VEL | TASK_IN_SIGHT,
        "seeds": SEEDS,
    },
    # ------------------------------------------------------------------------------------ MAML
    "navigation": {
        "script": "maml_trpo",
        "title": "2D navigation",
        "role": "MAML",
        "arguments": {},
        "seeds": SEEDS,
        "family": "2D navigation, one episode",
    },
    "halfcheetah-dir-maml": {
        "script": "maml_trpo",
        "title": "HalfCheetah, direction",
        "role": "MAML",
        "arguments": HALFCHEETAH_DIR,
        "seeds": SEEDS,
        "family": "HalfCheetah, direction",
    },
    "halfcheetah-dir-pretrained": {
        "script": "maml_trpo",
        "title": "HalfCheetah, direction",
        "role": "pretrained",
        "arguments": HALFCHEETAH_DIR | PRETRAINED,
        "seeds": SEEDS,
    },
    "halfcheetah-dir-oracle": {
        "script": "maml_trpo",
        "title": "HalfCheetah, direction",
        "role": "oracle",
        "arguments": HALFCHEETAH_DIR | ORACLE,
        "seeds": SEEDS,
    },
    "halfcheetah-vel-maml": {
        "script": "maml_trpo",
        "title": "HalfCheetah, velocity",
        "role": "MAML",
        "arguments": HALFCHEETAH_VEL,
        "seeds": [1],
        "family": "HalfCheetah, velocity",
    },
    "halfcheetah-vel-pretrained": {
        "script": "maml_trpo",
        "title": "HalfCheetah, velocity",
        "role": "pretrained",
        "arguments": HALFCHEETAH_VEL | PRETRAINED,
        "seeds": [1],
    },
    "halfcheetah-vel-oracle": {
        "script": "maml_trpo",
        "title": "HalfCheetah, velocity",
        "role": "oracle",
        "arguments": HALFCHEETAH_VEL | ORACLE,
        "seeds": [1],
    },
    "halfcheetah-params-maml": {
        "script": "maml_trpo",
        "title": "HalfCheetah, physics",
        "role": "MAML",
        "arguments": HALFCHEETAH_PARAMS,
        "seeds": [1],
        "family": "HalfCheetah, physics",
    },
    "halfcheetah-params-pretrained": {
        "script": "maml_trpo",
        "title": "HalfCheetah, physics",
        "role": "pretrained",
        "arguments": HALFCHEETAH_PARAMS | PRETRAINED,
        "seeds": [1],
    },
    "halfcheetah-params-oracle": {
        "script": "maml_trpo",
        "title": "HalfCheetah, physics",
        "role": "oracle",
        "arguments": HALFCHEETAH_PARAMS | ORACLE,
        "seeds": [1],
    },
    "ant-dir-maml": {
        "script": "maml_trpo",
        "title": "Ant, direction",
        "role": "MAML",
        "arguments": ANT_DIR,
        "seeds": [1],
        "family": "Ant, direction",
    },
    "ant-dir-pretrained": {
        "script": "maml_trpo",
        "title": "Ant, direction",
        "role": "pretrained",
        "arguments": ANT_DIR | PRETRAINED,
        "seeds": [1],
    },
    "ant-dir-oracle": {
        "script": "maml_trpo",
        "title": "Ant, direction",
        "role": "oracle",
        "arguments": ANT_DIR | ORACLE,
        "seeds": [1],
    },
    "ant-vel-maml": {
        "script": "maml_trpo",
        "title": "Ant, velocity",
        "role": "MAML",
        "arguments": ANT_VEL,
        "seeds": [1],
        "family": "Ant, velocity",
    },
    "ant-vel-pretrained": {
        "script": "maml_trpo",
        "title": "Ant, velocity",
        "role": "pretrained",
        "arguments": ANT_VEL | PRETRAINED,
        "seeds": [1],
    },
    "ant-vel-oracle": {
        "script": "maml_trpo",
        "title": "Ant, velocity",
        "role": "oracle",
        "arguments": ANT_VEL | ORACLE,
        "seeds": [1],
    },
    "maml-bandit-5-arms-10-pulls": {
        "script": "maml_trpo",
        "title": "bandit, 5 arms, 10 pulls",
        "role": "MAML",
        "episodes": 10,
        "arguments": MAML_TEN_PULLS,
        "seeds": SEEDS,
        "papers": ["MAML in the SNAIL paper"],
        "baselines": ["5 arms, 10 pulls", *TEN_PULLS],
        "family": "bandit, 5 arms, 10 pulls",
    },
    "maml-bandit-10-arms-10-pulls": {
        "script": "maml_trpo",
        "title": "bandit, 10 arms, 10 pulls",
        "role": "MAML",
        "episodes": 10,
        "arguments": MAML_TEN_PULLS | {"env_kwargs": {"num_arms": 10}},
        "seeds": SEEDS,
        "papers": ["MAML in the SNAIL paper"],
        "baselines": ["10 arms, 10 pulls", *TEN_PULLS],
    },
    "maml-bandit-50-arms-10-pulls": {
        "script": "maml_trpo",
        "title": "bandit, 50 arms, 10 pulls",
        "role": "MAML",
        "episodes": 10,
        "arguments": MAML_TEN_PULLS | {"env_kwargs": {"num_arms": 50}},
        "seeds": SEEDS,
        "papers": ["MAML in the SNAIL paper"],
        "baselines": ["50 arms, 10 pulls", *TEN_PULLS],
    },
    "maml-bandit-5-arms-100-pulls": {
        "script": "maml_trpo",
        "title": "bandit, 5 arms, 100 pulls",
        "role": "MAML",
        "episodes": 100,
        "arguments": MAML_HUNDRED_PULLS,
        "seeds": SEEDS,
        "papers": ["MAML in the SNAIL paper"],
        "baselines": ["5 arms, 100 pulls", *HUNDRED_PULLS],
        "family": "bandit, 5 arms, 100 pulls",
    },
    "maml-bandit-10-arms-100-pulls": {
        "script": "maml_trpo",
        "title": "bandit, 10 arms, 100 pulls",
        "role": "MAML",
        "episodes": 100,
        "arguments": MAML_HUNDRED_PULLS | {"env_kwargs": {"num_arms": 10}},
        "seeds": SEEDS,
        "papers": ["MAML in the SNAIL paper"],
        "baselines": ["10 arms, 100 pulls", *HUNDRED_PULLS],
    },
    "maml-bandit-50-arms-100-pulls": {
        "script": "maml_trpo",
        "title": "bandit, 50 arms, 100 pulls",
        "role": "MAML",
        "episodes": 100,
        "arguments": MAML_HUNDRED_PULLS | {"env_kwargs": {"num_arms": 50}},
        "seeds": SEEDS,
        "papers": ["MAML in the SNAIL paper"],
        "baselines": ["50 arms, 100 pulls", *HUNDRED_PULLS],
    },
    "maml-mdp-10-episodes": {
        "script": "maml_trpo",
        "title": "MDP, 10 episodes",
        "role": "MAML",
        "episodes": 10,
        "arguments": MAML_MDP | {"episodes_per_task": 4, "eval_episodes": 4},
        "seeds": SEEDS,
        "papers": ["MAML in the SNAIL paper"],
        "baselines": ["MDP, 10 episodes", *MDP_PLANS],
        "family": "tabular MDP, 10 episodes",
    },
    "maml-mdp-25-episodes": {
        "script": "maml_trpo",
        "title": "MDP, 25 episodes",
        "role": "MAML",
        "episodes": 25,
        "arguments": MAML_MDP | {"episodes_per_task": 10, "eval_episodes": 10},
        "seeds": SEEDS,
        "papers": ["MAML in the SNAIL paper"],
        "baselines": ["MDP, 25 episodes", *MDP_PLANS],
    },
    # ----------------------------------------------------------------------------------- SNAIL
    "snail-bandit-5-arms-10-pulls": {
        "script": "snail_ppo",
        "title": "bandit, 5 arms, 10 pulls",
        "arguments": {},
        "seeds": SEEDS,
        "family": "bandit, 5 arms, 10 pulls",
        "papers": BOTH_PAPERS,
        "baselines": ["5 arms, 10 pulls", *TEN_PULLS],
    },
    "snail-bandit-10-arms-10-pulls": {
        "script": "snail_ppo",
        "title": "bandit, 10 arms, 10 pulls",
        "arguments": SNAIL_MANY_ARMS | {"env_kwargs": {"num_arms": 10}},
        "seeds": SEEDS,
        "papers": BOTH_PAPERS,
        "baselines": ["10 arms, 10 pulls", *TEN_PULLS],
    },
    "snail-bandit-50-arms-10-pulls": {
        "script": "snail_ppo",
        "title": "bandit, 50 arms, 10 pulls",
        "arguments": SNAIL_MANY_ARMS | {"env_kwargs": {"num_arms": 50}},
        "seeds": SEEDS,
        "papers": BOTH_PAPERS,
        "baselines": ["50 arms, 10 pulls", *TEN_PULLS],
    },
    "snail-bandit-5-arms-100-pulls": {
        "script": "snail_ppo",
        "title": "bandit, 5 arms, 100 pulls",
        "arguments": LONG_TRIALS
        | {
            "total_timesteps": 40_000_000,
            "gae_lambda": 0.9,
            "gamma_start": 0.9,
            "learn_from_regret": True,
        },
        "seeds": SEEDS,
        "family": "bandit, 5 arms, 100 pulls",
        "papers": BOTH_PAPERS,
        "baselines": ["5 arms, 100 pulls", *HUNDRED_PULLS],
    },
    "snail-bandit-10-arms-100-pulls": {
        "script": "snail_ppo",
        "title": "bandit, 10 arms, 100 pulls",
        "arguments": SNAIL_HUNDRED | {"env_kwargs": {"num_arms": 10}},
        "seeds": [1],
        "papers": BOTH_PAPERS,
        "baselines": ["10 arms, 100 pulls", *HUNDRED_PULLS],
    },
    "snail-bandit-50-arms-100-pulls": {
        "script": "snail_ppo",
        "title": "bandit, 50 arms, 100 pulls",
        "arguments": SNAIL_FAR_BANDIT
        | {
            "env_kwargs": {"num_arms": 50},
            "episodes_per_trial": 100,
            "num_envs": 1200,
            "gamma": 0.995,
            "ramp_fraction": 0.7,
            "eval_trials": 40_000,
        },
        "seeds": [1],
        "papers": BOTH_PAPERS,
        "baselines": ["50 arms, 100 pulls", *HUNDRED_PULLS],
    },
    "snail-bandit-5-arms-500-pulls": {
        "script": "snail_ppo",
        "title": "bandit, 5 arms, 500 pulls",
        "arguments": SNAIL_FAR_BANDIT | {"ent_coef": 0.15, "ramp_fraction": 0.4},
        "seeds": [1],
        "papers": BOTH_PAPERS,
        "baselines": ["5 arms, 500 pulls", *HUNDRED_PULLS],
    },
    "snail-bandit-10-arms-500-pulls": {
        "script": "snail_ppo",
        "title": "bandit, 10 arms, 500 pulls",
        "arguments": SNAIL_FAR_BANDIT | {"env_kwargs": {"num_arms": 10}, "ent_coef": 0.1},
        "seeds": [1],
        "papers": BOTH_PAPERS,
        "baselines": ["10 arms, 500 pulls", *HUNDRED_PULLS],
    },
    "snail-bandit-50-arms-500-pulls": {
        "script": "snail_ppo",
        "title": "bandit, 50 arms, 500 pulls",
        "arguments": SNAIL_FAR_BANDIT | {"env_kwargs": {"num_arms": 50}},
        "seeds": [1],
        "papers": BOTH_PAPERS,
        "baselines": ["50 arms, 500 pulls", *HUNDRED_PULLS],
    },
    "snail-bandit-50-arms-1000-pulls": {
        "script": "snail_ppo",
        "title": "bandit, 50 arms, 1000 pulls",
        "arguments": SNAIL_FAR_BANDIT
        | {
            "env_kwargs": {"num_arms": 50},
            "episodes_per_trial": 1000,
            "num_envs": 120,
            "num_minibatches": 60,
            "eval_trials": 10_000,
        },
        "seeds": [1],
        "papers": ["RL² in the SNAIL paper", "SNAIL paper"],
        "baselines": ["50 arms, 1000 pulls", *HUNDRED_PULLS],
    },
    "snail-mdp-10-episodes": {
        "script": "snail_ppo",
        "title": "MDP, 10 episodes",
        "arguments": SNAIL_MDP
        | {
            "episodes_per_trial": 10,
            "num_envs": 1200,
            "sizes": (32, 16, 32, 32),
            "total_timesteps": 60_000_000,
            "gamma": 0.99,
            "gae_lambda": 0.97,
            "ent_coef": 0.07,
            "eval_trials": 40_000,
        },
        "seeds": SEEDS,
        "family": "tabular MDP, 10 episodes",
        "papers": BOTH_PAPERS,
        "baselines": ["MDP, 10 episodes", *MDP_PLANS],
    },
    "snail-mdp-25-episodes": {
        "script": "snail_ppo",
        "title": "MDP, 25 episodes",
        # A smaller network, and more steps. A larger lambda, and so a smaller bonus.
        "arguments": SNAIL_MDP
        | {
            "episodes_per_trial": 25,
            "num_envs": 480,
            "sizes": (32, 16, 32, 32),
            "total_timesteps": 60_000_000,
            "gamma": 0.998,
            "gae_lambda": 0.99,
            "ent_coef": 0.07,
        },
        "seeds": [1],
        "papers": BOTH_PAPERS,
        "baselines": ["MDP, 25 episodes", *MDP_PLANS],
    },
    "snail-mdp-50-episodes": {
        "script": "snail_ppo",
        "title": "MDP, 50 episodes",
        # A larger lambda, with which a bonus weighs more: docs/notes.md, "A larger λ".
        "arguments": SNAIL_MDP
        | {"episodes_per_trial": 50, "num_envs": 240, "gae_lambda": 0.99, "ent_coef": 0.07},
        "seeds": [1],
        "papers": BOTH_PAPERS,
        "baselines": ["MDP, 50 episodes", *MDP_PLANS],
    },
    "snail-mdp-75-episodes": {
        "script": "snail_ppo",
        "title": "MDP, 75 episodes",
        "arguments": SNAIL_MDP
        | {
            "episodes_per_trial": 75,
            "num_envs": 160,
            "sizes": (32, 16, 32, 32),
            "ent_coef": 0.15,
        },
        "seeds": [1],
        "papers": BOTH_PAPERS,
        "baselines": ["MDP, 75 episodes", *MDP_PLANS],
    },
    "snail-mdp-100-episodes": {
        "script": "snail_ppo",
        "title": "MDP, 100 episodes",
        "arguments": SNAIL_MDP
        | {
            "episodes_per_trial": 100,
            "num_envs": 120,
            "sizes": (32, 16, 32, 32),
            "total_timesteps": 40_000_000,
        },
        "seeds": SEEDS,
        "papers": BOTH_PAPERS,
        "baselines": ["MDP, 100 episodes", *MDP_PLANS],
    },
    "snail-navigation-2-episodes": {
        "script": "snail_ppo",
        "title": "2D navigation, 2 episodes",
        "arguments": {
            "env_id": "Navigation2D-v0",
            "episodes_per_trial": 2,
            "total_timesteps": 3_000_000,
            "num_envs": 400,
            "sizes": (32, 16, 32, 32),
            "learning_rate": 2e-3,
            "gamma": 0.95,
            "gae_lambda": 0.9,
            "ent_coef": 0.0,
            "amp": True,
            "eval_trials": 10_000,
        },
        "seeds": SEEDS,
        "family": "2D navigation, 2 episodes",
    },
    "snail-maze-2-episodes": {
        "script": "snail_ppo",
        "title": "visual maze, 2 episodes",
        "arguments": SNAIL_MAZE,
        "seeds": [1],
        "family": "visual maze, 2 episodes",
    },
    "snail-halfcheetah-dir": {
        "script": "snail_ppo",
        "title": "HalfCheetah, direction, 2 episodes",
        "arguments": SNAIL_HALFCHEETAH_DIR,
        "seeds": [1],
        "family": "HalfCheetah, direction, 2 episodes",
    },
    "snail-halfcheetah-dir-oracle": {
        "script": "snail_ppo",
        "title": "HalfCheetah, direction, 2 episodes, oracle",
        "arguments": SNAIL_HALFCHEETAH_DIR | TASK_IN_SIGHT,
        "seeds": [1],
    },
    "snail-halfcheetah-vel": {
        "script": "snail_ppo",
        "title": "HalfCheetah, velocity, 2 episodes",
        "arguments": SNAIL_HALFCHEETAH_VEL,
        "seeds": [1],
        "family": "HalfCheetah, velocity, 2 episodes",
    },
    "snail-halfcheetah-vel-oracle": {
        "script": "snail_ppo",
        "title": "HalfCheetah, velocity, 2 episodes, oracle",
        "arguments": SNAIL_HALFCHEETAH_VEL | TASK_IN_SIGHT,
        "seeds": [1],
    },
    "snail-halfcheetah-params": {
        "script": "snail_ppo",
        "title": "HalfCheetah, physics, 2 episodes",
        "arguments": SNAIL_HALFCHEETAH_PARAMS,
        "seeds": [1],
        "family": "HalfCheetah, physics, 2 episodes",
    },
    "snail-halfcheetah-params-oracle": {
        "script": "snail_ppo",
        "title": "HalfCheetah, physics, 2 episodes, oracle",
        "arguments": SNAIL_HALFCHEETAH_PARAMS | TASK_IN_SIGHT,
        "seeds": [1],
    },
    "snail-ant-dir": {
        "script": "snail_ppo",
        "title": "Ant, direction, 2 episodes",
        "arguments": SNAIL_ANT_DIR,
        "seeds": [1],
        "family": "Ant, direction, 2 episodes",
    },
    "snail-ant-dir-oracle": {
        "script": "snail_ppo",
        "title": "Ant, direction, 2 episodes, oracle",
        "arguments": SNAIL_ANT_DIR | TASK_IN_SIGHT,
        "seeds": [1],
    },
    "snail-ant-vel": {
        "script": "snail_ppo",
        "title": "Ant, velocity, 2 episodes",
        "arguments": SNAIL_ANT_VEL,
        "seeds": [1],
        "family": "Ant, velocity, 2 episodes",
    },
    "snail-ant-vel-oracle": {
        "script": "snail_ppo",
        "title": "Ant, velocity, 2 episodes, oracle",
        "arguments": SNAIL_ANT_VEL | TASK_IN_SIGHT,
        "seeds": [1],
    },
}
