"""Transcripts that repeat: made up by a recogniser, after public reports, and spoken by people.

HALLUCINATED: what a recogniser made up stands in `made_up`; all else was said. SPOKEN: all of it was.
The halves named HELD_BACK were written before the rules, and looked at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]
Line = tuple[float, float, str]


@dataclass(frozen=True)
class Transcript:
    """A transcript.

    Args:
        name: What it is.
        lines: Segments: start, end, text.
        made_up: Texts that were made up; each may stay once.
        source: The public report that it follows.
    """

    name: str
    lines: list[Line]
    made_up: Sequence[str] = field(default=())
    source: str = ""

    @property
    def segments(self) -> list[Json]:
        return [{"start": start, "end": end, "text": text} for start, end, text in self.lines]


def said(start: float, *texts: str, rate: float = 14.0) -> list[Line]:
    """Return lines at the pace of speech, about `rate` characters a second, with short pauses."""
    lines: list[Line] = []
    for number, text in enumerate(texts):
        wide = sum(character > "\u2e80" for character in text)
        # Nobody keeps to the clock: lengths and pauses differ by a few tenths.
        length = (len(text) + 2 * wide) / rate + (0.31, 0.55, 0.12, 0.48, 0.23)[number % 5]
        lines.append((round(start, 2), round(start + length, 2), text))
        start += length + (0.18, 0.62, 0.34, 0.9)[number % 4]
    return lines


def clocked(start: float, copies: int, length: float, *texts: str, gap: float = 0.0) -> list[Line]:
    """Return lines that follow each other by the clock, `copies` of them, the texts in turn."""
    lines: list[Line] = []
    for number in range(copies):
        begin = start + number * (length + gap)
        lines.append((round(begin, 2), round(begin + length, 2), texts[number % len(texts)]))
    return lines


def at(text: str, *times: tuple[float, float]) -> list[Line]:
    return [(start, end, text) for start, end in times]


TALK = (
    "So the plan for today is to go through the numbers of the last quarter.",
    "Sales were a little better than we had expected in the north.",
    "In the south we lost two customers, and I will come to that later.",
    "Let me first show you how the costs have developed.",
)
TALK_ZH = (
    "今天我们先来看一下上个季度的数据。",
    "北方的销售比预期好一些。",
    "南方我们失去了两个客户。",
)
WATCHING = "Thanks for watching!"
SEED = "To become one of them, one must drink the seed of the creature."
LIKE = "请不吝点赞 订阅 转发 打赏支持明镜与点点栏目"
MIRROR = "明镜需要您的支持 欢迎收看订阅明镜"
BORN = "はーい、リュウジョウお兄ちゃんとタイガちゃんが産まれました。"
MIKU = "作詞・作曲・編曲 初音ミク"
DC = "D.C. now, see what's going on."

HALLUCINATED = [
    Transcript(
        "thanks for watching, over the silence before a film",
        [
            (0.0, 73.38, " ".join([WATCHING] * 4)),
            (74.82, 75.78, WATCHING),
            (76.22, 83.82, " ".join([WATCHING] * 4)),
            (85.84, 88.12, WATCHING),
            (88.56, 89.56, WATCHING),
            (101.26, 104.26, WATCHING),
            (117.1, 124.22, " ".join([WATCHING] * 4)),
            (125.06, 126.56, WATCHING),
            (148.74, 149.42, " ".join([WATCHING] * 3)),
            (155.96, 170.26, " ".join([WATCHING] * 2)),
            (174.5, 179.4, WATCHING),
            (184.22, 192.78, " ".join([WATCHING] * 2)),
            (205.98, 209.38, WATCHING),
            *said(212.0, *TALK),
        ],
        [WATCHING],
        "McCloudS/subgen#21",
    ),
    Transcript(
        "the last sentence, for the rest of the film",
        [*said(1440.0, *TALK), *clocked(1493.76, 8, 29.98, SEED)],
        [SEED],
        "SubtitleEdit/subtitleedit#13081",
    ),
    Transcript(
        "请不吝点赞, every thirty seconds",
        clocked(0.0, 15, 30.0, LIKE),
        [LIKE],
        "sandrohanea/whisper.net#167",
    ),
    Transcript(
        "two lines about a channel, in turns, at any time",
        [
            *said(940.0, *TALK_ZH),
            *at(MIRROR, (988.42, 1008.32), (1004.54, 1023.3), (1031.46, 1053.22)),
            *at(LIKE, (1068.88, 1107.19)),
            *at(MIRROR, (1107.41, 1141.52), (1143.0, 1171.9)),
            *at(LIKE, (1172.4, 1201.8)),
            *said(1205.0, *TALK_ZH[1:]),
        ],
        [MIRROR, LIKE],
        "dyphire/mpv-sub-fastwhisper#9",
    ),
    Transcript(
        "a hundred ayes in ten seconds",
        [
            (0.03, 10.83, "and new controller. Second. All in favor. " + "Aye. " * 99 + "Aye."),
            *said(11.2, "Motion carries.", "Next item, please."),
        ],
        ["Aye."],
        "m-bain/whisperX#1425",
    ),
    Transcript(
        "a sentence a second",
        [*said(250.0, "はい、次のニュースです。"), *clocked(273.9, 9, 1.0, BORN)],
        [BORN],
        "jhj0517/Whisper-WebUI#238",
    ),
    Transcript(
        "laughter, every two seconds",
        [
            *said(390.0, "그래서 내가 말했잖아", "정말 웃기다"),
            *at("웃음소리", (412.0, 414.0), (418.0, 420.0)),
            *clocked(420.0, 20, 2.0, "웃음소리"),
        ],
        ["웃음소리"],
        "jhj0517/Whisper-WebUI#238",
    ),
    Transcript(
        "and very easy, every three seconds",
        [*said(120.0, "It is fast", "and it is cheap"), *clocked(130.58, 9, 3.0, "and very easy")],
        ["and very easy"],
        "tomchang25/whisper-auto-transcribe#3",
    ),
    Transcript(
        "lines of no length, then one a second",
        [
            *said(60.0, "Hold on, hold on."),
            *[(74.36, 74.36, ("hey, " * 17).strip())] * 6,
            *clocked(74.36, 12, 1.0, DC),
        ],
        ["hey,", DC],
        "ggml-org/whisper.cpp#2629",
    ),
    Transcript(
        "a digit that does not end",
        [*said(3.0, "Der Wert ist"), (5.1, 9.4, "8,41957" + "7" * 400), *said(10.0, "Volt.")],
        ["7"],
        "m-bain/whisperX#336",
    ),
    Transcript(
        "credits over an intro without words",
        [
            *at(MIKU, (0.0, 10.0), (30.0, 40.0), (60.0, 70.0), (90.0, 100.0)),
            *clocked(100.0, 6, 10.0, MIKU),
            *said(161.0, "君の声が聞こえる", "夜の街を走る"),
        ],
        [MIKU],
        "openai/whisper#1253",
    ),
    Transcript(
        "a little bit of, within one segment",
        [
            *said(180.0, *TALK[:2]),
            (190.0, 218.0, "I'm sorry, I'm just a " + "little bit of a " * 70),
            *said(219.0, *TALK[2:]),
        ],
        ["little bit of a"],
        "wassgha/rescript#13",
    ),
    Transcript(
        "来了来了, within one segment",
        [
            *said(33.0, "请跨上去吧", "把玩具放在那里"),
            (40.0, 48.0, "啊 " + "来了" * 45),
            *said(49.0, "好厉害"),
        ],
        ["来了"],
        "TransWithAI/Faster-Whisper-TransWithAI-ChickenRice#19",
    ),
    Transcript(
        "two lines in turns",
        [*said(10.0, *TALK), *clocked(40.0, 24, 2.0, "I'm going to go.", "Okay, bye.")],
        ["I'm going to go.", "Okay, bye."],
        "buxuku/SmartSub#407",
    ),
]

HALLUCINATED_HELD_BACK = [
    Transcript(
        "one phrase to the end of a meeting",
        [
            *said(1600.0, *TALK),
            *clocked(1655.0, 200, 2.0, "And then we have to do the same thing."),
        ],
        ["And then we have to do the same thing."],
        "DevelopersCoffee/airo#1813",
    ),
    Transcript(
        "half a minute of a vowel",
        [(110.2, 140.2, "え、" + "あ、" * 110), (140.2, 150.0, "今日はどこに行きますか。")],
        ["あ、"],
        "jhj0517/Whisper-WebUI#238",
    ),
    Transcript(
        "the prompt itself, within one segment",
        [(0.0, 81.0, "Transcribe em estático. " * 28)],
        ["Transcribe em estático."],
        "app-vox/vox#381",
    ),
    Transcript(
        "ご視聴ありがとうございました, in windows",
        [
            *said(12.0, "それでは始めましょう", "まずは材料です"),
            *clocked(30.0, 12, 29.98, "ご視聴ありがとうございました"),
            *said(392.0, "塩を入れます"),
        ],
        ["ご視聴ありがとうございました"],
        "thewh1teagle/vibe#620",
    ),
    Transcript(
        "three short lines, rotating",
        [
            *said(0.0, *TALK_ZH),
            *clocked(20.0, 30, 2.0, "请转发", "请打赏", "周末愉快"),
        ],
        ["请转发", "请打赏", "周末愉快"],
        "buxuku/SmartSub#402",
    ),
    Transcript(
        "thank you, in every window",
        [
            *said(100.0, *TALK),
            *clocked(150.0, 40, 2.0, "Thank you.", gap=28.0),
            *said(1360.0, *TALK[2:]),
        ],
        ["Thank you."],
        "saurabhav88/EnviousWispr#452",
    ),
    Transcript(
        "字幕由, at any time",
        [
            *at(
                "字幕由Amara.org社区提供",
                (0.0, 28.9),
                (31.2, 44.7),
                (50.1, 79.6),
                (81.0, 83.2),
                (88.8, 112.4),
                (113.0, 140.0),
                (142.9, 171.1),
            ),
            *said(172.0, *TALK_ZH),
        ],
        ["字幕由Amara.org社区提供"],
        "openai/whisper#679",
    ),
    Transcript(
        "Untertitel, in windows",
        [
            *said(5.0, "Guten Abend, meine Damen und Herren."),
            *clocked(30.0, 10, 30.0, "Untertitel im Auftrag des ZDF für funk, 2017"),
        ],
        ["Untertitel im Auftrag des ZDF für funk, 2017"],
        "openai/whisper#679",
    ),
    Transcript(
        "a line of two hundredths of a second",
        [
            *said(60.0, *TALK[:2]),
            *clocked(90.0, 25, 0.02, "I'm going to put it in the oven."),
            *said(91.0, *TALK[2:]),
        ],
        ["I'm going to put it in the oven."],
        "SYSTRAN/faster-whisper#436",
    ),
    Transcript(
        "the the the, within a sentence",
        [
            *said(20.0, *TALK[:1]),
            (26.0, 38.0, "And so we went to " + "the " * 150),
            *said(38.6, *TALK[1:3]),
        ],
        ["the"],
        "tinyhumansai/openhuman#553",
    ),
    Transcript(
        "you, in every window",
        clocked(0.0, 20, 30.0, "you"),
        ["you"],
        "screenpipe/screenpipe#4070",
    ),
    Transcript(
        "eighty times no in four seconds",
        [*said(70.0, "Are you coming?"), (72.4, 76.4, "No, " * 80 + "no."), *said(78.0, "Fine.")],
        ["No,"],
        "SYSTRAN/faster-whisper#506",
    ),
    Transcript(
        "是的, within one segment",
        [*said(8.0, *TALK_ZH[:2]), (16.0, 22.0, "是的" * 60), *said(23.0, *TALK_ZH[2:])],
        ["是的"],
        "zj1123581321/Adjust_SubTitle#1",
    ),
    Transcript(
        "the line before a pause, once a second",
        [
            *said(700.0, *TALK),
            *clocked(735.0, 14, 1.0, "Let me first show you how the costs have developed."),
        ],
        ["Let me first show you how the costs have developed."],
        "ggml-org/whisper.cpp#1507",
    ),
]

ROCK = "We will, we will rock you"
SPOKEN = [
    Transcript(
        "a song with a refrain",
        [
            *said(10.0, "Buddy, you're a boy, make a big noise", "Playing in the street", rate=8),
            *at(ROCK, (21.5, 25.0), (26.0, 29.8)),
            *said(31.0, "Buddy, you're a young man, hard man", "Shouting in the street", rate=8),
            *at(ROCK, (44.0, 47.5), (48.5, 52.0), (52.0, 55.0), (55.0, 58.5)),
        ],
    ),
    Transcript("a crowd", said(0.0, *["Let's go, Lakers!"] * 8, rate=9)),
    Transcript("drill", said(5.0, *["Left.", "Right."] * 10, "Halt!", rate=9)),
    Transcript(
        "counting",
        said(0.0, *[f"{number}." for number in range(1, 31)], "一、二、三、四", "一、二、三、四"),
    ),
    Transcript(
        "roll call",
        said(3.0, *[t for n in ("Anderson", "Baker", "Chen", "Diaz") for t in (f"{n}?", "Here.")]),
    ),
    Transcript(
        "a rosary",
        said(
            0.0,
            *["Hail Mary, full of grace, the Lord is with thee, blessed art thou among women."]
            * 10,
            "Glory be to the Father.",
        ),
    ),
    Transcript(
        "a litany",
        said(
            0.0,
            *["Lord, have mercy.", "Christ, have mercy.", "Lord, have mercy."],
            *[
                t
                for n in ("Peter", "Paul", "Mary", "John")
                for t in (f"Saint {n},", "pray for us.")
            ],
        ),
    ),
    Transcript(
        "a teacher's OK",
        [
            line
            for minute in range(8)
            for line in said(minute * 60.0, "OK.", f"Now look at question {minute}.", *TALK[:3])
        ],
    ),
    Transcript(
        "a dialogue of yes and no",
        said(
            40.0, "Did you see him?", "Yes.", "Yes?", "Yes.", "Yes.", "No.", "No!", "Yes.", "Yes."
        ),
    ),
    Transcript(
        "a contract, read aloud",
        said(
            0.0,
            *[
                f"The parties agree that clause {number} shall remain in force."
                for number in range(1, 13)
            ],
        ),
    ),
    Transcript(
        "a bad line",
        said(0.0, "Hello?", "Hello?", "Can you hear me?", "Hello?", "Hello?", "Hello?", "Oh, hi."),
    ),
    Transcript(
        "跟读",
        said(
            0.0,
            *[word for word in ("苹果", "香蕉", "西瓜", "葡萄") for _ in range(4)],
            "很好，再来一遍",
            rate=8,
        ),
    ),
    Transcript("a mantra", said(12.0, *["Om mani padme hum"] * 14, rate=6)),
    Transcript(
        "an auction",
        said(
            0.0,
            *["Five hundred.", "Five hundred.", "Five fifty, do I hear five fifty?"],
            *["Five fifty.", "Five fifty.", "Going once.", "Going twice.", "Sold!"],
        ),
    ),
]

SPOKEN_HELD_BACK = [
    Transcript(
        "a song that ends on one line",
        said(200.0, "Hey Jude, don't make it bad", *["Na na na nananana, hey Jude"] * 16, rate=7),
    ),
    Transcript(
        "a birthday",
        said(
            0.0,
            *["Happy birthday to you"] * 2,
            "Happy birthday, dear Anna",
            "Happy birthday to you",
        ),
    ),
    Transcript(
        "a song for children",
        said(
            0.0,
            *[
                line
                for name in ("Baby", "Mommy", "Daddy", "Grandma")
                for line in (*[f"{name} shark, doo doo doo doo doo doo"] * 3, f"{name} shark!")
            ],
        ),
    ),
    Transcript(
        "a hearing",
        said(
            0.0,
            *[
                line
                for number in range(9)
                for line in (
                    f"And on the {number + 3}th of May, where were you?",
                    "I don't recall.",
                )
            ],
            "Objection.",
            "Sustained.",
        ),
    ),
    Transcript(
        "a radio check",
        said(
            0.0, "Radio check.", "Copy.", "Copy.", "Say again?", "Copy, copy.", "Roger.", "Roger."
        ),
    ),
    Transcript("a meditation", said(0.0, *["Breathe in.", "And breathe out."] * 10, rate=3)),
    Transcript("a rally", said(4.0, *["Four more years!"] * 12, rate=8)),
    Transcript(
        "a vote",
        said(
            0.0, *[t for n in "ABCDEFGHIJ" for t in (f"Senator {n}?", "Aye.")], "The ayes have it."
        ),
    ),
    Transcript("加油", said(0.0, *["加油！加油！"] * 10, rate=9)),
    Transcript(
        "点名",
        said(0.0, *[t for name in ("王伟", "李娜", "张敏", "刘洋") for t in (name, "到")]),
    ),
    Transcript(
        "a small child",
        [
            *said(0.0, "Time for bed."),
            (2.4, 4.1, "No no no no no!"),
            *said(5.0, "Yes.", "No!", "No!"),
        ],
    ),
    Transcript(
        "a psalm",
        said(
            0.0,
            *[
                line
                for verse in (
                    "O give thanks unto the Lord",
                    "To him who made great lights",
                    "The sun",
                )
                for line in (f"{verse};", "for his mercy endureth for ever.")
            ],
            *["for his mercy endureth for ever."] * 2,
        ),
    ),
    Transcript(
        "a dance class",
        said(0.0, *["Five, six, seven, eight.", "And step, and step.", "Turn."] * 6),
    ),
    Transcript(
        "a recorded message, by the clock",
        clocked(0.0, 8, 4.2, "Your call is important to us. Please hold the line.", gap=25.8),
    ),
]
