"""The policy's network: views, sentence and (optionally) robot state to a chunk of scaled actions.

Flow matching with straight paths (Lipman et al., arXiv 2210.02747): x_t = (1 − t)·noise + t·actions, the network
learns the velocity actions − noise, a few Euler steps integrate it.  With ``head="regression"`` the same network
gives the chunk in one pass from zeros.  Images come as uint8; sentences, units and files are handled in
:mod:`policies.flow` and :mod:`policies.checkpoint`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from policies.api import ACTION_DIM, PROPRIO_DIM
from policies.config import FlowPolicyConfig
from policies.dit import ActionTransformer
from policies.encoders import ViewEncoder

if TYPE_CHECKING:
    from policies.data import DeviceArrays


@dataclass(frozen=True)
class Inputs:
    """One batch as the network takes it.

    Attributes:
        anchor: uint8 (B, H, W, 3).
        wrist: uint8 (B, H, W, 3), or None if no sample has a wrist view.
        wrist_present: bool (B,).
        sentence: float (B, text_dim).
        proprio: standardised float (B, 15), or None.
        proprio_present: bool (B,), or None where ``proprio`` is None.
    """

    anchor: Tensor
    wrist: Tensor | None
    wrist_present: Tensor
    sentence: Tensor
    proprio: Tensor | None = None
    proprio_present: Tensor | None = None


class FlowNetwork(nn.Module):
    """Two view encoders and the action transformer."""

    def __init__(self, config: FlowPolicyConfig) -> None:
        super().__init__()
        self.config = config
        self.words = self._words()
        self._make_view_encoders()
        self.sentence = self._sentence_layer()
        self.sentence_token = self._sentence_layer()
        self.proprio = nn.Linear(PROPRIO_DIM, config.dim) if config.use_proprio else None
        self.transformer = ActionTransformer(
            dim=config.dim, layers=config.layers, heads=config.heads, chunk=config.chunk, action_dim=ACTION_DIM
        )

    def _words(self) -> nn.Module:
        """Return what gives all layers the sentence: (B, text_dim) -> (B, words_dim), components of about 1.

        Those of a unit vector are too small to be seen beside the features.
        """
        return nn.RMSNorm(self.config.text_dim, elementwise_affine=False)

    @property
    def words_dim(self) -> int:
        """Length of the vector that ``words`` gives."""
        return self.config.text_dim

    def _sentence_layer(self) -> nn.Module:
        return nn.Sequential(self.words, nn.Linear(self.words_dim, self.config.dim))

    def _make_view_encoders(self) -> None:
        config = self.config
        shape = (config.width, config.blocks, config.stem_stride, config.strides, config.dim, config.keypoints)
        self.anchor = ViewEncoder(config.anchor_size, *shape, self.words_dim)
        self.wrist = ViewEncoder(config.wrist_size, *shape, self.words_dim)

    def _view_tokens(self, inputs: Inputs, always: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return tokens (B, N, D) and mask (B, N) of what the cameras see; ``always`` is true, (B,)."""
        sentence = self.words(inputs.sentence)
        return [
            self.anchor(inputs.anchor, always, sentence),
            self.wrist(inputs.wrist, inputs.wrist_present, sentence),
        ]

    def parameters_count(self) -> int:
        """Number of learned values."""
        return sum(parameter.numel() for parameter in self.parameters())

    def tokens(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """Return tokens (B, N, D) and mask (B, N) of everything that is observed."""
        B = inputs.anchor.shape[0]
        always = torch.ones(B, dtype=torch.bool, device=inputs.anchor.device)
        parts = [
            *self._view_tokens(inputs, always),
            (self.sentence_token(inputs.sentence).unsqueeze(1), always.unsqueeze(1)),
        ]
        if self.proprio is not None and inputs.proprio is not None and inputs.proprio_present is not None:
            parts.append((self.proprio(inputs.proprio).unsqueeze(1), inputs.proprio_present.unsqueeze(1)))
        dtype = parts[0][0].dtype
        return torch.cat([part.to(dtype) for part, _ in parts], dim=1), torch.cat([mask for _, mask in parts], dim=1)

    def prepare(
        self,
        data: DeviceArrays,  # noqa: ARG002
        held_out: DeviceArrays | None,  # noqa: ARG002
        folder: Path,  # noqa: ARG002
        identity: dict[str, Any],  # noqa: ARG002
        **options: Any,  # noqa: ARG002
    ) -> dict[str, Any]:
        """Train what must be trained before the network, in the policy's ``folder``: nothing here.

        Args:
            data: the demonstrations.
            held_out: demonstrations that are only looked at.
            folder: the policy's.
            identity: what is trained (arm, seed, data).
            **options: ``time_limit_s``, ``progress``, ``resume`` and ``log`` of :func:`policies.train.train_policy`.

        Returns:
            What happened, as plain JSON data; ``seconds`` of it count as training time.
        """
        return {}

    def save_beside(self, folder: Path) -> dict[str, Any]:  # noqa: ARG002
        """Write what the network reads and does not own into the checkpoint ``folder``; return what identifies it."""
        return {}

    def load_beside(self, folder: Path, record: Mapping[str, Any]) -> None:
        """Read what :meth:`save_beside` wrote; ``record`` is what it returned."""

    def loss(self, inputs: Inputs, actions: Tensor, valid: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return the training loss, a scalar.

        Args:
            inputs: the observations.
            actions: scaled actions (B, K, A).
            valid: bool (B, K), false past the end of the demonstration.
            noise: standard normal (B, K, A).
            t: flow time in 0..1 (B,).
        """
        tokens, mask = self.tokens(inputs)
        context = self.transformer.context(tokens)
        sentence = self.sentence(inputs.sentence)
        flows = self.config.head == "flow"
        if flows:
            mixed = torch.lerp(noise, actions, t[:, None, None])
            target = actions - noise
        else:
            t, mixed, target = torch.zeros_like(t), torch.zeros_like(actions), actions
        predicted = self.transformer(mixed, t, sentence, context, mask).float()
        error = F.mse_loss(predicted, target, reduction="none") if flows else (predicted - target).abs()
        weight = valid.unsqueeze(-1).to(error.dtype)
        return (error * weight).sum() / (weight.sum() * ACTION_DIM).clamp_min(1)

    def sample(self, inputs: Inputs, noise: Tensor) -> Tensor:
        """Return scaled actions (B, K, A) from standard normal ``noise`` (B, K, A); regression ignores the noise."""
        tokens, mask = self.tokens(inputs)
        context = self.transformer.context(tokens)
        sentence = self.sentence(inputs.sentence)
        t = torch.zeros(noise.shape[0], device=noise.device)
        if self.config.head == "regression":
            return self.transformer(torch.zeros_like(noise), t, sentence, context, mask).float()
        steps = self.config.euler_steps
        actions = noise
        for step in range(steps):
            velocity = self.transformer(actions, t + step / steps, sentence, context, mask)
            actions = actions + velocity.float() / steps
        return actions
