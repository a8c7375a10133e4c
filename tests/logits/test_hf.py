"""Real `generate` runs of a tiny random model, against transformers' own flags."""

from functools import partial

import pytest
import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    LlamaConfig,
    LlamaForCausalLM,
    LogitsProcessorList,
    NoRepeatNGramLogitsProcessor,
    StoppingCriteriaList,
)

from dedup import DecodingConfig, FilterConfig, LoopDetector, RepetitionFilter
from dedup.integrations.transformers import FilterStreamer, LoopStoppingCriteria
from dedup.logits.hf import apply_to, logits_processors
from dedup.logits.history import TokenHistory
from dedup.logits.tokens import breaker_tokens
from tests.logits.byte_tokenizers import TOKENIZERS, byte_tokens

torch.set_num_threads(1)
VOCABULARY = 128
PAD, BOS = 0, 1
PROMPT = [BOS, 17, 40, 17, 40, 99, 5]
STRICT = {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2}
OURS = DecodingConfig(**STRICT)
ALL = DecodingConfig(
    repetition_penalty=1.2,
    presence_penalty=0.4,
    frequency_penalty=0.3,
    no_repeat_ngram_size=3,
    dry_multiplier=0.8,
    dry_sequence_breakers=(),
    temperature=0.8,
)


def tiny_model(seed, num_layers=2):
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=num_layers,
        num_attention_heads=2,
        max_position_embeddings=256,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=None,
        initializer_range=0.3,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def model():
    return tiny_model(0)


@pytest.fixture(scope="module")
def tokenizer():
    return TOKENIZERS["byte fallback"]


@pytest.fixture
def generate(model):
    def run(rows=(PROMPT,), seed=0, **arguments):
        ids = torch.tensor(rows)
        torch.manual_seed(seed)
        arguments = {
            "attention_mask": (ids != PAD).long(),
            "max_new_tokens": 24,
            "do_sample": False,
        } | arguments
        return model.generate(ids, **arguments)

    return run


MODES = {
    "greedy": {},
    "sampling": {"do_sample": True, "top_k": 0, "seed": 5},
    "beams": {"num_beams": 3},
    "beams, all returned": {"num_beams": 4, "num_return_sequences": 4},
    "sampled beams": {"num_beams": 3, "do_sample": True, "seed": 2},
    "several returned": {"do_sample": True, "num_return_sequences": 3, "seed": 3},
}


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES.keys())
def test_matches_the_flags_of_transformers(generate, mode):
    plain = generate(**mode)
    expected = generate(**mode, **STRICT)
    assert not torch.equal(plain, expected)
    assert torch.equal(generate(**mode, logits_processor=logits_processors(OURS)), expected)


@pytest.mark.parametrize("mode", [{}, {"num_beams": 3}], ids=["greedy", "beams"])
def test_matches_the_flags_of_transformers_under_left_padding(generate, tokenizer, mode):
    rows = [PROMPT, [PAD, PAD, PAD, BOS, 40, 17, 40]]
    expected = generate(rows, **mode, **STRICT)
    assert torch.equal(
        generate(rows, **mode, logits_processor=logits_processors(OURS, tokenizer)), expected
    )


def test_padding_counts_for_nothing_in_any_method(tokenizer):
    config = DecodingConfig(no_repeat_ngram_size=1, repetition_penalty=2.0, presence_penalty=1.0)
    scores = torch.ones(1, VOCABULARY)
    ids = torch.tensor([[PAD, PAD, BOS, 7]])
    padded = logits_processors(config, tokenizer)(ids, scores.clone())
    alone = logits_processors(config, tokenizer)(ids[:, 2:], scores.clone())
    assert torch.equal(padded, alone)
    assert padded[0, PAD] == 1
    assert logits_processors(config)(ids, scores)[0, PAD] == -torch.inf


def test_one_instance_serves_one_generate_after_another(generate):
    processors = logits_processors(ALL)
    fresh = partial(logits_processors, ALL)
    longer = [*PROMPT, 9, 9, 3]
    runs = [
        {},
        {},
        {"rows": [longer]},
        {"rows": [longer, [*PROMPT, 4, 4, 4]]},
        {"rows": [PROMPT[:2]]},
        {"num_beams": 3},
        {"num_beams": 3, "rows": [PROMPT[:4]]},
    ]
    for arguments in runs:
        expected = generate(**arguments, logits_processor=fresh())
        assert torch.equal(generate(**arguments, logits_processor=processors), expected)


