"""Continuation of an answer that looped."""

from typing import Any

import pytest

from dedup.answer.attempt import Attempt
from dedup.answer.boundary import stands_open
from dedup.answer.continuation import (
    ALL_METHODS,
    MAX_ATTEMPTS,
    OPENING_TOKENS,
    Continuation,
    Healing,
    Opening,
    Support,
    next_words,
    repeated_phrases,
)

ELSEWHERE = Support()
LOCAL = Support(ALL_METHODS, opens=True)


def ladder(given: str, support: Support, **parameters: Any) -> list[Continuation]:
    healing = Healing(parameters, "Hello", support)
    rungs = [healing.next(given, " one loop", "", 0) for _ in range(MAX_ATTEMPTS)]
    assert healing.next(given, " one loop", "", 0) is None
    return [rung for rung in rungs if rung is not None]


def test_a_request_that_asks_for_more_keeps_it() -> None:
    body = {
        "temperature": 1.5,
        "frequency_penalty": 2.0,
        "dry_multiplier": 2.0,
        "no_repeat_ngram_size": 2,
    }
    sent = [{**body, **rung.parameters} for rung in ladder("It is a", LOCAL, **body)]
    assert [(one["temperature"], one["dry_multiplier"]) for one in sent[:2]] == [(1.5, 2.0)] * 2
    assert sent[1]["no_repeat_ngram_size"] == 2
    assert sent[1]["frequency_penalty"] == 2.0


def test_only_what_the_engine_obeys_is_sent() -> None:
    names = {name for rung in ladder("It is a", ELSEWHERE) for name in rung.parameters}
    assert names == {"temperature", "frequency_penalty", "seed", "max_tokens"}
    dry = Support(frozenset({"dry_multiplier"}))
    names = {name for rung in ladder("It is a", dry) for name in rung.parameters}
    assert names == {"temperature", "dry_multiplier", "dry_allowed_length", "seed", "max_tokens"}


@pytest.mark.parametrize(
    ("given", "is_structured"),
    [
        ("```html\n<nav>\n  <h1>Bar</h1>\n", True),
        ("| Cats | Dogs |\n| --- | --- |\n| soft | loud", True),
        ('{"items": [\n', True),
        ("```sh\nls\n```\n\nThat lists the files", False),
        ("The river had risen", False),
        ("- boil the water\n", False),
    ],
)
def test_nothing_that_punishes_repeats_is_sent_within_code_and_tables(
    given: str, is_structured: bool
) -> None:
    healing = Healing({}, "", Support(ALL_METHODS, bans_phrases=True))
    for attempt in range(2):
        following = healing.next(given, "and and and and and and and " * 4, "", attempt)
        assert following is not None
        assert ("dry_multiplier" in following.parameters) is not is_structured
        assert bool(following.phrases) is not is_structured


def test_half_a_line_of_code_is_ended() -> None:
    code = "```python\ntea = water()\ntea.stir(slowly)\ntea."
    first = Healing({}, "", LOCAL).next(code, "stir(slowly)\n" + "tea.stir(slowly)\n" * 9, "", 0)
    assert first is not None
    assert first.insertion == "stir(slowly)\n"


def test_a_function_that_the_loop_was_cut_in_has_a_body() -> None:
    body = "    if not arr:\n        return\n"
    given = "```python\ndef sort(arr):\n" + body + "\ndef sort_again(arr):\n"
    looped = body + "\ndef sort_again(arr):\n" + body
    healing = Healing({}, "", LOCAL)
    attempt = healing.next(given, looped, "", 0)
    assert attempt is not None
    assert attempt.insertion == body
    assert healing.ending(given, looped) == body
    half = given.removesuffix("in(arr):\n")
    assert Healing({}, "", LOCAL).ending(half, "in(arr):\n" + looped) == "in(arr):\n" + body


