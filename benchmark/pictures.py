"""Pictures of a trained agent in held-out tasks, from its checkpoint.

    python benchmark/pictures.py runs/.../checkpoint.pt            # writes beside the checkpoint
    python benchmark/pictures.py runs/.../checkpoint.pt FOLDER     # or into a folder
    python benchmark/pictures.py VisualMaze-v0 docs/figures        # mazes, without an agent

Locomotion, and ordinary environments that render to rgb_array: `video.gif`, episodes of some tasks
side by side, before and after adaptation (the first and the last one of a trial; for MAML before
and after gradient steps). Mazes: the same, what the agent sees beside the map. Navigation2D:
`paths.png`, as in figure 4 of Finn et al. (2017). Bandits and MDPs: `heatmap.png`, which arm is
pulled, which state is visited in the course of a trial, as a part of many agents in the same task.
"""

import os
import sys
from pathlib import Path

import numpy as np
import torch
from gymnasium.spaces import Discrete, flatdim

try:
    import matplotlib.pyplot as plt
    from PIL import Image, ImageDraw
except ModuleNotFoundError as error:  # training does not need them
    sys.exit(f"error: {error}: pip install -r tests/requirements.txt")

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import envs  # noqa: E402
import maml_trpo  # noqa: E402
import rl2_ppo  # noqa: E402
import snail_ppo  # noqa: E402

SCRIPTS = {script.ALGORITHM: script for script in (maml_trpo, rl2_ppo, snail_ppo)}
# Right, down, left, up: how a step changes x and y of a picture.
HEADINGS = ((1, 0), (0, 1), (-1, 0), (0, -1))
PACKAGES = "on Debian or Ubuntu, sudo apt install libegl1 libgl1-mesa-dri"


def script_of(checkpoint):
    """The module of the script that made a checkpoint; UsageError for any other file."""
    try:
        saved = torch.load(checkpoint, weights_only=True, map_location="cpu")
        algorithm = str(saved["algorithm"])
    except Exception as error:  # of any kind: what is wrong is the file
        name = type(error).__name__
        raise envs.UsageError(f"{checkpoint} is no readable checkpoint: {name}.") from None
    if algorithm not in SCRIPTS:
        raise envs.UsageError(f"{checkpoint} is of {algorithm}, not of {', '.join(SCRIPTS)}.")
    return SCRIPTS[algorithm]


def trials(checkpoint, num_tasks, copies, look=None, **kwargs):
    """`copies` trials of a checkpoint's agent in each of `num_tasks` held-out tasks.

    (For MAML at least 20, to adapt on.) Returns the environment, the tasks, and a dict with an
    entry for every episode (RL^2, SNAIL) or number of gradient steps (MAML, of which each copy is
    an episode): arrays [T, num_tasks, copies, ...] of `obs`, `action`, `valid`, and of what a
    function `look` of the environment gave before each step, [num_tasks or all, ...].
    """
    script = script_of(checkpoint)
    try:
        agent = script.load(checkpoint)
    except RuntimeError:  # from torch, in many lines: the weights are of other names or sizes
        raise envs.UsageError(
            f"{checkpoint} is of a network of another version: train again with this one."
        ) from None
    if script is maml_trpo:
        policy, params, args = agent
        copies = max(20, copies)
    else:
        args = agent.args
    env = envs.make(args.env_id, num_tasks * copies, **args.env_kwargs | kwargs)
    tasks = env.sample_tasks(num_tasks, [1, args.eval_seed])
    seen = []
    step = env.step

    def watched(actions):
        seen.append(look(env))
        return step(actions)

    if look:
        env.step = watched
    torch.manual_seed(args.eval_seed)
    # `part` is the number of the episode, or of gradient steps, to which a step belongs.
    names = ("obs", "action", "part")
    if script is maml_trpo:
        labels = ["0 gradient steps", "1 gradient step", "2 gradient steps", "3 gradient steps"]
        batches = script.trial(policy, params, env, tasks, 3, args.eval_seed, args)
        for i, batch in enumerate(batches):
            batch["obs"] = batch["raw_obs"]  # what the network sees may be normalized
            batch["part"] = torch.where(batch["valid"], i, -1)
        data = {
            name: torch.cat([batch[name] for batch in batches], dim=2).movedim(2, 0).numpy()
            for name in names
        }
    else:
        episodes = args.episodes_per_trial
        labels = [f"episode {i + 1}" for i in range(episodes)]
        repeated = np.repeat(tasks, copies, axis=0)
        rollout = script.rollout(agent, env, repeated, episodes, args.eval_seed)
        rollout["part"] = rollout["episode"]
        data = {name: rollout[name].unflatten(1, (num_tasks, copies)).numpy() for name in names}
    env.close()

    space = env.unwrapped._base_space  # of what was seen without the task
    if env.observe_task:
        data["obs"] = data["obs"][..., : flatdim(space)]
    if isinstance(space, Discrete) and data["obs"].ndim == 4:  # one-hot
        data["obs"] = data["obs"].argmax(-1)
    if look:
        seen = np.stack(seen)
        data["look"] = seen.reshape(len(seen), num_tasks, -1, *seen.shape[2:])
    number = data.pop("part")
    parts = {}
    for i, label in enumerate(labels):
        valid = number == i
        # The part's steps to the front: in trials side by side they begin at different times.
        order = np.argsort(~valid, axis=0, kind="stable")[: valid.sum(axis=0).max()]
        parts[label] = {name: take(array, order) for name, array in data.items()}
        parts[label]["valid"] = take(valid, order)
    return env, tasks, parts