@pytest.mark.parametrize(
    "prompt",
    [
        [3, 4, 5, 6, 7, 8],  # what was seen, with more than a step can add
        [3, 4, 5],  # a step back
        [3, 4],  # the same prompt
        [3],
        [9, 4, 5, 6, 7],  # another, a token longer than what was seen
        [9, 4, 5, 6],
        [9],
    ],
)
def test_a_new_prompt_is_told_from_a_step_on(prompt):
    """The presence penalty tells: it leaves tokens of the prompt alone."""
    config = DecodingConfig(presence_penalty=1.0)
    processor = logits_processors(config)[0]
    scores = torch.zeros(1, VOCABULARY)
    for end in (2, 3, 4):
        out = processor(torch.tensor([[3, 4, 5, 6]])[:, :end], scores.clone())
        assert out[0].nonzero().flatten().tolist() == [5, 6][: end - 2]
    if len(prompt) == 3:  # as assisted decoding makes it: 5 is output still
        assert processor(torch.tensor([prompt]), scores)[0].nonzero().flatten().tolist() == [5]
    else:
        assert not processor(torch.tensor([prompt]), scores.clone()).any()
        out = processor(torch.tensor([[*prompt, 11]]), scores)
        assert out[0].nonzero().flatten().tolist() == [11]


def test_beams_get_the_penalties_of_their_own_tokens(generate):
    """Against a processor that keeps nothing between steps."""

    class Stateless:
        def __call__(self, input_ids, scores):
            for row, tokens in zip(scores, input_ids.tolist(), strict=True):
                history = TokenHistory(tokens[: len(PROMPT)], ALL.no_repeat_ngram_size)
                history.extend(tokens[len(PROMPT) :])
                apply_to(ALL, history, row)
            return scores

    for seed in range(3):
        expected = generate(
            num_beams=5,
            do_sample=True,
            seed=seed,
            logits_processor=LogitsProcessorList([Stateless()]),
        )
        assert torch.equal(
            generate(
                num_beams=5, do_sample=True, seed=seed, logits_processor=logits_processors(ALL)
            ),
            expected,
        )


@pytest.mark.parametrize("assistant_seed", [0, 1], ids=["which agrees", "which does not"])
def test_an_assistant_changes_nothing(model, generate, assistant_seed):
    assistant = model if assistant_seed == 0 else tiny_model(assistant_seed, num_layers=1)
    config = DecodingConfig(
        presence_penalty=1.0, frequency_penalty=0.6, no_repeat_ngram_size=3, repetition_penalty=1.1
    )
    expected = generate(logits_processor=logits_processors(config))
    assert not torch.equal(expected, generate())
    processors = logits_processors(config)
    for _ in range(2):
        assert torch.equal(
            generate(logits_processor=processors, assistant_model=assistant), expected
        )


def test_prompt_lookup_changes_nothing(generate):
    expected = generate(logits_processor=logits_processors(ALL))
    looked_up = generate(logits_processor=logits_processors(ALL), prompt_lookup_num_tokens=3)
    assert torch.equal(looked_up, expected)


def test_embeddings_for_a_prompt(model):
    embeddings = model.get_input_embeddings()(torch.tensor([PROMPT, PROMPT[::-1]]))
    processors = logits_processors(DecodingConfig(no_repeat_ngram_size=1))
    for _ in range(2):
        out = model.generate(
            inputs_embeds=embeddings,
            max_new_tokens=20,
            do_sample=False,
            logits_processor=processors,
        )
        assert out.shape == (2, 20)
        assert all(len(set(row)) == 20 for row in out.tolist())


@pytest.mark.parametrize("mode", [*MODES, "assisted"])
def test_output_logits_are_unchanged(generate, model, mode):
    arguments = {"return_dict_in_generate": True, "output_logits": True, "output_scores": True}
    arguments |= {"assistant_model": model} if mode == "assisted" else MODES[mode]
    out = generate(
        logits_processor=logits_processors(DecodingConfig(no_repeat_ngram_size=1)), **arguments
    )
    assert all(logits.isfinite().all() for logits in out.logits)
    assert all(scores.isneginf().any() for scores in out.scores)