@pytest.mark.parametrize(
    ("given", "looped", "ending"),
    [
        ("Here they are:\n\n1. Tea\n2. ", "Tea\n3. Tea\n4. Tea\n", "Tea"),
        ("快递丢失的情况：1.", " 快递丢失的情况：1. 快递丢失的情况：1.", " 快递丢失的情况…"),
        ("1. Japan 2. China 3.", " China 4. China 5. China", " China…"),
        ("Here they are:\n\n* 1.", " 1. 1. 1. 1. 1. 1.", ""),
    ],
)
def test_an_item_that_was_begun_ends_in_the_words_of_the_loop_if_it_has_any(
    given: str, looped: str, ending: str
) -> None:
    assert stands_open(given, looped)
    assert Healing({}, "", LOCAL).ending(given, looped) == ending


@pytest.mark.parametrize(
    ("given", "looped", "ending"),
    [
        ("They saw Texas, Arizona, ", "Texas, Arizona, " * 40, "…"),
        ("They saw Texas, Ari", "zona, Texas, Ari" * 40, "zona…"),
        ("我们看到村庄，城市，", "村庄，城市，" * 60, "…"),
        ("我们看到村庄，城", "市，村庄，城" * 60, "市…"),
    ],
)
def test_an_enumeration_without_end_breaks_off_behind_its_comma_or_its_word(
    given: str, looped: str, ending: str
) -> None:
    assert Healing({}, "", LOCAL).ending(given, looped) == ending


@pytest.mark.parametrize(
    ("given", "looped", "ending"),
    [
        ("The snow,\nA moment of bliss,", "\nA moment of bliss," * 9, " …"),
        ("大雪，\n一片白，", "\n一片白，" * 9, "…"),
        ("The snow.\nA moment of bliss.", "\nA moment of bliss." * 9, ""),
    ],
)
def test_a_poem_does_not_end_in_a_comma(given: str, looped: str, ending: str) -> None:
    assert Healing({}, "", LOCAL).ending(given, looped) == ending


@pytest.mark.parametrize(
    ("given", "looped", "insertion"),
    [
        ("We need mushrooms, bell ", "peppers, mushrooms, bell peppers, ", "peppers"),
        ("They saw California, New", " York, California, New York, ", " York"),
        ("They saw California, Ne", "w York, California, New York, ", "w York"),
        ("They saw California, ", "Texas, California, Texas, ", ""),  # none has begun
        ("The river, which rose ", "and rose and rose and rose, ", "and"),
        ("Nobody slept. The river ", "rose, the river ", ""),
    ],
)
def test_an_item_between_commas_is_ended(given: str, looped: str, insertion: str) -> None:
    continuation = Healing({}, "", LOCAL).next(given, looped, "", 0)
    assert continuation is not None
    assert continuation.insertion == insertion


@pytest.mark.parametrize(
    ("given", "looped", "insertion"),
    [
        ("小狗和狐狸狐狸狐", "狸" + "狐狸" * 20, "狸"),
        ("小狗和狐狸狐狸", "狐狸" * 20, ""),
        ("我爱小狐狸小狐狸小", "狐狸" + "小狐狸" * 20, "狐狸"),
        ("好好好好", "好" * 40, ""),
    ],
)
def test_a_word_that_comes_over_and_over_is_ended(given: str, looped: str, insertion: str) -> None:
    continuation = Healing({}, "", LOCAL).next(given, looped, "", 0)
    assert continuation is not None
    assert continuation.insertion == insertion


def test_a_line_of_code_of_which_the_reader_has_the_indentation_is_not_said() -> None:
    given = "Here:\n\n```python\nclass A:\n    x = 1\n    "
    ladder = Healing({}, "", LOCAL)
    looped = "def f(self):\n        pass\n\n    def f(self):\n        pass\n"
    attempt = ladder.next(given, looped, "", 10)
    assert attempt is not None
    assert attempt.insertion == ""
    assert attempt.opening is not None
    assert "def" in attempt.opening.banned


