"""A corpus of clean text with planted repetition, in English and Chinese."""

import gzip
import json
from pathlib import Path

from tests.corpus.texts import chinese, docstrings

COPIES = 100
COPIED = {
    "en": "The lighthouse keeper wrote down the weather every evening for forty years. Nobody ever "
    "asked to see the books. When the station closed, a student found them behind the stove.",
    "zh": "灯塔看守人四十年来每天傍晚都记录天气。从来没有人要看那些本子。灯塔关闭以后，一个学生在炉子后面发现了它们。",
}
BOILERPLATE = {
    "en": "Subscribe to our newsletter to receive the best stories of the week in your inbox.",
    "zh": "欢迎订阅我们的每周通讯，第一时间获取最新的精彩内容和活动信息。",
}
TEMPLATES = {
    "en": "Your parcel with the number {} left our warehouse and will arrive within {} days.",
    "zh": "您的包裹编号为{}的货物已经离开我们的仓库，预计将在{}天之内送达您的手中。",
}
LOOPS = {
    "en": "I think that we should look at the data again. ",
    "zh": "我认为我们应该再看一遍这些数据。",
}
DRIFT = "Step {}: check the pressure of valve {} and write it into the log before going on.\n"
NUM_LOOPS = 8
NUM_FILES = 4


def rows() -> list[dict[str, str]]:
    """Return the documents. The host of a URL says what is planted in them."""
    clean = {"en": docstrings(300), "zh": chinese(90)}
    found = []

    def add(host: str, text: str) -> None:
        found.append({"text": text, "url": f"https://{host}.example/{len(found)}"})

    for language, texts in clean.items():
        for number, text in enumerate(texts):
            if number % 6 == 0:
                add(f"boilerplate-{language}", f"{text}\n{BOILERPLATE[language]}")
            elif number % 6 == 1:
                line = TEMPLATES[language].format(71000 + 13 * number, number % 9 + 2)
                add(f"template-{language}", f"{text}\n{line}")
            else:
                add(f"clean-{language}-{number % 3}", text)
        for _ in range(COPIES):
            add(f"copies-{language}", COPIED[language])
        for number in range(NUM_LOOPS):
            text = texts[number][:150] + LOOPS[language] * (8 + number)
            add(f"loops-{language}", text)
    for number in range(NUM_LOOPS):
        steps = "".join(DRIFT.format(step, step * 3 + number) for step in range(1, 25 + number))
        add("drift-en", steps)
    return found


def write(folder: Path) -> Path:
    """Write the documents to JSON lines in a few files, and return the folder."""
    folder.mkdir()
    every = rows()
    for number in range(NUM_FILES):
        with gzip.open(folder / f"{number}.jsonl.gz", "wt", encoding="utf-8") as file:
            for row in every[number::NUM_FILES]:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return folder