def take(array, order):
    """The steps `order` [T, tasks, copies] of an array [., tasks, copies or 1, ...]."""
    order = order[:, :, : array.shape[2]]
    index = order.reshape(order.shape + (1,) * (array.ndim - 3))
    return np.take_along_axis(array, index, axis=0)


def save(figure, path):
    """Writes a figure and returns its path."""
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path


def paths(checkpoint, folder, num_tasks=4, copies=3):
    """Navigation: paths of some episodes in each task, before and after adaptation."""
    _, goals, parts = trials(checkpoint, num_tasks, copies)
    labels = list(parts)
    if len(labels) > 4:
        labels = labels[:3] + labels[-1:]
    colors = plt.cm.viridis(np.linspace(0.85, 0, len(labels)))
    size = (3.2 * num_tasks, 3.5)
    figure, axes = plt.subplots(1, num_tasks, figsize=size, sharex=True, sharey=True)
    for i, axis in enumerate(axes):
        for label, color in zip(labels, colors, strict=True):
            part = parts[label]
            for k in range(copies):
                path = part["obs"][part["valid"][:, i, k], i, k]  # [T, 2]
                lines = axis.plot(*path.T, color=color, linewidth=1.2)
            lines[0].set_label(label)
        x, y = goals[i]
        axis.plot(x, y, "r*", markersize=14, label="goal")
        axis.plot(0, 0, "ko", markersize=4)
        axis.set(xlim=(-0.8, 0.8), ylim=(-0.8, 0.8), aspect="equal")
        axis.set_title(f"goal ({x:.2f}, {y:.2f})")
    handles = axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=len(labels) + 1, frameon=False)
    figure.subplots_adjust(left=0.06, right=0.99, top=0.9, bottom=0.2)
    return save(figure, folder / "paths.png")


def fractions(chosen, rows):
    """Which part of the agents chose each of `rows`: [T, copies] to [rows, T]."""
    return (chosen == np.reshape(rows, (-1, 1, 1))).mean(axis=2)