@pytest.mark.parametrize(
    ("given", "looped", "prefix"),
    [
        ("1. Tea\n2. Milk", "\n9. Milk\n10. Milk\n", "1. Tea\n2. Milk\n3."),
        ("1. Tea\n2. Milk\n", "9) Milk\n10) Milk\n", "1. Tea\n2. Milk\n3)"),
        ("1、茶\n2、奶", "\n9、奶\n10、奶\n", "1、茶\n2、奶\n3、"),
        ("10. Tea\n20. Milk", "\n30. Milk\n40. Milk\n", "10. Tea\n20. Milk\n30."),
        ("- Tea\n- Milk", "\n- Milk\n- Milk\n", "- Tea\n- Milk\n-"),
        ("We have tea. And milk.", " And milk. And milk.", "We have tea. And milk."),
    ],
)
def test_a_list_goes_on_with_its_next_number(given: str, looped: str, prefix: str) -> None:
    """The loop's own number may be further on: items before it were removed."""
    first = Healing({}, "", LOCAL).next(given, looped, "", 0)
    assert first is not None
    assert first.prefix == prefix


def test_an_opening_of_its_own_is_short_and_what_follows_has_the_rest() -> None:
    healing = Healing({"max_completion_tokens": 100}, "Hello", ELSEWHERE)
    opening = healing.next("It is a ", "house and a house", "", 40)
    assert opening is not None
    assert opening.prefix == "It is a"
    assert opening.parameters["max_completion_tokens"] == OPENING_TOKENS
    assert opening.opening == Opening(("house",), True, False, True)
    freed = healing.freed("It is a c and a d ", 56)
    assert freed is not None
    assert freed.prefix == "It is a c and a d"
    assert freed.opening is None
    assert freed.parameters["max_completion_tokens"] == 44
    assert freed.parameters["seed"] == opening.parameters["seed"]
    assert healing.freed("It is a c", 100) is None


def test_behind_a_text_that_can_stop_it_is_not_tried_for_long() -> None:
    healing = Healing({}, "Hello", LOCAL)
    assert healing.next("He left.", " He left.", "", 0)
    assert healing.next("He left.", " He left.", "", 0)
    assert healing.next("He left.", " He left.", "", 0) is None
    assert healing.next("He left. She came.", " She came.", "", 0)


def test_behind_copies_that_the_reader_has_seen_every_attempt_is_made() -> None:
    given = "He left. He left. He left."
    rungs = ladder(given, LOCAL)
    assert len(rungs) == MAX_ATTEMPTS
    assert all(rung.opening is not None and not rung.opening.can_stop for rung in rungs)


def test_what_was_tried_in_vain_is_banned_next() -> None:
    healing = Healing({}, "Hello", LOCAL)
    healing.next("It is a", " b", "", 0)
    second = healing.next("It is a", " b", "'s thing", 0)
    assert second is not None
    assert second.opening is not None
    assert second.opening.banned == ("b", "'s")


def test_a_word_that_the_loop_was_cut_in_is_ended_by_every_attempt() -> None:
    """The loop of a vain attempt begins elsewhere."""
    healing = Healing({}, "Hello", LOCAL)
    first = healing.next("The article'", "s use of words", "", 0)
    second = healing.next("The article'", " way of words", " of words", 0)
    assert first is not None
    assert second is not None
    assert first.insertion == second.insertion == "s"


def test_a_word_that_the_loop_was_cut_in_is_ended() -> None:
    healing = Healing({}, "Hello", LOCAL)
    continuation = healing.next("The article'", "s use of words", "", 0)
    assert continuation is not None
    assert continuation.insertion == "s"
    assert continuation.prefix == "The article's"
    assert continuation.opening is not None
    assert continuation.opening.banned == ("use",)


@pytest.mark.parametrize(
    ("given", "looped", "insertion", "banned"),
    [
        ("They have been able", " to see it", " to", "see"),
        ("They have been able ", "to see it", "to", "see"),
        ("It is made", " of the milk", " of the", "milk"),
        ("It is made of", " milk and milk", "", "milk"),
        ("It is so.", " It is so.", "", "It"),
        ("She saw", " it. She saw", "", "it"),
    ],
)
def test_little_words_that_stand_open_are_said(
    given: str, looped: str, insertion: str, banned: str
) -> None:
    continuation = Healing({}, "Hello", LOCAL).next(given, looped, "", 0)
    assert continuation is not None
    assert continuation.insertion == insertion
    assert continuation.opening is not None
    assert continuation.opening.banned == (banned,)


