"""Policies on the Hugging Face hub, with a hub of folders in the real one's place."""

from __future__ import annotations

import shutil
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pytest

from policies import hub
from policies.api import PolicyError
from policies.flow import FlowPolicy
from policies.registry import TINY_SENTENCES, load_policy


@pytest.fixture
def shelves(monkeypatch, tmp_path):
    """The hub's three functions, on folders."""
    seen = SimpleNamespace(root=tmp_path / "hub", calls=[])

    def create_repo(repo_id, private, exist_ok):
        seen.calls.append(("create", repo_id, private))
        (seen.root / repo_id).mkdir(parents=True, exist_ok=exist_ok)

    def upload_folder(repo_id, folder_path, allow_patterns, commit_message):
        for path in Path(folder_path).iterdir():
            if any(fnmatch(path.name, pattern) for pattern in allow_patterns):
                shutil.copy(path, seen.root / repo_id)
        return f"https://hub/{repo_id}/commit/1"

    def snapshot_download(repo_id, revision, allow_patterns):
        seen.calls.append(("download", repo_id, revision))
        if not (seen.root / repo_id).is_dir():
            raise OSError(f"404 {repo_id}\nmore lines")
        return str(seen.root / repo_id)

    for function in (create_repo, upload_folder, snapshot_download):
        monkeypatch.setattr(huggingface_hub, function.__name__, function)
    return seen


@pytest.fixture
def policy(mini) -> FlowPolicy:
    return FlowPolicy.initial(mini, "real", TINY_SENTENCES)


def test_a_policy_comes_back_from_the_hub_as_it_went(shelves, policy, tmp_path, observations):
    hub.save_pretrained(policy, tmp_path / "mine", push_to="me/mine")
    (tmp_path / "mine" / "weights.pkl").write_bytes(b"not wanted")
    assert hub.push_to_hub(tmp_path / "mine", "me/mine", private=False) == "https://hub/me/mine/commit/1"
    assert shelves.calls == [("create", "me/mine", True), ("create", "me/mine", False)]
    assert not (shelves.root / "me/mine/weights.pkl").exists()
    wanted = policy.act(observations, range(5))
    for name in ("me/mine", "hf://me/mine", tmp_path / "mine"):
        np.testing.assert_array_equal(hub.from_pretrained(name).act(observations, range(5)), wanted)
    np.testing.assert_array_equal(load_policy("hf://me/mine").act(observations, range(5)), wanted)


def test_a_revision_may_be_named_in_either_way(shelves, policy, tmp_path):
    hub.save_pretrained(policy, tmp_path / "mine", push_to="me/mine")
    hub.from_pretrained("me/mine", revision="v1")
    load_policy("hf://me/mine@v2")
    assert shelves.calls[1:] == [("download", "me/mine", "v1"), ("download", "me/mine", "v2")]


def test_what_the_hub_refuses_is_one_line(shelves):
    with pytest.raises(PolicyError, match="hf://me/none: OSError: 404") as caught:
        load_policy("hf://me/none")
    assert "\n" not in str(caught.value)


def test_so_is_a_hub_that_cannot_be_reached(shelves, policy, tmp_path, monkeypatch):
    class ConnectError(Exception):
        """As the hub's network library raises it: of no kind that the hub's own errors are."""

    def create_repo(**_):
        raise ConnectError("Name or service not known")

    hub.save_pretrained(policy, tmp_path / "mine")
    monkeypatch.setattr(huggingface_hub, "create_repo", create_repo)
    with pytest.raises(PolicyError, match="hf://me/mine: ConnectError: Name or service not known"):
        hub.push_to_hub(tmp_path / "mine", "me/mine")


def test_only_a_policy_is_pushed(shelves, tmp_path):
    with pytest.raises(PolicyError, match="not a finished policy"):
        hub.push_to_hub(tmp_path, "me/mine")
    assert shelves.calls == []


def test_what_is_fetched_must_fit_the_rollout(shelves, policy, tmp_path):
    hub.save_pretrained(policy, tmp_path / "mine", push_to="me/mine")
    with pytest.raises(PolicyError, match="arm"):
        hub.from_pretrained("me/mine", expect_arm="anchor")