def maps(env, tasks, parts):
    """A list of what a heat map shows in each task.

    That is a list of (title, labels of the rows, parts of the agents [rows, T]).
    """
    obs = np.concatenate([part["obs"] for part in parts.values()])  # [T, tasks, copies]
    action = np.concatenate([part["action"] for part in parts.values()])
    result = []
    if tasks.dtype.names is None:  # bandits
        for i, means in enumerate(tasks):
            order = np.argsort(-means)
            labels = [f"{mean:.2f}" for mean in means[order]]
            pulled = fractions(action[:, i], order)
            result.append([("arm pulled, by its mean", labels, pulled)])
        return result
    _, regret = envs.plan(tasks["transitions"], tasks["rewards"], env.horizon)
    rank = regret.argsort(axis=-1).argsort(axis=-1)  # [horizon, tasks, S, A], 0 is the best action
    time = np.concatenate([np.arange(len(part["obs"])) for part in parts.values()])[:, None]
    ranks = list(range(env.num_actions))
    places = list(range(1, env.num_actions + 1))
    for i, rewards in enumerate(tasks["rewards"]):
        highest = rewards.max(axis=1)  # [S]
        order = np.argsort(-highest)
        labels = [f"{reward:.2f}" for reward in highest[order]]
        visited = fractions(obs[:, i], order)
        taken = fractions(rank[time, i, obs[:, i], action[:, i]], ranks)
        task_maps = [
            ("state, by its highest mean reward", labels, visited),
            ("action taken, 1 is the best in its state", places, taken),
        ]
        result.append(task_maps)
    return result


def heatmap(checkpoint, folder, num_tasks=4, copies=200):
    """Bandits and MDPs: what many agents do, from step to step.

    Bandits: how many of them pull an arm, the best one on top. MDPs: how many are in a state, the
    one with the highest mean reward on top, and how many take the best, second best, ... action.
    """
    env, tasks, parts = trials(checkpoint, num_tasks, copies)
    drawn = maps(env, tasks, parts)
    is_maml = "0 gradient steps" in parts
    lengths = [len(part["obs"]) for part in parts.values()]
    ends = np.cumsum(lengths)[:-1]
    x_label = "gradient steps (white lines)" if is_maml else "step (white lines: episodes)"
    if max(lengths) == 1:  # every step is a part: it needs no lines
        ends = []
        x_label = "gradient step" if is_maml else "pull"
    columns = len(drawn[0])
    figure, axes = plt.subplots(
        num_tasks,
        columns,
        figsize=(4 + 4 * columns, 0.8 + 1.5 * num_tasks),
        sharex=True,
        squeeze=False,
        constrained_layout=True,
    )
    for j in range(columns):
        # Few agents are in the same state.
        high = 0.5 if columns == 2 and j == 0 else 1
        for i in range(num_tasks):
            axis = axes[i, j]
            title, labels, part = drawn[i][j]
            extent = (0.5, part.shape[1] + 0.5, len(part) - 0.5, -0.5)
            image = axis.imshow(
                part, aspect="auto", vmin=0, vmax=high, interpolation="nearest", extent=extent
            )
            axis.set_yticks(range(len(part)), labels, fontsize=7)
            axis.set_ylabel(f"task {i + 1}")
            for end in ends:
                axis.axvline(end + 0.5, color="white", linewidth=0.8)
        axes[0, j].set_title(title)
        axes[-1, j].set_xlabel(x_label)
        figure.colorbar(image, ax=list(axes[:, j]), label=f"part of {copies} agents")
    return save(figure, folder / "heatmap.png")


def write(image, corner, text):
    """Writes a text into an image."""
    ImageDraw.Draw(image).text(corner, text, fill="white", stroke_fill="black", stroke_width=1)


def chosen_films(parts, num_tasks):
    """What `look` gave in each task, {label: [array [T, ...], ...]}, of some parts.

    These are the first and the last episode of a trial; for MAML episodes before adaptation and
    after one and three gradient steps.
    """
    labels = list(parts)
    chosen = [labels[0], labels[-1]]
    if "0 gradient steps" in parts:
        chosen = ["0 gradient steps", "1 gradient step", "3 gradient steps"]
    films = {}
    for label in chosen:
        part = parts[label]
        films[label] = [part["look"][part["valid"][:, i, 0], i, 0] for i in range(num_tasks)]
    return films