@pytest.mark.parametrize(
    ("given", "looped", "insertion"),
    [
        ("他走进了门", "里，他走进了门里，", "里"),  # up to the clause's mark
        ("美国美风的美食美食美食美", "食美食美食美食美食", "食"),
        ("这是生命中的生命中的生", "命中的生命中的生命中的", ""),
    ],
)
def test_where_words_have_no_spaces_a_clause_is_ended(
    given: str, looped: str, insertion: str
) -> None:
    continuation = Healing({}, "Hello", LOCAL).next(given, looped, "", 0)
    assert continuation is not None
    assert continuation.insertion == insertion


def test_in_scripts_without_spaces_nothing_but_the_temperature_changes() -> None:
    """A token may be a part of a character there: banned, it would become another one."""
    for rung in ladder("门开着，她走了进去，什么人也没有看见", LOCAL):
        assert set(rung.parameters) == {"seed", "temperature"}


def test_thinking_that_loops_again_is_closed_so_that_the_model_answers() -> None:
    rungs = ladder("<think>Is it nine? Wait", LOCAL)
    assert rungs[0].insertion == ""
    assert all(rung.insertion == "\n</think>\n\n" for rung in rungs[1:])
    assert all(rung.prefix == "<think>Is it nine? Wait\n</think>\n\n" for rung in rungs[1:])
    rungs = ladder("<think>It is nine.</think>Nine and", LOCAL)
    assert {rung.insertion for rung in rungs} == {""}


@pytest.mark.parametrize(
    ("looped", "words"),
    [
        (" type of meat", ("type",)),
        ("\n17. **Emotional Intelligence**: this", ("Emotional",)),
        ("\n- 1 cup", ("1",)),
        ("don't go", ("don't",)),
        ("\n\n3. 机械能守恒", ("机", "机械", "机械能", "机械能守")),
        ("，它是", ("，",)),
        ("", ()),
    ],
)
def test_the_next_word_stands_behind_markers_and_marks(looped: str, words: tuple[str, ...]) -> None:
    assert next_words(looped) == words


def attempt(passed: str, *, stands_open: bool = True, insertion: str = "") -> Attempt:
    opening = Opening((), stands_open, not stands_open, False)
    return Attempt(Continuation(passed.rstrip(), opening, {}, insertion), passed)


@pytest.mark.parametrize(
    ("passed", "piece", "is_broken"),
    [
        ("1. Tea\n2. Ru", "m 3. Milk", True),
        ("1. Tea\n2. Ru", "m, 3 cups", False),
        ("- **Tea**\n- **Ru", "m** (old) - **Milk**", True),
        ("- **Tea** - **cold**\n- **Rum** - **ol", "d** - **Milk**", False),
    ],
)
def test_an_item_does_not_go_on_with_the_next_one(passed: str, piece: str, is_broken: bool) -> None:
    opening = Opening((), stands_open=True, can_stop=False, is_own_call=False)
    attempt = Attempt(Continuation(passed, opening, {}), passed)
    attempt.feed(attempt.join(piece))
    assert attempt.is_broken is is_broken


@pytest.mark.parametrize(
    ("passed", "insertion", "piece", "is_broken"),
    [
        ("这样就是你可", "能", "可能", True),
        ("这样就是你可", "能", "够", False),
        ("这样就是你可", "", "能可能", True),
        ("这样就是你可", "", "能不可能", False),
        ("那真是好", "", "好的", False),
        ("He told us that he had ", "", "had enough", True),
        ("He told us that he had ", "", "haddock ", False),
        ("It is a kind of", "", " of meat", True),
        ("The cat is not the", " dog", "dog", False),
        ("“长江！”", "", "\n\nthis is a story", True),
        ("They left. ", "", "and then they came", True),
        ("They left. ", "", "printf(", False),
        ("they left. ", "", "and then they came", False),
        ("他用的是电脑。", "", "python是", False),
        ("Two drinks.\n\n1. ", "", "tea and rum", False),
        ("```\nfrom a import b.\n", "", "a in b", False),
    ],
)
def test_a_continuation_that_cannot_follow_what_stands_before_it_is_broken(
    passed: str, insertion: str, piece: str, is_broken: bool
) -> None:
    for is_open in (False, "\n" not in piece):
        opening = Opening((), stands_open=is_open, can_stop=False, is_own_call=False)
        attempt = Attempt(Continuation(passed + insertion, opening, {}, insertion), passed)
        attempt.join(piece)
        assert attempt.is_broken is is_broken


