"""Policies that live behind a websocket, as policies like any other: openpi's and vla-eval's servers, and our own.

A server of this project says itself what its actions mean; any other must be declared, because neither protocol can
tell.  The policy is asked as a pure function: a request that got lost is sent again, and a vla-eval server is told
before each observation that an episode starts, so that it answers for that observation and not from the chunk of an
earlier one.  What a stranger's server makes of randomness is its own affair; ours uses the seed that is sent.
Not here: how a user writes all this down (:mod:`policies.addresses`).
"""

from __future__ import annotations

import itertools
import os
import queue
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from websockets.exceptions import InvalidStatus, WebSocketException
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect as open_websocket

from policies.api import ActionConvention, Observation, PolicyError, PolicySpec
from policies.conventions import conversion, width
from policies.protocols import (
    CHUNKS_KEY,
    SPEC_KEY,
    VLA_EVAL,
    WEIGHTS_KEY,
    Dialect,
    Keys,
    read_vla_eval,
    to_payload,
    vla_eval_contradictions,
    vla_eval_message,
)
from policies.simple import check_call
from policies.wire import LIMITS, Limits, WireError, unpack

TOKEN_VARIABLE = "WRISTBENCH_TOKEN"
LONGEST_CHUNK = 1000
SPEC_OPTIONS = ("chunk", "execute", "views", "optional_views")
"""What besides the actions can be declared of a policy."""


class PolicyUnreachableError(PolicyError):
    """The server is not there, or stopped answering: a fault of the machinery rather than of the policy."""


@dataclass(frozen=True)
class Remote:
    """Where a policy is and how it is spoken to.

    Attributes:
        dialect: the protocol.
        host: name or address.
        port: TCP port.
        tls: whether the connection is encrypted.
        keys: what things are called on the wire.
        declared: what a server that does not say so itself needs and gives; its ``actions`` are the server's own.
        stated: which of the declared ``chunk``, ``execute``, ``views`` and ``optional_views`` were meant, not defaults.
        convert_to: convention that answers are turned into; None leaves them as they come.
        token: shown to the server.
        connections: requests under way at once, each on a connection of its own.
        connect_s: seconds to connect in, and then for the greeting to come in.
        answer_s: seconds in which an answer must come.
        retries: how often a request that got lost is sent again.
        limits: what one answer may cost.
    """

    dialect: Dialect
    host: str
    port: int
    tls: bool = False
    keys: Keys | None = None
    declared: PolicySpec | None = None
    stated: tuple[str, ...] = SPEC_OPTIONS
    convert_to: ActionConvention | None = None
    token: str | None = field(default_factory=lambda: os.environ.get(TOKEN_VARIABLE), repr=False)
    connections: int = 8
    connect_s: float = 10.0
    answer_s: float = 60.0
    retries: int = 2
    limits: Limits = LIMITS

    def __post_init__(self) -> None:
        """Refuse what cannot be waited for."""
        if self.connections < 1 or self.retries < 0 or self.connect_s <= 0 or self.answer_s <= 0:
            raise PolicyError(f"{self.address}: connections and times must be positive, retries not negative")

    @property
    def address(self) -> str:
        """What the user typed, without options."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.dialect.name}://{host}:{self.port}"

    @property
    def uri(self) -> str:
        """The websocket's address."""
        return f"{'wss' if self.tls else 'ws'}://{self.address.partition('://')[2]}"


