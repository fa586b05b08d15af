"""TRL's own trainer as an oracle: same pairs, same models, same DPO loss."""

from __future__ import annotations

import copy

import pytest
import torch

from fedpdpo_secure.config import make_config
from fedpdpo_secure.data.federation import load_federation
from fedpdpo_secure.data.synthetic import client_pairs
from fedpdpo_secure.model.backbone import wrap_backbone
from fedpdpo_secure.model.policy import Policy, reference_logps
from fedpdpo_secure.objective import ObjectivePlan, implicit_rewards, margin, preference_loss
from fedpdpo_secure.pairs.packing import collate, tokenize_pair
from fedpdpo_secure.tiny import build_tiny

BETA = 0.4


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_dpo_loss_and_rewards_equal_those_of_trl(tmp_path) -> None:
    trl = pytest.importorskip("trl")
    from datasets import Dataset

    config = make_config(
        {
            "privacy": {"unit": "none"},
            "synthetic": {"public_dialogues": 200},
            "tiny": {"warm_start_steps": 10, "hidden_size": 32, "layers": 1},
        }
    )
    base, tokenizer = build_tiny(config, load_federation(config, None))
    pairs = list(client_pairs(config, 0, "train"))[:6]
    policy_model, generator = copy.deepcopy(base), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in policy_model.parameters():
            value.add_(torch.randn(value.shape, generator=generator) * 0.02)
    rows = [{"prompt": p.prompt, "chosen": p.chosen, "rejected": p.rejected} for p in pairs]
    trainer = trl.DPOTrainer(
        model=copy.deepcopy(policy_model),
        ref_model=copy.deepcopy(base),
        args=trl.DPOConfig(
            output_dir=str(tmp_path),
            beta=BETA,
            per_device_train_batch_size=len(rows),
            max_length=256,
            report_to="none",
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(len(rows))])
    with torch.no_grad():
        expected = float(trainer.compute_loss(trainer.model.eval(), batch))

    tokens = [tokenize_pair(pair, tokenizer, max_length=256, max_prompt_length=None) for pair in pairs]
    packed = collate(tokens)
    reference = reference_logps(wrap_backbone(base, config), packed)
    with torch.no_grad():
        logps = Policy(wrap_backbone(policy_model, config), None)(packed).logps
    implicit = implicit_rewards(logps, reference, BETA)
    losses = preference_loss(implicit, torch.zeros_like(implicit), ObjectivePlan(BETA, 0.0, 0.0, 0.0))
    assert float(losses.mean()) == pytest.approx(expected, rel=1e-5)
    assert float(margin(implicit).abs().max()) > 0.05  # the comparison is not between zeros