def test_without_output_logits_no_copy_is_made(generate):
    handed_over = []
    processor = logits_processors(DecodingConfig(no_repeat_ngram_size=1))[0]

    class Watched:
        def __call__(self, input_ids, scores):
            out = processor(input_ids, scores)
            handed_over.append(out is scores)
            return out

    generate(
        logits_processor=LogitsProcessorList([Watched()]),
        return_dict_in_generate=True,
        output_scores=True,
    )
    assert all(handed_over)
    handed_over.clear()
    generate(
        logits_processor=LogitsProcessorList([Watched()]),
        return_dict_in_generate=True,
        output_logits=True,
    )
    assert not any(handed_over)


def test_presence_and_frequency_count_the_output_alone(generate):
    out = generate(
        logits_processor=logits_processors(
            DecodingConfig(presence_penalty=0.5, frequency_penalty=0.25)
        ),
        return_dict_in_generate=True,
        output_logits=True,
        output_scores=True,
    )
    output = out.sequences[0, len(PROMPT) :].tolist()
    for step, (logits, scores) in enumerate(zip(out.logits, out.scores, strict=True)):
        counts = torch.bincount(torch.tensor(output[:step], dtype=torch.long), minlength=VOCABULARY)
        torch.testing.assert_close(scores[0], logits[0] - 0.25 * counts - 0.5 * (counts > 0))


def test_prompt_length_tells_the_prompt_from_a_continued_answer(generate):
    config = DecodingConfig(presence_penalty=2.0, frequency_penalty=2.0)
    whole = generate(logits_processor=logits_processors(config))
    half = whole[:, : len(PROMPT) + 12].tolist()
    rest = generate(
        half,
        max_new_tokens=12,
        logits_processor=logits_processors(config, prompt_length=len(PROMPT)),
    )
    assert torch.equal(rest, whole)


def test_ids_of_any_integer_type_and_layout():
    ids = torch.tensor([PROMPT, PROMPT[::-1]])
    scores = torch.randn(2, VOCABULARY)
    expected = NoRepeatNGramLogitsProcessor(2)(ids, scores)
    for given_ids in (
        ids.int(),
        torch.tensor([PROMPT, PROMPT[::-1]] * 2)[:2],
        ids.t().contiguous().t(),
    ):
        assert torch.equal(
            logits_processors(DecodingConfig(no_repeat_ngram_size=2))(given_ids, scores.clone()),
            expected,
        )


def test_ids_changed_in_place_are_noticed():
    """Beam search keeps its sequences in one tensor and writes into it."""
    buffer = torch.tensor([[3, 4, 5, 6], [3, 4, 7, 8]])
    scores = torch.zeros(2, VOCABULARY)
    processor = logits_processors(DecodingConfig(frequency_penalty=1.0), prompt_length=0)[0]
    processor(buffer[:, :2], scores.clone())
    processor(buffer[:, :3], scores.clone())
    buffer[:, 2:] = buffer[:, 2:].flip(0).clone()
    penalised = processor(buffer, scores)
    assert [row.nonzero().flatten().tolist() for row in penalised] == [[3, 4, 7, 8], [3, 4, 5, 6]]


def test_dry_with_sequence_breakers(tokenizer):
    with pytest.raises(ValueError, match="tokenizer"):
        logits_processors(DecodingConfig(dry_multiplier=1.0))
    ids = torch.tensor([byte_tokens("abc\nxyabc\nx")])
    scores = torch.zeros(1, 260)
    config = DecodingConfig(dry_multiplier=1.0, dry_allowed_length=1)
    out = logits_processors(config, tokenizer)(ids, scores.clone())[0]
    assert out[byte_tokens("y")] == -1  # x alone matches: the line break caps it
    unbroken = logits_processors(
        DecodingConfig(dry_multiplier=1.0, dry_allowed_length=1, dry_sequence_breakers=())
    )
    assert unbroken(ids, scores)[0][byte_tokens("y")] == pytest.approx(-(1.75**4))


