"""Rewards that punish loops, for GRPO and other reinforcement learning.

`RepetitionReward` is for TRL, `compute_score` for verl, `reward_func` for OpenRLHF. The last two
are found by name in this file.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from dedup.training.messages import Conversation, prompt_text, texts_of
from dedup.training.onset import second_copy


class RepetitionReward:
    """A reward that is 0 for text without loops, and negative from a loop's second copy on.

    The reward is `max_penalty` times the share of the completion from the second copy to its end.
    What stands before the loop and its first copy cost nothing, so the reward falls as a loop
    grows, from 0 towards `max_penalty`. It is 0 for what the filter leaves alone: tables, code,
    refrains, and repetition that the prompt asks for.

    Instances are callable as TRL calls reward functions, and can be pickled.

    Args:
        max_penalty: reward that an endless loop approaches.

    Raises:
        ValueError: `max_penalty` is not a negative number.
    """

    __name__ = "repetition_reward"  # TRL names its metrics so

    def __init__(self, max_penalty: float = -1.0) -> None:
        if not -float("inf") < max_penalty < 0:
            raise ValueError(f"max_penalty must be a negative number, got {max_penalty!r}")
        self.max_penalty = max_penalty

    def __call__(
        self,
        prompts: Sequence[Conversation],
        completions: Sequence[Conversation],
        completion_ids: Sequence[Sequence[int]] | None = None,
        **columns: Any,
    ) -> list[float]:
        """Return the rewards of a batch, as TRL's trainers ask for them.

        Args:
            prompts: Strings or lists of messages.
            completions: Strings or lists of messages.
            completion_ids: Not used.
            columns: Not used.
        """
        return [
            self.score(completion, prompt)
            for prompt, completion in zip(prompts, completions, strict=True)
        ]

    def score(self, completion: Conversation, prompt: Conversation = "") -> float:
        """Return the reward of one completion."""
        asked = prompt_text(prompt)
        chars = looping = 0
        for text in texts_of(completion):
            chars += len(text)
            start = second_copy(text, asked)
            if start is not None:
                looping += len(text) - start
        return self.max_penalty * looping / chars if looping else 0.0


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: Mapping[str, Any] | None = None,
    max_penalty: float = -1.0,
    **unused: Any,
) -> float:
    """Return the reward of a completion, as verl asks for it.

    Args:
        data_source: Not used.
        solution_str: The completion.
        ground_truth: Not used.
        extra_info: The prompt under `prompt` or `question`, so that repetition that it asks for is
            not punished.
        max_penalty: See `RepetitionReward`. Set it under `reward_kwargs`.
        unused: What else verl passes.
    """
    info = extra_info or {}
    prompt = info.get("prompt", info.get("question"))
    if prompt is None:
        prompt = ""
    return RepetitionReward(max_penalty).score(solution_str, prompt)


def reward_func(queries: Sequence[str], prompts: Sequence[str], labels: Sequence[Any]) -> Any:
    """Return the rewards of a batch, as OpenRLHF asks for them. Requires torch.

    Args:
        queries: Prompts with their completions.
        prompts: The prompts alone.
        labels: Not used.

    Returns:
        `rewards` and `scores`: tensors with one number per query.
    """
    import torch

    score = RepetitionReward().score
    rewards = torch.tensor(
        [
            score(_completion(query, prompt), prompt)
            for query, prompt in zip(queries, prompts, strict=True)
        ]
    )
    return {"rewards": rewards, "scores": rewards}


def _completion(query: str, prompt: str) -> str:
    """Return what follows the prompt, which detokenization may have altered at its beginning."""
    _, found, completion = query.partition(prompt)
    return completion if found else query[len(prompt) :]
