"""The words of the tables in Chinese, for README.zh.md and docs/tutorial.zh.md."""

import re

WORDS = {
    # heads
    "task": "任务",
    "algorithm": "算法",
    "for comparison": "供比较",
    "what changes": "什么在变",
    "random actions": "随机动作",
    "first (before adaptation, or in the first episode)": "之前 (适应之前, 或第一个回合)",
    "then (after it, or in the second episode)": "之后 (适应之后, 或第二个回合)",
    "minutes": "分钟",
    "command": "命令",
    "steps of training": "训练步数",
    "steps to 95 %": "达到 95% 的步数",
    "minutes to 95 %": "达到 95% 的分钟数",
    # rows and what limits them
    "bandit": "老虎机",
    "arms": "个臂",
    "pulls": "次拉动",
    "from regret": "从遗憾学习",
    "from rewards": "从奖励学习",
    "tabular MDP": "表格型 MDP",
    "with levers": "用辅助手段",
    "no levers": "不用辅助手段",
    "2D navigation": "二维导航",
    "one episode": "一个回合",
    "episodes": "个回合",
    "direction": "方向",
    "velocity": "速度",
    "physics": "物理参数",
    "visual maze": "视觉迷宫",
    "red ball": "红球",
    "traffic": "交通",
    "Bayes optimum": "贝叶斯最优",
    "knows the MDP": "已知该 MDP",
    "at the goal": "在目标点上",
    "knows the maze": "已知该迷宫",
    "oracle": "已知任务",
    "seed": "个种子",
    "seeds": "个种子",
    "min": "分钟",
    # side by side
    "| steps |": "| 步数 |",
    "random": "随机",
    "return": "回报",
    "share of the oracle": "归一化得分",
    "after 0 to 3 gradient steps": "(0 到 3 步梯度更新之后)",
    "in episodes 1, 2": "(第 1、2 个回合)",
    "not trained yet": "尚未训练",
    # where it is used
    "a robot whose body or ground changes": "机体或地面会变的机器人",
    "a room with a ball somewhere": "红球位置不定的房间",
    "before adaptation": "适应之前",
    "after one gradient step": "一步梯度更新之后",
    "first episode": "第一个回合",
    "second episode": "第二个回合",
    "not measured yet": "尚未测量",
    # which one to take
    "example": "例子",
    "environment steps to train it": "训练所用的环境步数",
    "minutes to train it": "训练所用的分钟数",
    "parameters": "参数个数",
    "what a new task costs": "一个新任务的代价",
    "in evaluation": "评估时",
    "up to": "最多",
    "steps": "步",
    "one gradient step": "一步梯度更新",
    "nothing: it learns while it acts": "无: 边行动边学习",
    "numbers kept in a trial of 10 steps, of 100 steps": "一次试验要保存多少个数 (10 步, 100 步)",
    "its own parameters": "自己的一份参数",
    "a step at t = 100, at t = 900": "一步的开销 (t = 100、t = 900)",
    "the same": "相同",
    "256 trials": "256 次试验",
    "longer trials have more blocks": "试验越长, 块数越多",
    "can adapt for longer than in training": "适应的时间能否比训练时更长",
    "with more gradient steps": "能, 多做梯度更新",
    "after 1, 2, 3": "(1、2、3 步之后)",
    "longer trials are possible, but hardly improve further (exercise 5)": (
        "能进行更长的试验, 但几乎不再改善 (练习 5)"
    ),
    "no: its memory has the length of a trial of training": "不能: 记忆的长度等于训练时的试验长度",
    "what it cannot do": "做不到什么",
    "change its behaviour before some whole episodes are over": "在几个完整的回合结束之前改变行为",
    "keep a long past exactly": "精确地记住很长的历史",
    "play trials longer than in training": "进行比训练时更长的试验",
}
LONGEST_FIRST = sorted(WORDS, key=len, reverse=True)
PHRASE = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, LONGEST_FIRST))})(?!\w)")
MILLIONS = re.compile(r"(\d+(?:\.\d+)?) M\b")
CODE = re.compile(r"(`[^`]*`)")
HAN = r"[\u4e00-\u9fff]"  # a Chinese character
# after a Chinese character, before one, or before a number and one: "MDP, 10 个回合"
BESIDE_CHINESE = rf"(?<={HAN}){{mark}} ?|{{mark}} ?(?={HAN})|(?<!\d){{mark}} (?=[\d.]+ {HAN})"


def amount(match):
    """1.44 M as 144 万 (units of 10,000), 150 M as 1.5 亿 (units of 100 million)."""
    millions = float(match[1])
    if millions >= 100:
        return f"{millions / 100:g} 亿"
    return f"{millions * 100:g} 万"


def in_chinese(table):
    """A markdown table with Chinese words; names, code and other numbers than millions stay."""
    parts = CODE.split(table)  # every second one is code
    for i in range(0, len(parts), 2):
        text = MILLIONS.sub(amount, parts[i])
        text = PHRASE.sub(lambda match: WORDS[match[0]], text)
        text = re.sub(BESIDE_CHINESE.format(mark=","), "，", text)
        text = re.sub(BESIDE_CHINESE.format(mark=":"), "：", text)
        # between the items of a list: "6.0 ms, 10.7 ms" (57,600 is one number)
        text = re.sub(r"(?<=\d|s), (?=-?\d)", "、", text)
        text = text.replace(" (", "（").replace(")", "）")
        parts[i] = text
    return "".join(parts)
