"""Remote policies as a user types them: ``openpi://HOST:PORT`` or ``vla-eval://HOST:PORT``, with options after ``?``.

A server of this project needs none.  For any other: ``actions=calvin`` (or ``metric``), or the fields of
:class:`policies.api.ActionConvention` one by one, and ``chunk``, ``execute``, ``views``, ``optional_views``; what the
things in an observation are called (``anchor=…``, ``wrist=…``, ``instruction=…``, ``proprio=…``); which entries of
``robot_obs`` are sent (``proprio_entries=0-6,14``); ``convert=calvin``, ``tls=1``, ``connections``, ``answer_s``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from policies.api import PROPRIO_DIM, ActionConvention, PolicyError, PolicySpec
from policies.conventions import NAMED
from policies.protocols import DIALECTS, VLA_EVAL, Dialect
from policies.remote import SPEC_OPTIONS, TOKEN_VARIABLE, Remote, RemotePolicy

_CONVENTION_FIELDS = {one.name: str if one.type == "str" else float for one in fields(ActionConvention)}
_NAMES = ("anchor", "wrist", "instruction", "proprio")
_REMOTE_OPTIONS: dict[str, Callable[[str], Any]] = {
    "tls": lambda text: text not in ("", "0", "no"),
    "connections": int,
    "retries": int,
    "connect_s": float,
    "answer_s": float,
}


def connect(address: str) -> RemotePolicy:
    """Return the policy at ``address``; its server must be running.

    Raises:
        PolicyError: the address cannot be read, nobody is there, or what is there does not fit what was declared.
    """
    return RemotePolicy(parse_address(address))


def parse_address(address: str) -> Remote:
    """Return what an address says.

    Raises:
        PolicyError: it cannot be read; the message names the option.
    """
    expected = f"policy {address!r}: expected {' or '.join(sorted(DIALECTS))}://HOST:PORT[?OPTION=VALUE&…]"
    try:
        parts = urlsplit(address)
        dialect, host, port = DIALECTS[parts.scheme], parts.hostname, parts.port
    except (KeyError, ValueError):
        raise PolicyError(expected) from None
    if not host or not port or parts.path not in ("", "/") or parts.username is not None:
        raise PolicyError(expected)
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    if "token" in options:
        raise PolicyError(
            f"{parts.scheme}://{parts.netloc}: a token in an address ends up in records; set {TOKEN_VARIABLE}"
        )
    known = {*_CONVENTION_FIELDS, *_NAMES, *SPEC_OPTIONS, *_REMOTE_OPTIONS, "actions", "convert", "proprio_entries"}
    unknown = sorted(set(options) - known)
    if unknown:
        raise PolicyError(f"policy {address!r}: unknown option {unknown[0]!r}; known: {', '.join(sorted(known))}")
    try:
        return _remote(dialect, host, port, options)
    except (KeyError, ValueError) as error:
        if isinstance(error, PolicyError):
            raise
        raise PolicyError(f"policy {address!r}: {error} cannot be read as the value of its option") from None


def _remote(dialect: Dialect, host: str, port: int, options: Mapping[str, str]) -> Remote:
    keys = dialect.keys.renamed({name: options[name] for name in _NAMES if name in options})
    if "proprio_entries" in options:
        keys = replace(keys, proprio_entries=_entries(options["proprio_entries"]))
    extra = {name: read(options[name]) for name, read in _REMOTE_OPTIONS.items() if name in options}
    convert = NAMED[options["convert"]] if "convert" in options else None
    return Remote(
        dialect,
        host,
        port,
        keys=keys,
        declared=_declared(dialect, host, options),
        stated=tuple(name for name in SPEC_OPTIONS if name in options),
        convert_to=convert,
        **extra,
    )


def _declared(dialect: Dialect, host: str, options: Mapping[str, str]) -> PolicySpec | None:
    fields_given: dict[str, Any] = {
        name: read(options[name]) for name, read in _CONVENTION_FIELDS.items() if name in options
    }
    if "actions" not in options and not fields_given:
        stray = [name for name in SPEC_OPTIONS if name in options]
        if stray:
            raise PolicyError(f"option {stray[0]!r} is for servers that do not describe themselves: give actions=… too")
        return None
    convention = replace(NAMED[options.get("actions", "calvin")], **fields_given)
    chunk = int(options.get("chunk", "1"))
    if "chunk" not in options and dialect is not VLA_EVAL:
        raise PolicyError("give chunk=…: how many actions the server answers with")
    return PolicySpec(
        f"{dialect.name}@{host}",
        views=_words(options.get("views", "anchor,wrist")),
        optional_views=_words(options.get("optional_views", "")),
        chunk=chunk,
        execute=int(options.get("execute", chunk)),
        actions=convention,
        uses_proprio=True,
    )


def _words(text: str) -> tuple[str, ...]:
    return tuple(word for word in text.split(",") if word)


def _entries(text: str) -> tuple[int, ...]:
    """Read ``0-6,14`` as (0, 1, 2, 3, 4, 5, 6, 14)."""
    numbers: list[int] = []
    for word in _words(text):
        first, _, last = word.partition("-")
        numbers += range(int(first), int(last or first) + 1)
    if not numbers or max(numbers) >= PROPRIO_DIM:
        raise PolicyError(f"proprio_entries={text}: expected entries of robot_obs, 0 to {PROPRIO_DIM - 1}")
    return tuple(numbers)