class RemotePolicy:
    """A policy server as a :class:`policies.api.Policy`.

    Args:
        remote: where and how.  The server must be there already.

    Raises:
        PolicyUnreachableError: it is not.
        PolicyError: what it says about itself contradicts what was declared, or nothing was.
    """

    def __init__(self, remote: Remote) -> None:
        self.remote = remote
        self._lines: queue.LifoQueue[_Line] = queue.LifoQueue()
        for _ in range(remote.connections):
            self._lines.put(_Line(remote))
        first = self._lines.get()
        self._convert = None
        try:
            greeting = first.greeting()
            self._theirs = self._spec = _spec_of(greeting, remote)
            self._weights = str(greeting.get(WEIGHTS_KEY, ""))
            if remote.convert_to is not None:
                self._convert = conversion(self._theirs.actions, remote.convert_to)
                self._spec = PolicySpec.from_json({**self._theirs.to_json(), "actions": vars(remote.convert_to)})
        except PolicyError:
            first.close()
            raise
        self._lines.put(first)
        self._threads = ThreadPoolExecutor(remote.connections, thread_name_prefix="remote")

    @property
    def spec(self) -> PolicySpec:
        """What the policy needs and gives, after conversion."""
        return self._spec

    @property
    def served(self) -> dict[str, Any]:
        """What the server said it serves: ``spec``, and the hash of the ``weights``, empty where it did not say."""
        return {"spec": self._theirs.to_json(), "weights": self._weights}

    def act(self, batch: Sequence[Observation], seeds: Sequence[int]) -> NDArray[np.float32]:
        """Return float32 (B, K, 7); each observation is a request of its own, several are under way at once.

        Raises:
            PolicyError: the server refused an observation, or answered with what is no chunk.
            PolicyUnreachableError: it did not answer.
        """
        check_call(self._spec, batch, seeds)
        chunks = np.empty((len(batch), self._spec.chunk, 7), np.float32)
        answers = map(self._ask, batch, seeds) if len(batch) == 1 else self._threads.map(self._ask, batch, seeds)
        for chunk, answer in zip(chunks, answers, strict=True):
            chunk[:] = answer
        return chunks

    def close(self) -> None:
        """Hang up."""
        self._threads.shutdown()
        while not self._lines.empty():
            self._lines.get_nowait().close()

    def _ask(self, observation: Observation, seed: int) -> NDArray[np.float32]:
        views = {name: image for name, image in observation.views.items() if name in self._spec.views}
        payload = to_payload(
            Observation(views, observation.instruction, observation.proprio),
            int(seed),
            self.remote.dialect,
            self.remote.keys or self.remote.dialect.keys,
        )
        line = self._lines.get()
        try:
            actions = line.ask(payload)
        finally:
            self._lines.put(line)
        return self._checked(actions)

    def _checked(self, actions: Any) -> NDArray[np.float32]:
        where, chunk, entries = self.remote.address, self._theirs.chunk, width(self._theirs.actions)
        if not isinstance(actions, np.ndarray) or actions.dtype.kind not in "fiu":
            raise PolicyError(f"{where}: expected 'actions' to be an array of numbers, got {type(actions).__name__}")
        if actions.shape == (entries,):
            actions = actions[None]
        if actions.shape != (chunk, entries):
            raise PolicyError(
                f"{where}: expected actions of shape {(chunk, entries)}, got {actions.shape}; "
                f"give ?chunk=… as the server has it"
            )
        if not np.isfinite(actions).all():
            raise PolicyError(f"{where}: an action is not finite")
        return self._convert(actions) if self._convert is not None else actions.astype(np.float32)