def test_a_breaker_may_be_spread_over_tokens(tokenizer):
    assert breaker_tokens(tokenizer, ("\n", ":")) == dict.fromkeys(byte_tokens("\n:"), ((),))
    assert breaker_tokens(tokenizer, ("s>",)) == {
        1: ((),),
        2: ((),),
        **dict.fromkeys(byte_tokens("s"), (tuple(byte_tokens(">")),)),
    }
    config = DecodingConfig(dry_multiplier=1.0, dry_allowed_length=1, dry_sequence_breakers=("--",))
    ids = torch.tensor([byte_tokens("ab--xyab--x")])
    assert logits_processors(config, tokenizer)(ids, torch.zeros(1, 260))[0][byte_tokens("y")] == -1


def test_a_looping_row_stops_and_the_others_go_on(tokenizer):
    criteria = LoopStoppingCriteria(tokenizer)
    looping = byte_tokens("So it is said. " * 60)
    novel = byte_tokens(" ".join(f"{word}{word[::-1]}" for word in _words(200)))[: len(looping)]
    prompt = byte_tokens("Say it: ")
    ids = torch.tensor([prompt + looping, prompt + novel])
    stopped = None
    for end in range(len(prompt) + 1, ids.shape[1]):
        done = criteria(ids[:, :end], None)
        assert done.dtype == torch.bool
        assert not done[1]
        if done[0]:
            stopped = end
            break
    assert stopped is not None
    event, other = criteria.events
    assert other is None
    assert event == LoopDetector().feed("So it is said. " * 60)
    with pytest.raises(ValueError, match="new LoopStoppingCriteria"):
        criteria(ids[:1], None)


def test_a_row_that_changes_starts_over(tokenizer):
    criteria = LoopStoppingCriteria(tokenizer)
    looping, novel = byte_tokens("round and round we go, " * 40), byte_tokens(" ".join(_words(200)))
    length = min(len(looping), len(novel))
    ids = torch.tensor([looping[:length], novel[:length]])
    for end in range(1, length, 7):
        done = criteria(ids[:, :end], None)
        if done.any():
            break
    assert done.tolist() == [True, False]
    assert criteria(ids[:, :end].flip(0), None).tolist() == [False, True]


def test_generate_stops_at_a_loop(generate, tokenizer):
    """The model is forced to repeat the same ten letters."""

    class Letters:
        def __call__(self, input_ids, scores):
            nxt = torch.full_like(scores, -torch.inf)
            cycle = byte_tokens("and so on ")
            nxt[:, cycle[input_ids.shape[1] % len(cycle)]] = 0
            return nxt

    criteria = LoopStoppingCriteria(tokenizer)
    out = generate(
        max_new_tokens=240,
        logits_processor=LogitsProcessorList([Letters()]),
        stopping_criteria=StoppingCriteriaList([criteria]),
    )
    assert out.shape[1] < 200
    assert criteria.events[0].period == 10


@pytest.mark.parametrize("policy", ["off", "balanced"])
def test_the_streamer_sends_what_the_filter_returns(tokenizer, policy):
    text = "The sea is wide — 海很宽。The ship is small. The ship is small. We sail on 🙂."
    given_out = []
    streamer = FilterStreamer(
        tokenizer, RepetitionFilter(FilterConfig(policy=policy)), given_out.append
    )
    streamer.put(torch.tensor([byte_tokens("prompt")]))
    for token in byte_tokens(text):
        streamer.put(torch.tensor([token]))
    streamer.end()
    expected = RepetitionFilter(FilterConfig(policy=policy))
    assert "".join(given_out) == expected.feed(text) + expected.flush()
    assert all(given_out)


def test_the_streamer_in_generate(generate, tokenizer):
    given_out = []
    streamer = FilterStreamer(
        tokenizer, RepetitionFilter(FilterConfig(policy="off")), given_out.append, skip_prompt=False
    )
    out = generate(streamer=streamer)
    assert "".join(given_out) == tokenizer.decode(out[0], skip_special_tokens=True)
    with pytest.raises(ValueError, match="one sequence"):
        generate(
            [PROMPT, PROMPT],
            streamer=FilterStreamer(tokenizer, RepetitionFilter(), given_out.append),
        )


