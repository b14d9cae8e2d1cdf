"""Is every task told in sentences of its own, with one that training never shows?"""

from __future__ import annotations

import pytest

from bench.calvin.instructions import INSTRUCTIONS_HASH, evaluation_instruction, training_instructions
from bench.calvin.tasks import COLOURS, TASKS
from bench.errors import UserError


@pytest.mark.parametrize("task", TASKS)
def test_a_task_has_several_training_sentences_and_another_for_evaluation(task: str) -> None:
    training, held_out = training_instructions(task), evaluation_instruction(task)
    assert len(training) >= 5
    assert held_out not in training
    for sentence in (*training, held_out):
        assert sentence == sentence.strip()
        assert "{" not in sentence
        named = [colour for colour in COLOURS if colour in sentence.split()]
        assert named == [colour for colour in COLOURS if f"_{colour}_" in task], sentence


def test_no_sentence_is_used_twice() -> None:
    sentences = [s for task in TASKS for s in (*training_instructions(task), evaluation_instruction(task))]
    assert len(sentences) == len({sentence.lower() for sentence in sentences})


def test_the_hash_names_these_sentences() -> None:
    assert len(INSTRUCTIONS_HASH) == 64


def test_an_unknown_task_is_refused() -> None:
    with pytest.raises(UserError, match="turn_on_led"):
        training_instructions("turn_on_leds")
    with pytest.raises(UserError, match="close_drawer"):
        evaluation_instruction("close_the_drawer")
