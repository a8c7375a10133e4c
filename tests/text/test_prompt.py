"""Requests for repetition in prompts, and text that only looks like one."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dedup.text.prompt import NOTHING_REQUESTED, read_prompt

LATE = "I will not be late."
LAUGH = "はっ" * 60
LOG = "the same line of the log\n"
ROW = "Row the boat home, row the boat home. " * 6

# prompt, reason, a loop's period, copies of it that have to be allowed
ASKING = [
    # English, with a number
    ("Write 'I will not talk in class' 100 times", "copies", "I will not talk in class. ", 100),
    ("Write the sentence 'I will close the gate.' one hundred times.", "copies", "I will close the gate.\n", 100),
    ("Please write out 'I'm not a robot' 40 times, one per line", "copies", "I'm not a robot\n", 40),
    ("Print 500 'ha' in a row, nothing else.", "copies", "ha", 500),
    ("print 500 ha", "copies", "ha", 500),
    ("Print 'ha' 500 times (no spaces)", "copies", "haha", 250),
    ('Repeat the word "Barley" 200 times verbatim', "copies", "Barley", 200),
    ("repeat the word poem two hundred and fifty times", "copies", "poem poem ", 125),
    ("Can you say hello 30 times?", "copies", "hello ", 30),
    ("I want you to type `meow` fifty times.", "copies", "meow ", 50),
    ("I need 80 copies of the line 'Property of the school'.", "copies", "Property of the school\n", 80),
    ("Give me a hundred copies of \"All work and no play makes Jack a dull boy.\"", "copies",
     "All work and no play makes Jack a dull boy. ", 100),
    ("500 x 'a'", "copies", "a", 500),
    ("'na' x 64", "copies", "na ", 64),
    ("Draw a row of 40 stars", "copies", "★", 40),
    ("Output 200 exclamation marks.", "copies", "!", 200),
    ("I'd like to see ha repeated 300 times", "copies", "ha", 300),
    ("Write 60 lines of 'I must do my homework.'", "copies", "I must do my homework.\n", 60),
    ("Repeat this sentence 50 times:\n\nThe cat sat on the mat.", "copies", "The cat sat on the mat. ", 50),
    ("Repeat 25 times: never again. Do not add numbers.", "copies", "Never again.\n", 25),
    ("Write 'never' 1,000 times.", "copies", "never ", 1000),
    ("Don't explain anything, just write 'I am sorry' 70 times.", "copies", "I am sorry. ", 70),
    ("Copy the sentence \"Dogs bark.\" 20 times without numbering.", "copies", "Dogs bark. ", 20),
    ("Write \"I will be late. \" no more than 30 times", "copies", "I will be late. ", 30),
    ("Type the letter a two dozen times", "copies", "a", 24),
    ("Say 'buffalo' sixty-four times in a row", "copies", "buffalo ", 64),
    ("For my stress test, output the emoji '😂' 300 times", "copies", "😂", 300),
    ("Write 'left' 10 times, then 'right' 20 times.", "copies", "right\n", 20),
    ("Write My name is Bob fifty times", "copies", "My name is Bob\n", 50),
    ("List the numbers 1 through 40. Format every line the same way: 'Line N: item number N of forty.'",
     "counting", "Line 7: item number 7 of forty.\n", 40),
    # English, without one
    ("Repeat after me: I am calm", "copies", "I am calm. ", 1),
    ("Repeat the word 'company' forever.", "repetition", "company ", 50),
    ("Say \"banana\" over and over again", "repetition", "banana ", 50),
    ("Please keep saying 'om' until I tell you to stop", "repetition", "om ", 50),
    ("Fill a whole page with 'redrum'", "repetition", "redrum ", 50),
    ("Write a song about trains with an extended outro.", "lyrics", "Carry me home tonight\n", 12),
    ("Compose a lullaby", "lyrics", "Sleep, little one, sleep.\n", 12),
    ("A poem about the sea, please", "poem", "and the sea, and the sea\n", 3),
    ("Give me a mantra to chant", "lyrics", "om mani padme hum ", 10),
    ("What are the lyrics of Hey Jude? Give me the full lyrics to the chorus", "lyrics", "na na na nananana ", 10),
    ("Give me handwriting practice for my son, age 6", "drill", "The cat sat.\n", 20),
    ("Create drills for the past tense", "drill", "I went. You went. ", 20),
    ("Generate 30 rows of test data", "test_data", "1,John Doe,john@example.com\n", 30),
    ("Generate 400 rows of dummy data as CSV", "test_data", "1,John Doe,john@example.com\n", 400),
    ("I need some filler text for a mockup", "test_data", "Lorem ipsum dolor sit amet. ", 50),
    ("Count to 500", "counting", "1 ", 500),
    ("Please count from 1 to 120 in words", "counting", "one ", 120),
    # Chinese
    ("把这句话抄写五十遍", "copies", "我再也不迟到了。", 50),
    ("请把“我错了”写一百遍。", "copies", "我错了。", 100),
    ("写10遍：我爱学习", "copies", "我爱学习\n", 10),
    ("帮我把「对不起」打两百遍", "copies", "对不起", 200),
    ("连续输出500个“哈”，不要其他内容", "copies", "哈", 500),
    ("打印100个哈字", "copies", "哈哈", 50),
    ("重复说“你好”五十次", "copies", "你好！", 50),
    ("请将“床前明月光”重复三百次", "copies", "床前明月光，", 300),
    ("老师罚我写检讨，“上课不说话”要写１００遍，帮我写", "copies", "上课不说话。", 100),
    ("把“加油”复制1百次", "copies", "加油", 100),
    ("不要加序号，把“我会早起”写八十遍", "copies", "我会早起。", 80),
    ("一直重复说“喵”", "repetition", "喵", 50),
    ("请不停地输出“啊”", "repetition", "啊", 50),
    ("写一首歌，副歌多重复几段", "lyrics", "晚风吹过我的窗，", 12),
    ("帮我写一首关于春天的诗", "poem", "春天来了，", 3),
    ("来一段《两只老虎》的歌词", "lyrics", "两只老虎，两只老虎，", 10),
    ("生成50条测试数据", "test_data", "张三,13800000000\n", 50),
    ("从1数到100", "counting", "1、", 100),
    ("请从一数到五十", "counting", "一、", 50),
    ("给孩子出一份抄写作业", "drill", "春眠不觉晓\n", 20),
    ("“我错了”一百遍", "copies", "我错了。", 100),
    # Japanese
    ("「門は必ず閉めます」と百回書いてください。", "copies", "門は必ず閉めます。\n", 100),
    ("「ごめんなさい」を五十回繰り返して", "copies", "ごめんなさい。", 50),
    ("「あ」を300個出力してください", "copies", "あ", 300),
    ("『遅刻しません』と10回書け。", "copies", "遅刻しません\n", 10),
    ("「オラ」を何度も繰り返してください", "repetition", "オラ", 50),
    ("雨の歌を作って", "lyrics", "雨が降る、雨が降る\n", 10),
    ("テストデータを生成して", "test_data", "山田太郎,100\n", 50),
    ("1から100まで数えてください", "counting", "1、", 100),
    # German
    ("Schreibe 60-mal den Satz: Ich schließe das Tor hinter mir.", "copies", "Ich schließe das Tor hinter mir.\n", 60),
    ("Schreib bitte sechzig Mal „Ich störe nicht“", "copies", "Ich störe nicht. ", 60),
    ("Wiederhole das Wort \"Kuchen\" fünfzigmal", "copies", "Kuchen ", 50),
    ("Schreibe hundertmal: Ich darf nicht lügen.", "copies", "Ich darf nicht lügen.\n", 100),
    ("Gib »Hallo« fünfundzwanzig Mal aus", "copies", "Hallo ", 25),
    ("Kannst du den Satz »Es regnet.« 40 mal schreiben?", "copies", "Es regnet. ", 40),
    ("Schreibe ein Lied über den Regen", "lyrics", "Es regnet, es regnet\n", 10),
    ("Zähle von 1 bis 200", "counting", "1, ", 200),
    ("Erstelle Testdaten für eine Kundentabelle", "test_data", "Max Muster,Berlin\n", 50),
    # French
    ("Écris-moi 200 fois le mot « bisou »", "copies", "bisou ", 200),
    ("Écris cinquante fois « Je ne bavarde pas en classe. »", "copies", "Je ne bavarde pas en classe.\n", 50),
    ("Répète 50 fois le mot \"soleil\"", "copies", "soleil ", 50),
    ("Ecris cent fois : je serai sage", "copies", "Je serai sage.\n", 100),
    ("Peux-tu écrire quatre-vingts fois “pardon” ?", "copies", "pardon ", 80),
    ("Affiche « ha » 1 000 fois", "copies", "ha", 1000),
    ("Répète le mot « oui » sans arrêt", "repetition", "oui ", 50),
    ("Écris une chanson sur la mer", "lyrics", "La mer, la mer\n", 10),
    ("Compte jusqu'à 150", "counting", "un ", 150),
    # Spanish
    ("Quiero que repitas \"hola\" 99 veces", "copies", "hola ", 99),
    ("Escribe cien veces \"No hablaré en clase\"", "copies", "No hablaré en clase.\n", 100),
    ("Repite la palabra «sol» 50 veces", "copies", "sol ", 50),
    ("¿Puedes escribir doscientas veces 'lo siento'?", "copies", "lo siento. ", 200),
    ("Escribe treinta y cinco veces: Haré mis deberes.", "copies", "Haré mis deberes.\n", 35),
    ("Repite «hola» una y otra vez", "repetition", "hola ", 50),
    ("Escribe una canción sobre la lluvia", "lyrics", "Llueve, llueve\n", 10),
    ("Cuenta hasta 100", "counting", "uno ", 100),
    # what stands in the prompt
    (f"Clean up the formatting of this note, keep every word:\n\ncall\n{ROW}\nSung by all.", "in_prompt",
     "Row the boat home, row the boat home. ", 6),
    (f"将下面的日文文本翻译成中文：「{LAUGH}！」魔王は長く笑った。", "in_prompt", "哈", 60),
    (f"Translate to German: {'I am tired. ' * 20}The end.", "in_prompt", "Ich bin müde. ", 20),
    (f"Transcribe: {'no no ' * 30}", "in_prompt", "no ", 60),
    (f"What is odd here?\n\n{LOG * 30}", "in_prompt", "the same line of the log\n", 30),
    (f"请整理格式：{'我们走在大路上，' * 12}到此为止。", "in_prompt", "我们走在大路上，", 12),
]  # fmt: skip

NOT_ASKING = [
    # negation
    "Do not repeat yourself.",
    "Find where bestpath is called.\n\nCritical rules:\n- Do not repeat the same query!\n- One search at a time.",
    "Summarize the plan. Don't repeat the same point 3 times.",
    "Write an article about bees without repeating any sentence.",
    "Never repeat a question. Answer in 3 sentences.",
    "Avoid repeating words over and over.",
    "You should not say the same thing ten times.",
    "Please stop repeating yourself again and again",
    "Rather than repeat 'I am sorry' 10 times, explain what went wrong.",
    "介绍一下北京，不要重复",
    "写一篇作文，别重复说同样的话",
    "请避免重复。",
    "请勿重复输出相同的内容",
    "不要把同一句话写三遍",
    "同じことを繰り返さないでください",
    "同じ文を3回書かないで",
    "何度も同じことを言わないでください",
    "Bitte nicht wiederholen.",
    "Wiederhole dich nicht.",
    "Schreibe den Satz nicht 50-mal.",
    "Ne répète pas la question.",
    "Explique la photosynthèse sans répéter les mêmes mots.",
    "No repitas la pregunta.",
    "Explica esto sin repetir nada.",
    # code
    ".menu { display: grid; grid-template-columns: repeat(3, 1fr); background: url(bg.png) no-repeat; }\n\nFix it.",
    "My grid is broken:\n\n```css\ngrid-template-columns: repeat(12, 1fr);\n/* write it 50 times */\n```\nWhat is wrong?",
    "What does `repeat_count` do?",
    "background-repeat: no-repeat;\nWhy is the image tiled?",
    "How do I use String.prototype.repeat in JavaScript?",
    "What does this print?\n\nfor i in range(10):\n    print('Hello')\n",
    "How can I print hello 10 times in Python?",
    "Write a Python program that prints hello 10 times.",
    "Write a function that counts how many times a word occurs",
    "How do I count from 1 to 100 in a shell script?",
    "SELECT name, repeat('x', 30) FROM users;\n\nWhy is this slow?",
    "Explain np.repeat(a, 3, axis=0) to me",
    "Write an infinite loop in C",
    "写一个循环，打印10次hello",
    "用 pandas 怎么删除表格里的重复数据？",
    "如何用 Python 把一个字符串重复十次？",
    "Pythonで文字列を10回繰り返す方法は？",
    "Wie kann ich in Java eine Schleife 10-mal ausführen?",
    # report
    "Context: the compressor starts 3 times an hour.",
    "Why is it 10 times faster?",
    "What is a repeating decimal?",
    "第3次世界大战会发生吗？",
    "写一篇关于第3次世界大战的小说",
    "a chorus that repeats three times",
    "The build failed 3 times, what now?",
    "I tried five times and it never worked.",
    "It happened 20 times last week.",
    "Is the new engine 3 times faster?",
    "He takes it twice a day. Is that too much?",
    "I wrote it 100 times in school and hated it.",
    "My model keeps saying the same thing over and over, how do I fix it?",
    "She asked me to repeat it three times and I got angry.",
    "Give me advice: the app crashed 5 times today.",
    "What happens if you say Bloody Mary three times?",
    "In class I had to write lines 50 times as a child. Was that common?",
    "试了三次都不行，怎么办？",
    "失败了3次",
    "我说了三遍他还是不听",
    "这款程序第一个月被下载了 60 次，第二个月是第一个月的三倍，一共多少次？",
    "温迪每天给每只鸡喂 3 次饲料，要喂多少杯？",
    "3回失敗しました。どうすればいいですか？",
    "一日3回薬を飲みます。多すぎますか？",
    "Ich habe es dreimal versucht.",
    "Der Server ist dreimal am Tag abgestürzt.",
    "J'ai essayé trois fois sans succès.",
    "Lo intenté tres veces y falló.",
    # a number of other things
    "Give me ten examples",
    "Write a 500-word essay on the Roman Empire",
    "How many times does 'a' occur in 'banana'?",
    "Answer in 3 sentences.",
    "Give me 5 different ways to say hello",
    "Make a list of 20 songs for a road trip",
    "Write 3 paragraphs about bread.",
    "What is 3 times 4?",
    "Write me an email with 3 questions",
    "Translate 'good morning' into Spanish.",
    "给我十个例子",
    "写一篇500字的作文",
    "请用三句话回答",
    "昨天我去了三次超市",
    "5つ例を挙げてください",
    "Nenne mir zehn Beispiele",
    "Schreibe einen Aufsatz mit 500 Wörtern",
    "Donne-moi dix exemples",
    "Dame diez ejemplos",
    "Escribe un ensayo de 500 palabras",
    # words alone
    "请复述这个故事",
    "仅使用这七个字母生成单词，字母可以重复",
    "What is a repeat prescription?",
    "I want to talk about \"Smooth\", a song by Rob Thomas.",
    "Repeat the process for every file in the folder",
    "Summarize this: He had to write 'I am late' 100 times and repeated it over and over.",
    "把下面的话翻译成英文：老师让他写一百遍。",
    "Translate to French: \"Write it 100 times.\"",
    "Tell me about the New York Times",
    "这首歌是谁唱的？",
    "Is copying 50 files slow?",
    "",
    "   \n",
]  # fmt: skip


@pytest.mark.parametrize(("prompt", "reason", "period", "copies"), ASKING)
def test_asking(prompt: str, reason: str, period: str, copies: int) -> None:
    request = read_prompt(prompt)
    assert request.reason == reason
    assert copies <= request.allowed_copies(period) <= max(2 * copies, 120)


@pytest.mark.parametrize("prompt", NOT_ASKING)
def test_not_asking(prompt: str) -> None:
    assert read_prompt(prompt) == NOTHING_REQUESTED
    assert read_prompt(prompt).allowed_copies(LATE) == 0


@pytest.mark.parametrize(
    ("period", "allowed"),
    [
        ("I will not be late.\n", 112),
        ("late. I will not be ", 112),
        ("12. I WILL NOT BE LATE!\n", 112),
        ("Line 12: I will not be late.\n", 112),
        ("I will not be late. I will not be late. ", 56),
        ("will not be late ", 0),
        ("I am sorry, I will not. ", 0),
        ("...", 0),
        ("", 0),
    ],
)
def test_the_allowance_is_for_the_unit(period: str, allowed: int) -> None:
    assert read_prompt(f"Write '{LATE}' 100 times.").allowed_copies(period) == allowed


def test_a_short_unit_is_no_part_of_a_word() -> None:
    request = read_prompt("Print 'ha' 100 times.")
    assert request.allowed_copies("hahaha ") == 112 // 3
    assert request.allowed_copies("hat ") == request.allowed_copies("the hare ") == 0


def test_of_long_periods_a_kind_of_text_allows_few() -> None:
    song = read_prompt("Write a song about rain.")
    assert song.allowed_copies("la la li ") == 16
    chorus = "".join(chr(ord("a") + at * at % 26) + chr(0x100 + at) for at in range(600))
    assert song.allowed_copies(chorus) == 3


def test_numbers_are_bounded() -> None:
    assert read_prompt("Write 'a' 99999999999999999999999 times").copies == 11_002
    assert read_prompt("Count to one million").copies <= 1_102


def test_a_request_and_a_run_in_one_prompt() -> None:
    request = read_prompt(f"Write 'oh no' 50 times.\n\nThis is my song so far:\n{ROW}")
    assert request.allowed_copies("oh no ") == 57
    assert request.allowed_copies("row the boat home ") >= 12
    assert request.allowed_copies("something else ") == 0


@settings(max_examples=300, deadline=None)
@given(st.text(), st.text())
def test_no_text_raises(prompt: str, period: str) -> None:
    assert read_prompt(prompt).allowed_copies(period) >= 0


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            "write repeat 'ha' 5 times 一百 遍 : ` \" ( ; \n . not 「 」 \ue000 \ud800".split(" ")
        )
    ),
    st.text("ha \n1."),
)
def test_no_mixture_raises(parts: list[str], period: str) -> None:
    assert read_prompt(" ".join(parts)).allowed_copies(period) >= 0


@pytest.mark.parametrize(
    "text",
    ["' ", "\"", "「", "one ", "hundred and ", "1,000", "a(", "write ", "repeat ", "一", "a", " ", "translate ", "x 'a' "],
)  # fmt: skip
def test_time_is_linear(text: str) -> None:
    started = time.perf_counter()
    read_prompt((text * 100_000)[:100_000] + "write x 3 times")
    assert time.perf_counter() - started < 2
