"""Every published row, as data: `run.py` trains what stands here, `plot.py` shows what is trained.

To add a row, add an entry to ROWS. Its name is that of its folder in benchmark/results. It has

    script      the file that trains it, without .py
    title       what the tables call it; MAML's rows of one title share a figure
    arguments   those that differ from the script's defaults
    seeds       one training each
    role        of MAML's rows: MAML, pretrained or oracle
    family      its line in the README's table, a key of FAMILIES; most rows have none
    papers      what papers report
    baselines   a setting of results/baselines.json, and its algorithms to compare with
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
    "Ant, direction": "ant-dir-oracle",
    "Ant, direction, 2 episodes": "rl2-ant-dir-oracle",
    "MiniGrid, red ball, 2 episodes": None,
}

# What several rows have in common.
TEN_PULLS = ["Bayes optimum (exact)", "greedy", "Thompson sampling"]
HUNDRED_PULLS = ["finite-horizon Gittins", "greedy", "Thompson sampling"]
MDP_PAPERS = {"RL² paper": 156.2, "SNAIL paper": 159.1}
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
LOCOMOTION = {"gamma": 0.95, "max_kl": 0.03, "fisher_fraction": 0.2}
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
# Of an earlier try; to be trained at the settings of MAML's row.
HALFCHEETAH_VEL_BEFORE = LOCOMOTION | {
    "env_id": "HalfCheetahVel-v0",
    "num_iterations": 160,
    "meta_batch_size": 40,
    "action_scale": 0.3,
    "eval_trials": 100,
}
ANT_DIR = LOCOMOTION | {
    "env_id": "AntDir-v0",
    "num_iterations": 60,
    "action_scale": 0.15,
    "eval_trials": 40,
}
PRETRAINED = {"num_inner_steps": 0}
ORACLE = {"num_inner_steps": 0, "env_kwargs": {"observe_task": True}}
RL2_LOCOMOTION = {
    "episodes_per_trial": 2,
    "total_timesteps": 30_000_000,
    "num_envs": 256,
    "cell": "lstm",
    "hidden_size": 128,
    "learning_rate": 2e-3,
    "gamma": 0.97,
    "gae_lambda": 0.9,
    "num_minibatches": 4,
    "update_epochs": 4,
    "ent_coef": 0.002,
    "norm_obs": True,
    "norm_reward": True,
    "amp": True,
    "eval_trials": 200,
}
RL2_HALFCHEETAH_DIR = RL2_LOCOMOTION | {"env_id": "HalfCheetahDir-v0"}
RL2_HALFCHEETAH_VEL = RL2_LOCOMOTION | {"env_id": "HalfCheetahVel-v0"}
RL2_ANT_DIR = RL2_LOCOMOTION | {"env_id": "AntDir-v0", "action_scale": 0.3}
RL2_ORACLE = {"env_kwargs": {"observe_task": True}}

ROWS = {
    # ------------------------------------------------------------------------------------ RL^2
    "bandit-5-arms-10-pulls": {
        "script": "rl2_ppo",
        "title": "bandit, 5 arms, 10 pulls",
        "arguments": {},
        "seeds": SEEDS,
        "family": "bandit, 5 arms, 10 pulls",
        "papers": {"RL² paper": 6.7},
        "baselines": ["5 arms, 10 pulls", *TEN_PULLS],
    },
    "bandit-10-arms-10-pulls": {
        "script": "rl2_ppo",
        "title": "bandit, 10 arms, 10 pulls",
        "arguments": MANY_ARMS | {"env_kwargs": {"num_arms": 10}},
        "seeds": SEEDS,
        "papers": {"RL² paper": 6.7},
        "baselines": ["10 arms, 10 pulls", *TEN_PULLS],
    },
    "bandit-50-arms-10-pulls": {
        "script": "rl2_ppo",
        "title": "bandit, 50 arms, 10 pulls",
        "arguments": MANY_ARMS | {"env_kwargs": {"num_arms": 50}},
        "seeds": SEEDS,
        "papers": {"RL² paper": 6.8},
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
        "papers": {"RL² paper": 78.7},
        "baselines": ["5 arms, 100 pulls", *HUNDRED_PULLS],
    },
    "bandit-5-arms-100-pulls-regret": {
        "script": "rl2_ppo",
        "title": "bandit, 5 arms, 100 pulls, from regret",
        "arguments": LONG_TRIALS
        | {
            "total_timesteps": 150_000_000,
            "cell": "lstm",
            "gae_lambda": 0.9,
            "gamma_start": 0.9,
            "learn_from_regret": True,
        },
        "seeds": SEEDS,
        "family": "bandit, 5 arms, 100 pulls",
        "papers": {"RL² paper": 78.7},
        "baselines": ["5 arms, 100 pulls", *HUNDRED_PULLS],
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
        "papers": MDP_PAPERS,
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
        "papers": MDP_PAPERS,
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
        "arguments": RL2_HALFCHEETAH_DIR | RL2_ORACLE,
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
        "arguments": RL2_HALFCHEETAH_VEL | RL2_ORACLE,
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
        "arguments": RL2_ANT_DIR | RL2_ORACLE,
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
        "arguments": HALFCHEETAH_VEL_BEFORE | PRETRAINED,
        "seeds": [1],
    },
    "halfcheetah-vel-oracle": {
        "script": "maml_trpo",
        "title": "HalfCheetah, velocity",
        "role": "oracle",
        "arguments": HALFCHEETAH_VEL_BEFORE | ORACLE,
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
    # ----------------------------------------------------------------------------------- SNAIL
    "snail-bandit-5-arms-10-pulls": {
        "script": "snail_ppo",
        "title": "bandit, 5 arms, 10 pulls",
        "arguments": {},
        "seeds": SEEDS,
        "family": "bandit, 5 arms, 10 pulls",
        "papers": {"RL² paper": 6.7, "SNAIL paper": 6.6},
        "baselines": ["5 arms, 10 pulls", *TEN_PULLS],
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
        "papers": {"RL² paper": 78.7, "SNAIL paper": 79.1},
        "baselines": ["5 arms, 100 pulls", *HUNDRED_PULLS],
    },
    "snail-mdp-10-episodes": {
        "script": "snail_ppo",
        "title": "MDP, 10 episodes",
        "arguments": MDP | MDP_FROM_REGRET | {"total_timesteps": 100_000_000},
        "seeds": SEEDS,
        "family": "tabular MDP, 10 episodes",
        "papers": MDP_PAPERS,
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
}
