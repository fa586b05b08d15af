"""The policy one client trains: the shared backbone plus its personal parts, if any; and its scores of a batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedpdpo_secure.model.backbone import Backbone
from fedpdpo_secure.model.personal import PersonalParts, base_logits
from fedpdpo_secure.pairs.packing import PairBatch


@dataclass(frozen=True, slots=True)
class Scores:
    """What a policy says of B pairs; column 0 is the chosen, column 1 the rejected completion."""

    logps: Tensor  # float32[B, 2]: sum of log-probabilities of the completion's tokens, nats
    rewards: Tensor  # float32[B, 2]: explicit reward at the last response token; 0 without a reward head


class Policy(nn.Module):
    """Backbone and personal parts as one module, so that one set of per-pair hooks covers both."""

    def __init__(self, backbone: Backbone, personal: PersonalParts | None) -> None:
        super().__init__()
        self.model = backbone.model
        self.personal = personal
        self._backbone = (backbone,)  # in a tuple, so that its modules are not registered twice

    def forward(self, batch: PairBatch) -> Scores:
        """Scores of `batch`; keeps the pair as dimension 0 of every trained layer's input."""
        backbone = self._backbone[0]
        hidden = backbone.hidden(batch.tokens, batch.positions, batch.attention)
        response = _gather(hidden, batch.predictor)
        if self.personal is None:
            logits = base_logits(response, backbone.head)
            rewards = torch.zeros(len(batch), 2, device=logits.device)
            return Scores(_sum_by_side(logits, batch), rewards)
        # The explicit reward never trains the shared adapter: only L_pref does.
        last = _gather(hidden, batch.last).detach()
        adapted = self.personal.adapt(torch.cat([response, last], dim=1).float())
        logits = self.personal.logits(adapted[:, :-2], backbone.head)
        return Scores(_sum_by_side(logits, batch), self.personal.rewards(adapted[:, -2:]))


def reference_logps(backbone: Backbone, batch: PairBatch) -> Tensor:
    """float32[B, 2] log-probabilities of the public reference: LoRA off, personal parts absent."""
    with torch.no_grad(), backbone.without_adapter():
        return Policy(backbone, None)(batch).logps


def _gather(hidden: Tensor, columns: Tensor) -> Tensor:
    """[B, S, d], int64[B, R] -> [B, R, d]."""
    return hidden.gather(1, columns[..., None].expand(-1, -1, hidden.shape[-1]))


def _sum_by_side(logits: Tensor, batch: PairBatch) -> Tensor:
    """float32[B, R, V] -> float32[B, 2]."""
    rows, responses, vocabulary = logits.shape
    nll = nn.functional.cross_entropy(logits.reshape(-1, vocabulary), batch.target.reshape(-1), reduction="none")
    logps = -nll.view(rows, responses)
    return torch.stack([(logps * batch.is_chosen).sum(1), (logps * batch.is_rejected).sum(1)], dim=1)