def film(path, rows, tasks, fps):
    """A gif with a row of films for every label and a column for every task.

    `rows` is {label: [frames [T, H, W, 3], ...]}. A film that is over stands still at its end.
    """
    names = [np.array2string(np.asarray(task), precision=2) for task in tasks]
    length = max(len(frames) for row in rows.values() for frames in row)
    pictures = []
    for t in range(length):
        lines = []
        for label, row in rows.items():
            images = []
            for name, frames in zip(names, row, strict=True):
                image = Image.fromarray(frames[min(t, len(frames) - 1)])
                write(image, (6, 4), f"{label}; task {name}")
                images.append(np.asarray(image))
            lines.append(np.concatenate(images, axis=1))
        pictures.append(Image.fromarray(np.concatenate(lines)))
    # One palette for all, without dithering: a smaller file.
    palette = pictures[length // 2].quantize(64)
    pictures = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    first, *others = pictures
    first.save(path, save_all=True, append_images=others, duration=1000 // fps, loop=0)
    return path


def locomotion(checkpoint, folder, num_tasks=2):
    """MuJoCo, drawn without a display: every other step, at the speed of life."""
    import mujoco
    from mujoco.rendering.classic import gl_context

    env, tasks, parts = trials(
        checkpoint, num_tasks, 1, look=lambda env: env.unwrapped._qpos.copy()
    )
    has_display = os.environ.get("DISPLAY") or "MUJOCO_GL" in os.environ
    try:
        if sys.platform == "linux" and not has_display:
            from mujoco import egl

            gl_context.GLContext = egl.GLContext
        renderer = mujoco.Renderer(env.unwrapped._model, 150, 200)
    except Exception as error:  # whatever is missing: a library, a driver, a display
        raise envs.UsageError(f"Cannot draw without OpenGL ({error!r}): {PACKAGES}.") from None
    data = mujoco.MjData(env.unwrapped._model)

    def image_of(pose):
        data.qpos[:] = pose
        mujoco.mj_forward(env.unwrapped._model, data)
        renderer.update_scene(data, camera="track")
        image = Image.fromarray(renderer.render())
        position = f"x = {pose[0]:.1f} m"
        if env.is_ant:
            position += f", y = {pose[1]:.1f} m"
        write(image, (6, 134), position)
        return np.asarray(image)

    rows = {}
    for label, films in chosen_films(parts, num_tasks).items():
        rows[label] = [[image_of(pose) for pose in poses[::2]] for poses in films]
    renderer.close()
    return film(folder / "video.gif", rows, tasks, fps=10)


def rendered(checkpoint, folder, num_tasks=3):
    """Ordinary environments, as they draw themselves with render_mode rgb_array."""

    def look(env):
        """Images [num_tasks, H, W, 3], of the first copy in each task."""
        copies = env.num_envs // num_tasks
        try:
            images = [single.render() for single in env.unwrapped._envs.envs[::copies]]
            # of RGBA, as a canvas of matplotlib gives it, the colours
            return np.stack([Image.fromarray(image).convert("RGB") for image in images])
        except Exception as error:  # of the environment's own, or it gives None
            raise envs.UsageError(
                f"No picture: the environment does not render to rgb_array ({error!r})."
            ) from error

    # pygame needs no display; with "dummy" some environments do not draw.
    os.environ.setdefault("SDL_VIDEODRIVER", "offscreen")
    kwargs = {"vectorization_mode": "sync", "render_mode": "rgb_array"}
    args = script_of(checkpoint).read_checkpoint(checkpoint)["args"]
    try:
        envs.make(args["env_id"], 1, **args["env_kwargs"] | kwargs).close()
    except Exception as error:  # `draw` has made it without render_mode: that is what is wrong
        raise envs.UsageError(
            f"No picture: {args['env_id']} cannot be made with render_mode rgb_array "
            f"({type(error).__name__}). It has to take that argument."
        ) from error
    _, tasks, parts = trials(checkpoint, num_tasks, 1, look, **kwargs)
    return film(folder / "video.gif", chosen_films(parts, num_tasks), tasks, fps=5)


def mazes(folder, num_tasks=3):
    """Held-out mazes: their maps, with the start as an arrow, and what is seen there."""
    env = envs.make("VisualMaze-v0", num_tasks)
    tasks = env.sample_tasks(num_tasks, [1, 0])
    obs, _ = env.reset(seed=0, options={"tasks": tasks})
    figure, axes = plt.subplots(1, 2 * num_tasks, figsize=(3.6 * num_tasks, 1.8), squeeze=False)
    for i, task in enumerate(tasks):
        plan, view = axes[0, 2 * i : 2 * i + 2]
        blocks = np.pad(task, 1, constant_values=7)  # the wall around it
        plan.imshow(env.unwrapped._colors[np.where(blocks > 7, 0, blocks)])
        ((row, column),) = np.argwhere(blocks > 7)
        right, down = HEADINGS[blocks[row, column] - 8]
        plan.annotate(
            "",
            (column + 0.6 * right, row + 0.6 * down),
            (column - 0.6 * right, row - 0.6 * down),
            arrowprops={"color": "white", "width": 1.5, "headwidth": 7, "headlength": 6},
        )
        view.imshow(obs[i])
        for axis in (plan, view):
            axis.set(xticks=[], yticks=[])
    figure.subplots_adjust(left=0.01, right=0.99, top=0.98, bottom=0.02, wspace=0.06)
    folder.mkdir(parents=True, exist_ok=True)
    return save(figure, folder / "mazes.png")


def walks(checkpoint, folder, num_tasks=3):
    """Mazes: what the agent sees, beside the map with the agent as an arrow."""

    def look(env):
        """Pictures [num_tasks, 150, 350, 3], of the first copy in each task."""
        maze = env.unwrapped
        copies = env.num_envs // num_tasks
        side = 2 * maze.size + 1
        views = maze._observe().repeat(5, axis=1).repeat(5, axis=2)  # [N, 150, 200, 3]
        blocks = maze._blocks.reshape(-1, side, side)[1:-1]  # without the walls before and after
        plans = maze._colors[blocks]
        pictures = []
        for i in range(0, env.num_envs, copies):
            place, heading = maze._pose[:, i]
            plan = Image.fromarray(plans[i]).resize((150, 150), Image.Resampling.NEAREST)
            row, column = divmod(place % side**2, side)
            middle = np.array([column, row]) + 0.5
            ahead = np.array(HEADINGS[heading])
            aside = ahead[::-1]
            back = middle - 0.4 * ahead
            corners = [middle + 0.5 * ahead, back + 0.4 * aside, back - 0.4 * aside]
            corners = [tuple(corner * 150 / side) for corner in corners]
            ImageDraw.Draw(plan).polygon(corners, fill="yellow")
            pictures.append(np.concatenate([views[i], np.asarray(plan)], axis=1))
        return np.stack(pictures)

    _, _, parts = trials(checkpoint, num_tasks, 1, look)
    names = range(1, num_tasks + 1)
    return film(folder / "video.gif", chosen_films(parts, num_tasks), names, fps=3)


KINDS = {
    envs.VisualMaze: walks,
    envs.Bandit: heatmap,
    envs.TabularMDP: heatmap,
    envs.Navigation2D: paths,
    envs.Locomotion: locomotion,
    envs.BatchedTasks: rendered,
}


def draw(checkpoint, folder=None):
    """Writes the picture that suits a checkpoint's environment into `folder`, or beside it.

    Returns its path, or None where there is no picture of the environment. Raises UsageError for a
    bad checkpoint, and where OpenGL is missing.
    """
    args = script_of(checkpoint).read_checkpoint(checkpoint)["args"]
    env = envs.make(args["env_id"], 1, **args["env_kwargs"])
    env.close()
    picture = KINDS.get(type(env.unwrapped))
    if picture is None:
        print(
            f"No picture of {args['env_id']}: "
            "a vector environment of your own needs one of its own."
        )
        return None
    folder = Path(folder or Path(checkpoint).parent)
    folder.mkdir(parents=True, exist_ok=True)
    path = picture(checkpoint, folder)
    print(f"A picture of held-out trials is in {path}")
    return path


if __name__ == "__main__":
    words = sys.argv[1:]
    if len(words) not in (1, 2) or words == ["VisualMaze-v0"] or words[0].startswith("-"):
        sys.exit("error: python benchmark/pictures.py CHECKPOINT [FOLDER], or VisualMaze-v0 FOLDER")
    try:
        if words[0] == "VisualMaze-v0":
            mazes(Path(words[1]))
        else:
            draw(*words)
    except (envs.UsageError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("Stopped.")