def test_a_streamer_stops_generate_where_its_filter_cuts(generate, tokenizer):
    class Letters:
        def __call__(self, input_ids, scores):
            nxt = torch.full_like(scores, -torch.inf)
            cycle = byte_tokens("and so on ")
            nxt[:, cycle[input_ids.shape[1] % len(cycle)]] = 0
            return nxt

    given_out = []
    repetition_filter = RepetitionFilter()
    streamer = FilterStreamer(tokenizer, repetition_filter, given_out.append)
    out = generate(
        max_new_tokens=240,
        logits_processor=LogitsProcessorList([Letters()]),
        stopping_criteria=StoppingCriteriaList([streamer.stop]),
        streamer=streamer,
    )
    assert repetition_filter.ended
    assert out.shape[1] < 200
    assert "".join(given_out).count("and so on") <= 2


def _words(number):
    """Return distinct words without a counter's regularity."""
    letters = "etaoinshrdlucmfwypvbgk"
    words = []
    state = 1
    for _ in range(number):
        word = ""
        for _ in range(5):
            state = (state * 1103515245 + 12345) % 2**31
            word += letters[(state >> 16) % len(letters)]
        words.append(word)
    return words


def tiny_encoder_decoder():
    torch.manual_seed(3)
    config = BartConfig(
        vocab_size=VOCABULARY,
        d_model=32,
        encoder_layers=1,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        max_position_embeddings=128,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=None,
        decoder_start_token_id=BOS,
        forced_eos_token_id=None,
        init_std=0.3,
    )
    return BartForConditionalGeneration(config).eval()


@pytest.mark.parametrize(
    "mode", [{}, {"num_beams": 3}, {"do_sample": True, "num_return_sequences": 2}], ids=str
)
def test_encoder_decoders_match_the_flags_of_transformers(mode):
    model, ids = tiny_encoder_decoder(), torch.tensor([PROMPT, PROMPT[::-1]])
    arguments = {"max_new_tokens": 20, "do_sample": False, "min_new_tokens": 20} | mode

    def run(**more):
        torch.manual_seed(1)
        return model.generate(ids, **arguments, **more)

    plain, flags = run(), {**STRICT, "encoder_no_repeat_ngram_size": 2}
    assert not torch.equal(run(**flags), plain)
    assert torch.equal(
        run(logits_processor=logits_processors(DecodingConfig(**flags), encoder_input_ids=ids)),
        run(**flags),
    )
    with pytest.raises(ValueError, match="encoder_input_ids"):
        logits_processors(DecodingConfig(**flags))


def test_a_static_cache_changes_nothing(generate):
    expected = generate(**STRICT)
    assert torch.equal(
        generate(logits_processor=logits_processors(OURS), cache_implementation="static"), expected
    )


def test_compiling_changes_nothing():
    plain, compiled = logits_processors(ALL)[0], logits_processors(ALL)[0]
    run = torch.compile(compiled.__call__, backend="eager")
    ids = torch.tensor([PROMPT, PROMPT[::-1]])
    for length in range(4, len(PROMPT) + 1):
        scores = torch.randn(2, VOCABULARY)
        torch.testing.assert_close(
            run(ids[:, :length], scores.clone()), plain(ids[:, :length], scores.clone())
        )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_types_that_numpy_lacks_take_the_batch_path(dtype):
    config = DecodingConfig(no_repeat_ngram_size=2, repetition_penalty=1.5)
    ids, scores = torch.tensor([PROMPT]), torch.randn(1, VOCABULARY).to(dtype)
    expected = logits_processors(config)(ids, scores.float())
    torch.testing.assert_close(
        logits_processors(config)(ids, scores).float(), expected, rtol=1e-2, atol=1e-2
    )


@pytest.mark.parametrize("wrong", [float("-inf"), float("nan")])
def test_a_row_without_a_score_raises(wrong):
    scores = torch.zeros(2, VOCABULARY)
    scores[1] = wrong
    with pytest.raises(ValueError, match="row 1: the model gave no token a score"):
        logits_processors(OURS)(torch.tensor([PROMPT, PROMPT]), scores)