@pytest.mark.parametrize(
    ("passed", "pieces", "joined"),
    [
        ("It is a ", [" ", "cat", " on"], "cat on"),
        ("It is a ", ["  cat"], "cat"),
        ("It is a", [" cat"], " cat"),
        ("Done.\n\n", ["\n", "\n", "Next"], "Next"),
        ("Done.\n", ["\n\nNext"], "\nNext"),
        ("Done.\n\n", [" Next"], "Next"),
        ("他是", ["一", "个"], "一个"),
        ("他走了。", [" ", "她来了"], "她来了"),
        ("Done。", ["\n\n她来了"], "\n\n她来了"),
    ],
)
def test_the_space_at_a_seam_comes_once(passed: str, pieces: list[str], joined: str) -> None:
    one = attempt(passed, stands_open=not passed.startswith("Done"))
    assert "".join(map(one.join, pieces)) == joined
    assert not one.is_broken


@pytest.mark.parametrize("text", ["\n\nA cat", "'s cat"])
def test_a_continuation_that_does_not_fit_is_broken(text: str) -> None:
    one = attempt("It is a ")
    one.join(text)
    assert one.is_broken


def test_an_attempt_of_which_nothing_passes_is_broken_in_the_end() -> None:
    one = attempt("It is a ")
    for _ in range(400):
        one.feed(one.join(" word"))
    assert one.is_broken


@pytest.mark.parametrize(
    ("given", "looped", "insertion", "banned"),
    [
        ("怎么教孩", "子学游泳？怎么教孩子", "子学游泳？", "怎"),
        ("它是一种", "神经递质，它是一种", "神经递质", "，"),
        ("我们走。", "我们走。", "", "我"),
        ("他是", "一个很好很好很好很好很好的人，他是", "", "一"),
    ],
)
def test_without_spaces_the_clause_is_ended(
    given: str, looped: str, insertion: str, banned: str
) -> None:
    continuation = Healing({}, "你好", LOCAL).next(given, looped, "", 0)
    assert continuation is not None
    assert continuation.insertion == insertion
    assert continuation.opening is not None
    assert continuation.opening.banned[0] == banned


def test_a_flood_is_not_the_rest_of_a_word() -> None:
    continuation = Healing({}, "Hello", LOCAL).next("It is 1000", "0" * 200, "", 0)
    assert continuation is not None
    assert continuation.insertion == ""


def test_what_was_repeated_is_banned_where_engines_ban_phrases() -> None:
    given = "It was late. He left the old house and went away. He left the old house and"
    healing = Healing({}, "Hello", Support(bans_phrases=True))
    opening = healing.next(given, " went away. He left", "", 0)
    assert opening is not None
    assert "He left the old house and" in opening.phrases
    assert "house and went away. He left" in opening.phrases
    assert not any("late" in phrase for phrase in opening.phrases)
    freed = healing.freed(f"{given} slept.", 0)
    assert freed is not None
    assert freed.phrases == opening.phrases
    other = Healing({}, "Hello", LOCAL).next(given, " went away. He left", "", 0)
    assert other is not None
    assert other.phrases == ()


def test_scripts_without_spaces_have_no_phrases() -> None:
    clause = "门开着，他走了。 "
    assert repeated_phrases(clause * 9) == ()
    assert repeated_phrases("He left the old house today. " * 2 + clause * 9)
