"""Rows for final token preference optimization: the token that starts a loop, and alternatives.

FTPO trains a single position. A row holds the text up to the loop's second copy, the token that the
model went on with, and the tokens that it could have gone on with. The format is that of Antidoom
(Liquid AI), auto-antislop and mlx-lm-lora.
"""

import re
from typing import Any

from dedup.training.incidents import Incident, fields_of
from dedup.training.messages import Conversation, prompt_text
from dedup.training.onset import second_copy

_WORD = re.compile(r"\w")


class FtpoRows:
    """A maker of FTPO rows with the model that looped. Requires transformers.

    Args:
        model: A causal language model.
        tokenizer: Its tokenizer, which has to be a fast one.
        max_chosen: Most alternatives of a row.
        min_p: Least probability of an alternative, relative to that of the likeliest one.

    Raises:
        ValueError: The tokenizer is not a fast one, or a number is out of its range.
    """

    def __init__(
        self, model: Any, tokenizer: Any, *, max_chosen: int = 20, min_p: float = 0.02
    ) -> None:
        if not tokenizer.is_fast:
            raise ValueError("a fast tokenizer is required: FTPO needs the offsets of tokens")
        if max_chosen < 1:
            raise ValueError(f"max_chosen must be at least 1, got {max_chosen!r}")
        if not 0 <= min_p <= 1:
            raise ValueError(f"min_p must be from 0 to 1, got {min_p!r}")
        self._model = model
        self._tokenizer = tokenizer
        self._max_chosen = max_chosen
        self._min_p = min_p
        self._max_tokens = getattr(model.config, "max_position_embeddings", None)

    @classmethod
    def from_pretrained(cls, name: str, **options: Any) -> "FtpoRows":
        """Load the model and its tokenizer: a folder, or an id on the Hugging Face Hub."""
        from transformers import AutoModelForCausalLM, AutoTokenizer

        model = AutoModelForCausalLM.from_pretrained(name, dtype="auto").eval()
        return cls(model, AutoTokenizer.from_pretrained(name), **options)

    def row(self, incident: Incident) -> dict[str, Any] | None:
        """Return the row of an incident.

        The rejected token is the first one that has a letter or digit in the loop's second copy:
        a model that repeats a line goes wrong at the line's first word, not at the line break.
        Alternatives are the likeliest other tokens, without those that start the copy as well
        (another case or spacing of its first word, or a part of it) and without white space.

        Returns:
            `context_with_chat_template`, `rejected_decoded` and `multi_chosen_decoded`. None if the
            context does not fit the model, if there is no alternative, or if a trainer would not
            read the strings as these tokens: it encodes each by itself.

        Raises:
            ValueError: The incident lacks a field, or the tokenizer has no chat template for it.
        """
        prompt, kept, looped, _ = fields_of(incident)
        rendered = self._render(prompt, incident["request"])
        answer = kept + looped
        start = second_copy(answer, prompt_text(prompt))
        if start is None:  # the text before it was edited
            start = len(kept)
        text = rendered + answer
        place = self._first_token(text, len(rendered) + start)
        if place is None:
            return None
        context, rejected = place
        ids = self._encode(context)
        if self._max_tokens is not None and len(ids) >= self._max_tokens:
            return None
        if self._encode(self._decode(rejected)) != [rejected]:
            return None
        chosen = self._alternatives(ids, rejected, text[len(context) :])
        if not chosen:
            return None
        return {
            "context_with_chat_template": context,
            "rejected_decoded": self._decode(rejected),
            "multi_chosen_decoded": chosen,
        }

    def _render(self, prompt: Conversation, request: dict[str, Any]) -> str:
        """Return the prompt as the model reads it."""
        tokenizer = self._tokenizer
        if isinstance(prompt, str):
            begins = tokenizer("")["input_ids"][:1]
            bos = tokenizer.bos_token if begins == [tokenizer.bos_token_id] else ""
            return f"{bos}{prompt}"
        if tokenizer.chat_template is None:
            raise ValueError("the request is a chat, and the tokenizer has no chat template")
        return str(
            tokenizer.apply_chat_template(
                prompt, tools=request.get("tools"), tokenize=False, add_generation_prompt=True
            )
        )

    def _first_token(self, text: str, start: int) -> tuple[str, int] | None:
        """Return the first token with a word's character from `start` on, and the text before it.

        None if that text by itself is encoded into other tokens.
        """
        encoded = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
        behind = [at for at, (_, end) in enumerate(offsets) if end > start]
        if not behind:
            return None
        at = next(
            (
                at
                for at in behind
                if _WORD.search(text[max(offsets[at][0], start) : offsets[at][1]])
            ),
            behind[0],
        )
        context = text[: offsets[at][0]]
        return (context, ids[at]) if self._encode(context) == ids[:at] else None

    def _alternatives(self, ids: list[int], rejected: int, loop: str) -> list[str]:
        """Return the tokens that the model could have gone on with, the likeliest first."""
        import torch

        tokens = torch.tensor([ids], device=self._model.device)
        with torch.inference_mode():
            logits = self._model(input_ids=tokens).logits[0, -1].float()
        likeliest = logits.softmax(-1).topk(min(4 * self._max_chosen, len(logits)))
        chosen: list[str] = []
        least = 0.0
        for token, probability in zip(
            likeliest.indices.tolist(), likeliest.values.tolist(), strict=True
        ):
            if probability < least or len(chosen) == self._max_chosen:
                break
            text = self._decode(token)
            if token == rejected or _starts(loop, text) or self._encode(text) != [token]:
                continue
            least = least or probability * self._min_p
            chosen.append(text)
        return chosen

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def _decode(self, token: int) -> str:
        return str(self._tokenizer.decode([token], clean_up_tokenization_spaces=False))


def _starts(loop: str, token: str) -> bool:
    """Return whether a token begins the loop, in any case and spacing; white space does."""
    size = len(token) + 64
    loop, token = loop[:size].strip().casefold(), token.strip().casefold()
    return loop.startswith(token)
