"""Policies on the Hugging Face hub, in the shape its users know: save, push, load by repository.

What travels is the folder that :mod:`policies.checkpoint` writes (or a LeRobot policy's), nothing pickled.  A token is
the hub library's own business.  Not here: the folder's content.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from policies.api import Policy, PolicyError

if TYPE_CHECKING:
    from policies.flow import FlowPolicy

HUB_PREFIX = "hf://"
PATTERNS = ("*.json", "*.safetensors", "*.md")
"""The files that are fetched and sent: no code, no pickles."""


def save_pretrained(policy: FlowPolicy, folder: Path | str, *, push_to: str | None = None, **options: Any) -> None:
    """Write ``policy`` to ``folder`` and, where a repository is named, push it there (:func:`push_to_hub`)."""
    from policies.checkpoint import save

    save(policy, folder)
    if push_to is not None:
        push_to_hub(folder, push_to, **options)


def from_pretrained(name: Path | str, *, revision: str | None = None, **options: Any) -> Policy:
    """Return the policy in the folder or hub repository ``name``.

    Args:
        name: a folder, or ``OWNER/NAME`` with or without ``hf://`` before and ``@REVISION`` after.
        revision: branch, tag or commit of a repository.
        **options: those of :func:`policies.registry.load_policy`.

    Raises:
        PolicyError: nothing there, or no policy.
    """
    from policies.registry import load_policy

    folder = Path(name) if Path(name).is_dir() else download(str(name).removeprefix(HUB_PREFIX), revision)
    return load_policy(folder, **options)


def download(repository: str, revision: str | None = None) -> Path:
    """Return a local copy of a hub repository, fetched unless the hub's cache has it.

    Raises:
        PolicyError: it cannot be had.
    """
    named, _, tag = repository.partition("@")
    fetch = _hub("snapshot_download")
    return Path(_asked(named, fetch, repo_id=named, revision=revision or tag or None, allow_patterns=list(PATTERNS)))


def push_to_hub(folder: Path | str, repository: str, *, private: bool = True, message: str = "Upload policy") -> str:
    """Send a policy's folder to the hub; the repository is made if it is not there.  Return the commit's address.

    Args:
        folder: a finished policy.
        repository: ``OWNER/NAME``.
        private: whether a new repository is seen by its owner only.
        message: of the commit.

    Raises:
        PolicyError: no policy in the folder, or the hub refuses it.
    """
    from policies.checkpoint import read_config
    from policies.lerobot import is_lerobot_folder

    if not is_lerobot_folder(folder):
        read_config(folder)
    create, upload = _hub("create_repo"), _hub("upload_folder")
    _asked(repository, create, repo_id=repository, private=private, exist_ok=True)
    sent = _asked(
        repository,
        upload,
        repo_id=repository,
        folder_path=str(folder),
        allow_patterns=list(PATTERNS),
        commit_message=message,
    )
    return str(sent)


def _hub(function: str) -> Callable[..., Any]:
    try:
        import huggingface_hub
    except ImportError as error:
        raise PolicyError(f"the Hugging Face hub needs its library ({error}): pip install huggingface_hub") from None
    found: Callable[..., Any] = getattr(huggingface_hub, function)
    return found


def _asked(repository: str, function: Callable[..., Any], **arguments: Any) -> Any:
    try:
        return function(**arguments)
    except Exception as error:  # the hub's library lets errors of its network library through, whichever that is
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise PolicyError(f"{HUB_PREFIX}{repository}: {type(error).__name__}: {lines[0][:300]}") from error
