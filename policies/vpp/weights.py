"""A video predictor on disk: one trained here as a folder beside its policy, a released one by name.

One trained here is ``predictor/model.safetensors`` and ``predictor/config.json`` in the policy's folder; the policy's
own ``config.json`` holds the hash.  A released one is the UNet and the autoencoder of a Stable Video Diffusion pipeline
in diffusers' layout (VPP's are); the policy remembers its name and a fingerprint, its gigabytes are not copied.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from policies.api import PolicyError
from policies.checkpoint import CONFIG_FILE, WEIGHTS_FILE, read_weights, write_whole
from policies.progress import refuse_other
from policies.vpp.config import PREDICTOR_FOLDER, VideoPolicyConfig
from policies.vpp.latents import VaeLatents
from policies.vpp.predictor import VideoPredictor, check_text, new_predictor

FORMAT = "wristworld-video-predictor"
PIPELINE_FILES = ("unet/*.json", "unet/*.safetensors", "vae/*.json", "vae/*.safetensors")
HALF = "*.fp16.safetensors"
"""A second copy of the same weights, which some repositories hold."""


def save_predictor(predictor: VideoPredictor, folder: Path) -> dict[str, Any]:
    """Write a predictor that was trained here into the policy's ``folder``; return what identifies it.

    Raises:
        PolicyError: the disk is full.
    """
    from safetensors.torch import save as to_bytes

    if predictor.config.weights:
        return dict(predictor.training_record)
    weights = to_bytes({name: value.contiguous() for name, value in predictor.state_dict().items()})
    sha256 = hashlib.sha256(weights).hexdigest()
    config = {
        "format": FORMAT,
        "unet": {name: value for name, value in predictor.unet.config.items() if not name.startswith("_")},
        "parameters": predictor.parameters_count(),
        "training": predictor.training_record,
        "weights_sha256": sha256,
    }
    path = folder / PREDICTOR_FOLDER / WEIGHTS_FILE
    if not path.exists() or path.read_bytes() != weights:
        write_whole(path, weights)
    write_whole(folder / PREDICTOR_FOLDER / CONFIG_FILE, (json.dumps(config, indent=2) + "\n").encode())
    return {"sha256": sha256}


def load_predictor(config: VideoPolicyConfig, folder: Path, record: Mapping[str, Any]) -> VideoPredictor:
    """Return the predictor of the policy in ``folder``.

    Args:
        config: the policy's.
        folder: the policy's.
        record: what :func:`save_predictor` returned.

    Raises:
        PolicyError: it is missing, damaged, or another one than the policy was trained on.
    """
    if config.weights:
        predictor = pretrained_predictor(config)
        found = predictor.training_record["fingerprint"]
        if found != record.get("fingerprint"):
            raise PolicyError(
                f"{folder}: trained on other weights than {config.weights!r} holds now (fingerprint "
                f"{record.get('fingerprint')} there, {found} here); give the ones that it was trained on"
            )
        return predictor
    path = folder / PREDICTOR_FOLDER / WEIGHTS_FILE
    tensors = read_weights(path, str(record.get("sha256")))
    predictor = new_predictor(config)
    try:
        predictor.load_state_dict(tensors)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:160]
        raise PolicyError(f"{path}: weights do not fit the policy's config.json ({reason}); train again") from None
    return predictor


def finished_predictor(config: VideoPolicyConfig, folder: Path, identity: dict[str, Any]) -> VideoPredictor | None:
    """Return the trained predictor in the policy's ``folder``, None if there is none; another training's is refused."""
    path = folder / PREDICTOR_FOLDER / CONFIG_FILE
    if not path.exists():
        return None
    try:
        data = json.loads(path.read_text())
        record, sha256 = dict(data["training"]), str(data["weights_sha256"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PolicyError(f"{path}: unreadable ({error!r}); delete it to train the video predictor again") from None
    refuse_other(folder / PREDICTOR_FOLDER, record, identity)
    predictor = load_predictor(config, folder, {"sha256": sha256})
    predictor.training_record = record
    return predictor


def fingerprint(predictor: VideoPredictor) -> str:
    """Return a hash of all shapes and of the small weights (biases, norms): it names the weights, no checksum."""
    digest = hashlib.blake2b(digest_size=16)
    for name, value in sorted(predictor.state_dict().items()):
        digest.update(f"{name}:{tuple(value.shape)};".encode())
        if value.ndim == 1:
            digest.update(value.float().cpu().numpy().tobytes())
    return digest.hexdigest()


def pretrained_predictor(config: VideoPolicyConfig) -> VideoPredictor:
    """Return the predictor that ``config.weights`` names: a folder, or a repository that is fetched from the hub.

    Raises:
        PolicyError: it cannot be had, or is none, or does not fit the configuration.
    """
    from diffusers import AutoencoderKLTemporalDecoder, UNetSpatioTemporalConditionModel

    source = str(config.weights)
    root = _folder(source)
    unet = _model(UNetSpatioTemporalConditionModel, root / "unet", source)
    autoencoder = _model(AutoencoderKLTemporalDecoder, root / "vae", source)
    shrinks = 2 ** (len(autoencoder.config.block_out_channels) - 1)
    latents = VaeLatents(autoencoder)
    if shrinks != config.stem_stride or unet.config.in_channels != 2 * latents.channels:
        raise PolicyError(
            f"video model {source!r}: expected latents of {config.stem_stride} px a side and a UNet that reads twice "
            f"their channels, got {shrinks} px and {unet.config.in_channels} for {latents.channels}; use its own values"
        )
    check_text(config, unet)
    used = config.up_blocks or len(unet.up_blocks)
    # What comes after the last block that is read would cost the most and change nothing.
    if used < len(unet.up_blocks):
        unet.up_blocks = unet.up_blocks[:used]
        unet.conv_norm_out, unet.conv_out = torch.nn.Identity(), torch.nn.Identity()
    predictor = VideoPredictor(config, unet, latents, frame_change=False)
    predictor.training_record = {"weights": source, "fingerprint": fingerprint(predictor)}
    return predictor


def _folder(source: str) -> Path:
    root = Path(source)
    if root.is_dir():
        return root
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(source, allow_patterns=list(PIPELINE_FILES), ignore_patterns=[HALF]))
    except (OSError, ValueError, RuntimeError) as error:  # the hub's own errors are kinds of these
        reason = " ".join(str(error).split())[:200]
        raise PolicyError(
            f"video model {source!r}: neither a folder nor to be had from the Hugging Face hub ({reason}); give "
            "--video-weights DIR with its unet/ and vae/"
        ) from None


def _model(kind: Any, folder: Path, source: str) -> Any:
    """Return a model of diffusers' class ``kind`` with the weights in ``folder``, in float32."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        model = kind.from_config(kind.load_config(folder))
        parts = [part for part in sorted(folder.glob("*.safetensors")) if not part.match(HALF)]
        if not parts:
            raise OSError(f"no *.safetensors in {folder}")
        weights = {name: value.float() for part in parts for name, value in load_file(part).items()}
        model.load_state_dict(weights)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise PolicyError(
            f"video model {source!r}: expected {folder.name}/ of a {kind.__name__} in diffusers' layout ({reason})"
        ) from None
    return model
