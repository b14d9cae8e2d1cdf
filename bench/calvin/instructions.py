"""What the robot is told: several sentences per task for training, one more held out for evaluation.

The sentences are this project's own.  CALVIN's annotations are not used and not needed: a policy trained here is
told these, and a record names :data:`INSTRUCTIONS_HASH` so that scores under other sentences are not mixed with ours.
"""

from __future__ import annotations

import hashlib
import json

from bench.calvin.tasks import COLOURS, TASKS, check_task

_SENTENCES: dict[str, tuple[str, ...]] = {
    "rotate_{colour}_block_right": (
        "spin the {colour} block clockwise",
        "turn the {colour} block around to the right",
        "twist the {colour} block clockwise where it lies",
        "grip the {colour} block and turn it clockwise",
        "give the {colour} block a turn in the clockwise direction",
        "rotate the {colour} cube toward the right",
        "make the {colour} block face further right by turning it",
        "spin the {colour} cube around clockwise",
    ),
    "rotate_{colour}_block_left": (
        "spin the {colour} block counterclockwise",
        "turn the {colour} block around to the left",
        "twist the {colour} block counterclockwise where it lies",
        "grip the {colour} block and turn it counterclockwise",
        "give the {colour} block a turn in the counterclockwise direction",
        "rotate the {colour} cube toward the left",
        "make the {colour} block face further left by turning it",
        "spin the {colour} cube around counterclockwise",
    ),
    "push_{colour}_block_right": (
        "shove the {colour} block over to the right",
        "nudge the {colour} block along to the right",
        "move the {colour} block rightward across the surface",
        "slide the {colour} block some way to the right",
        "push the {colour} cube in the right-hand direction",
        "scoot the {colour} block to the right without lifting it",
        "make the {colour} block glide right",
        "push the {colour} block along to the right side",
    ),
    "push_{colour}_block_left": (
        "shove the {colour} block over to the left",
        "nudge the {colour} block along to the left",
        "move the {colour} block leftward across the surface",
        "slide the {colour} block some way to the left",
        "push the {colour} cube in the left-hand direction",
        "scoot the {colour} block to the left without lifting it",
        "make the {colour} block glide left",
        "push the {colour} block along to the left side",
    ),
    "move_slider_left": (
        "drag the cabinet door leftward",
        "slide the cabinet's door over to the left",
        "bring the sliding panel across to the left",
        "shift the cabinet door to its left end",
        "hold the door handle and pull it left",
        "uncover the right half of the cabinet by moving its door",
        "move the sliding panel leftward",
        "slide the panel of the cabinet over to the left",
    ),
    "move_slider_right": (
        "drag the cabinet door rightward",
        "slide the cabinet's door over to the right",
        "bring the sliding panel across to the right",
        "shift the cabinet door to its right end",
        "hold the door handle and pull it right",
        "uncover the left half of the cabinet by moving its door",
        "move the sliding panel rightward",
        "slide the panel of the cabinet over to the right",
    ),
    "open_drawer": (
        "draw the drawer out",
        "take the drawer's handle and pull it toward you",
        "get the drawer open",
        "pull out the drawer beneath the table top",
        "make the drawer stand open",
        "tug the drawer until it is open",
        "slide the drawer outward",
        "pull the drawer out until it is open",
    ),
    "close_drawer": (
        "press the drawer back in",
        "press on the drawer until it is shut",
        "get the drawer closed",
        "shut the open drawer under the table top",
        "make the drawer disappear into the desk",
        "shove the drawer home",
        "slide the drawer inward",
        "push the drawer in until it is shut",
    ),
    "lift_{colour}_block_table": (
        "raise the {colour} block off the table top",
        "pick the {colour} block up from the table surface",
        "get hold of the {colour} block on the table and hoist it",
        "take up the {colour} cube that lies on the table",
        "lift the {colour} block clear of the table",
        "grab the {colour} block standing on the desk and bring it up",
        "fetch the {colour} block from the table",
        "pick the {colour} cube up off the table top",
    ),
    "lift_{colour}_block_slider": (
        "raise the {colour} block out of the cabinet",
        "pick the {colour} block up from inside the cabinet",
        "reach behind the sliding door and take up the {colour} block",
        "take up the {colour} cube that lies in the cabinet",
        "lift the {colour} block clear of the cabinet floor",
        "grab the {colour} block in the cabinet and bring it up",
        "fetch the {colour} block from the cabinet",
        "pick the {colour} cube up out of the cabinet",
    ),
    "lift_{colour}_block_drawer": (
        "raise the {colour} block out of the drawer",
        "pick the {colour} block up from inside the drawer",
        "reach into the open drawer and take up the {colour} block",
        "take up the {colour} cube that lies in the drawer",
        "lift the {colour} block clear of the drawer floor",
        "grab the {colour} block in the drawer and bring it up",
        "fetch the {colour} block from the drawer",
        "pick the {colour} cube up out of the drawer",
    ),
    "place_in_slider": (
        "set the block you are holding down inside the cabinet",
        "lay the held block in the cabinet",
        "let go of the block within the cabinet",
        "bring the block in your gripper to the cabinet and leave it there",
        "stow the held object behind the cabinet front",
        "drop what you are carrying into the cabinet",
        "put your block away in the cabinet",
        "leave the block you are holding inside the cabinet",
    ),
    "place_in_drawer": (
        "set the block you are holding down inside the drawer",
        "lay the held block in the drawer",
        "let go of the block over the open drawer",
        "bring the block in your gripper to the drawer and leave it there",
        "stow the held object in the drawer",
        "drop what you are carrying into the drawer",
        "put your block away in the drawer",
        "leave the block you are holding inside the drawer",
    ),
    "stack_block": (
        "set the block in your gripper on top of another block",
        "build a tower of two blocks",
        "lay the held block upon one of the others",
        "pile the block you hold onto a second one",
        "balance the held block on another",
        "make a stack out of the block you are carrying and one on the table",
        "place your block so that another block carries it",
        "put the block you are holding on top of another one",
    ),
    "unstack_block": (
        "take the tower of blocks apart",
        "remove the upper block from the lower one",
        "get the top block off the other block",
        "undo the stack",
        "separate the two blocks that stand on each other",
        "knock or carry the upper block off its base",
        "bring the block on top down from the pile",
        "take the upper block off the one below",
    ),
    "turn_on_lightbulb": (
        "make the yellow lamp glow",
        "flip the lever up so that the bulb lights",
        "push the switch upward to light the bulb",
        "get the light bulb to shine",
        "switch the yellow lamp on",
        "give the bulb power with the lever",
        "bring the lever to its on position",
        "switch the bulb on by moving the lever up",
    ),
    "turn_off_lightbulb": (
        "make the yellow lamp go dark",
        "flip the lever down so that the bulb goes out",
        "push the switch downward to darken the bulb",
        "stop the light bulb from shining",
        "switch the yellow lamp off",
        "cut the bulb's power with the lever",
        "bring the lever to its off position",
        "switch the bulb off by moving the lever down",
    ),
    "turn_on_led": (
        "make the green diode glow",
        "press the button so that the green light comes on",
        "hit the button to light the LED",
        "get the green LED to shine",
        "switch the green light on with the button",
        "push the button down until the diode is lit",
        "start the LED",
        "press the button so that the green LED shines",
    ),
    "turn_off_led": (
        "make the green diode go dark",
        "press the button so that the green light goes out",
        "hit the button to darken the LED",
        "stop the green LED from shining",
        "switch the green light off with the button",
        "push the button down until the diode is dark",
        "extinguish the LED",
        "press the button so that the green LED goes dark",
    ),
    "push_into_drawer": (
        "shove the block over the edge into the open drawer",
        "sweep the block on the table into the drawer",
        "slide the block until it falls in the drawer",
        "nudge the block off the table so that it lands in the drawer",
        "let the block drop into the drawer by pushing it",
        "push the block forward into the drawer below",
        "get the block into the drawer without picking it up",
        "shove the block off the table so that it drops into the drawer",
    ),
}
"""Task (or ``{colour}`` family) to sentences; the last of each is held out for evaluation."""


def _spread() -> dict[str, tuple[str, ...]]:
    spread = {}
    for pattern, sentences in _SENTENCES.items():
        for colour in COLOURS if "{colour}" in pattern else ("",):
            task = pattern.format(colour=colour)
            spread[task] = tuple(sentence.format(colour=colour) for sentence in sentences)
    return {task: spread[task] for task in TASKS}


_BY_TASK = _spread()

INSTRUCTIONS_HASH = hashlib.sha256(json.dumps(_BY_TASK).encode()).hexdigest()
"""SHA-256 of every task's sentences in order; part of a run's fingerprint."""


def training_instructions(task: str) -> tuple[str, ...]:
    """Return the sentences that demonstrations of ``task`` may be labelled with.

    Raises:
        UserError: there is no such task.
    """
    return _BY_TASK[check_task(task)][:-1]


def evaluation_instruction(task: str) -> str:
    """Return the sentence that a policy is told at evaluation; it is not among the training sentences.

    Raises:
        UserError: there is no such task.
    """
    return _BY_TASK[check_task(task)][-1]
