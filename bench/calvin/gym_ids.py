"""Names under which gymnasium finds the play tables, and the long-horizon one with instructions and reward.

``wristworld/CalvinA-v0`` … ``CalvinD-v0`` are ``CalvinEnv`` as it is: no reward, no end.  ``wristworld/LongHorizon-v0``
is CALVIN's evaluation.  They are known once ``bench.calvin`` is imported; gymnasium does that itself when the name says
so: ``gymnasium.make("bench.calvin:wristworld/CalvinD-v0")``.  (Entry points that register environments at gymnasium's
own import are gone since its version 1.0.)
"""

from __future__ import annotations

import gymnasium

from bench.calvin.scene import SCENES


def register() -> None:
    """Tell gymnasium the names; the simulator is imported only when one of them is made."""
    for scene in SCENES:
        _register(f"Calvin{scene}-v0", "bench.calvin.env:CalvinEnv", {"scene": scene})
    _register("LongHorizon-v0", "bench.calvin.long_horizon:LongHorizon", {})


def _register(name: str, entry_point: str, arguments: dict[str, str]) -> None:
    # No wrappers: the environments refuse a step before the first reset themselves, and gymnasium's own (order, passive
    # checker) neither hand ``render_views`` to ``step`` nor let an observation go without pictures.
    gymnasium.register(
        f"wristworld/{name}",
        entry_point=entry_point,
        kwargs=arguments,
        order_enforce=False,
        disable_env_checker=True,
    )