class _Line:
    """One connection, opened when it is needed and again when it was lost; used by one thread at a time."""

    def __init__(self, remote: Remote) -> None:
        self._remote, self._socket = remote, None
        self._greeting: Mapping[Any, Any] = {}
        self._numbers = itertools.count(1)

    _socket: ClientConnection | None

    def greeting(self) -> Mapping[Any, Any]:
        """Return what the server says about itself."""
        self._insisting(lambda: None)
        return self._greeting

    def ask(self, payload: Mapping[str, Any]) -> Any:
        """Return what the server answers under ``actions``."""
        talk = self._vla_eval if self._remote.dialect is VLA_EVAL else self._openpi
        return self._insisting(lambda: talk(payload))

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _insisting(self, talk: Any) -> Any:
        for attempt in range(self._remote.retries + 1):
            try:
                if self._socket is None:
                    self._open()
                return talk()
            except PolicyError:
                self.close()
                raise
            except WireError as error:
                self.close()
                raise PolicyError(f"{self._remote.address}: {error}") from None
            except (OSError, WebSocketException, TimeoutError) as error:
                self.close()
                reason = f"{type(error).__name__} {error}".strip()
                if isinstance(error, InvalidStatus) and error.response.status_code in (401, 403):
                    raise PolicyError(
                        f"{self._remote.address}: the server refuses us ({error}); set {TOKEN_VARIABLE} to its token"
                    ) from None
            if attempt < self._remote.retries:
                time.sleep(0.1 * 4**attempt)
        raise PolicyUnreachableError(
            f"{self._remote.address}: no answer after {self._remote.retries + 1} tries ({reason}); is it running?"
        )

    def _open(self) -> None:
        remote = self._remote
        headers = {"Authorization": f"Api-Key {remote.token}"} if remote.token else None
        self._socket = open_websocket(
            remote.uri,
            additional_headers=headers,
            compression=None,
            proxy=None,
            open_timeout=remote.connect_s,
            close_timeout=1,
            max_size=remote.limits.message_bytes,
            max_queue=2,
        )
        if remote.dialect is VLA_EVAL:
            hello = {"harness_version": "wristworld-bench", "protocol_version": 1, CHUNKS_KEY: True}
            self._greeting = self._exchange("hello", hello, remote.connect_s)
        else:
            try:
                greeting = self._receive(remote.connect_s)
            except TimeoutError:
                raise TimeoutError(f"no greeting in {remote.connect_s:g} s, openpi's servers greet first") from None
            self._greeting = greeting if isinstance(greeting, Mapping) else {}

    def _openpi(self, payload: Mapping[str, Any]) -> Any:
        self._send(payload)
        answer = self._receive(self._remote.answer_s)
        if not isinstance(answer, Mapping) or "actions" not in answer:
            raise WireError(f"expected a map with 'actions', got {type(answer).__name__}")
        return answer["actions"]

    def _vla_eval(self, payload: Mapping[str, Any]) -> Any:
        self._send(vla_eval_message("episode_start", {"task": {}}, next(self._numbers)))
        answer = self._exchange("observation", payload, self._remote.answer_s)
        actions = answer.get("actions", answer.get("action"))
        return np.asarray(actions, np.float32) if isinstance(actions, list) else actions

    def _exchange(self, kind: str, payload: Mapping[str, Any], patience_s: float) -> Mapping[Any, Any]:
        number = next(self._numbers)
        self._send(vla_eval_message(kind, payload, number))
        came, answer, seq = read_vla_eval(self._receive(patience_s))
        if came == "error":
            raise PolicyError(f"{self._remote.address}: {_last_line(str(answer.get('error')))}")
        wanted = "action" if kind == "observation" else kind
        if came != wanted or seq != number:
            raise WireError(f"expected {wanted} {number}, got {came[:40]} {seq}")
        return answer

    def _send(self, message: Mapping[str, Any]) -> None:
        assert self._socket is not None
        self._socket.send(self._remote.dialect.pack(message))

    def _receive(self, patience_s: float) -> Any:
        assert self._socket is not None
        data = self._socket.recv(timeout=patience_s)
        if isinstance(data, str):
            raise PolicyError(f"{self._remote.address}: the server says: {_last_line(data)}")
        return unpack(data, self._remote.limits)


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:500] if lines else "(nothing)"


def _spec_of(greeting: Mapping[Any, Any], remote: Remote) -> PolicySpec:
    """Return what the server says about itself, or else what was declared; contradictions are refused."""
    said = greeting.get(SPEC_KEY)
    if said is None:
        if remote.declared is None:
            raise PolicyError(
                f"{remote.address}: this server does not say what its actions mean; declare it: "
                f"{remote.address}?actions=calvin&chunk=10 (or frame=…, rotation=…, gripper_open=…, see the README)"
            )
        contradictions = vla_eval_contradictions(greeting.get("action_spec"), remote.declared.actions)
        if contradictions:
            raise PolicyError(f"{remote.address}: {'; '.join(contradictions)}")
        spec = remote.declared
    else:
        try:
            spec = PolicySpec.from_json(said)
            width(spec.actions)
            if not 1 <= spec.chunk <= LONGEST_CHUNK:
                raise PolicyError(f"chunk {spec.chunk}")
        except (PolicyError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise PolicyError(f"{remote.address}: the server's own description cannot be read ({error})") from None
        if remote.declared is not None:
            spec = _agreed(remote.declared, spec, remote)
    entries = width(spec.actions)
    if remote.convert_to is None and entries != 7:
        raise PolicyError(f"{remote.address}: actions of {entries} numbers; say ?convert=calvin to have 7 of them")
    return spec


def _agreed(declared: PolicySpec, said: PolicySpec, remote: Remote) -> PolicySpec:
    """Return the server's own spec if it is what was declared; how much of a chunk is executed is for us to say."""
    differences = declared.actions.differences(said.actions)
    for name in remote.stated:
        mine, theirs = getattr(declared, name), getattr(said, name)
        if name != "execute" and mine != theirs:
            differences.append(f"{name}: {mine!r} != {theirs!r}")
    if differences:
        raise PolicyError(f"{remote.address}: declared != the server's own: {'; '.join(differences)}")
    return replace(said, execute=declared.execute) if "execute" in remote.stated else said
