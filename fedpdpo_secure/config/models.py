"""The configuration as data: one frozen pydantic model per section, every bound beside its field.

Names are TRL's where the idea is the same. Rules that join several fields stand in `rules.py`, loading in `load.py`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field

from fedpdpo_secure.config.plural import (
    EpisodesSection,
    PredictorSection,
    ScheduleSection,
    SurveySection,
    SyntheticSurveySection,
)
from fedpdpo_secure.config.section import Section


class DataSection(Section):
    """Where pairs come from and who holds them. All values here are public."""

    id: str = Field(
        "demo", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
    )  # the owner's name of the data: the ledger's key
    public: bool = False  # True only for built-in and benchmark data: the ledger then lives in the run folder
    partition: str = "client_id"  # a column, `round_robin` (groups by hash), or `dirichlet` (over `label_column`)
    label_column: str | None = None  # what `dirichlet` skews
    dirichlet_alpha: float = Field(0.5, gt=0)
    group_column: str | None = None  # rows of one group never straddle a split (null: the prompt is the group)
    where: dict[str, list[str]] = Field(default_factory=dict)  # keep rows whose column has one of these values
    test: str | None = None  # path of held-out pairs, partitioned like the rest (null: hold out `test_fraction`)
    validation_fraction: float = Field(0.1, ge=0, lt=0.5)
    test_fraction: float = Field(0.2, ge=0, lt=0.5)
    public_fraction: float = Field(0.0, ge=0, lt=0.5)  # rows given to no client
    pairs_per_client: int | None = Field(None, ge=1)  # declared public bound; more are refused, or capped if public
    revision: str | None = None  # hub revision


class SyntheticSection(Section):
    """The built-in federation with known ground truth (`data/synthetic.py`, `data/oracle.py`)."""

    pairs: int = Field(100, ge=1)  # training pairs per client
    validation_pairs: int = Field(40, ge=0)
    test_pairs: int = Field(100, ge=0)
    heterogeneity: float = Field(1.0, ge=0, le=1)  # 0: all clients share every preference; 1: full opposition
    heldout_topics: int = Field(4, ge=0, le=12)  # topics no training pair mentions
    public_dialogues: int = Field(6000, ge=100)


class TinySection(Section):
    """`builtin:tiny`, a small Llama warm-started on the public split."""

    hidden_size: int = Field(64, ge=16, multiple_of=16)
    layers: int = Field(2, ge=1)
    warm_start_steps: int = Field(1200, ge=0)  # steps, never seconds, so that it is reproducible


class FederationSection(Section):
    """Who takes part and for how long."""

    clients: int = Field(12, ge=1, le=1_000_000)
    rounds: int = Field(5, ge=1)
    local_steps: int | None = Field(2, ge=1)  # null (non-private only): one pass over the client's pairs
    min_survivors: int = Field(3, ge=3)
    server_learning_rate: float = Field(1.0, gt=0)
    server_momentum: float = Field(0.0, ge=0, lt=1)  # heavy ball on the mean update: post-processing
    drop: list[dict[str, int | str]] = Field(default_factory=list)  # {round, client, stage}: scheduled drop-outs


class MethodSection(Section):
    """Which parts are shared, personal, frozen; null parts take the method's own value."""

    name: Literal["fedpdpo", "fedavg", "fedper", "fedrep", "fedprox", "local", "centralized"] | None = (
        None  # null: fedpdpo, or fedavg where the task is pluralllm
    )
    personal: Literal["frozen", "joint", "free"] | None = None  # null: frozen with unit pair, free without privacy
    schedule: Literal["alternating", "joint"] | None = None
    lm_head: Literal["none", "low_rank", "full"] | None = None
    reward_head: bool | None = None
    bottleneck: bool | None = None
    head_rank: int = Field(4, ge=1)
    bottleneck_size: int | None = Field(None, ge=1)  # null: max(8, hidden_size / 16)
    proximal_mu: float = Field(0.01, ge=0)


class LoraSection(Section):
    """The shared adapter (peft)."""

    r: int = Field(8, ge=1)
    alpha: float = Field(16.0, gt=0)
    train: Literal["AB", "B", "alternating"] = "B"  # B: fixed orthonormal A; alternating: B and A in turn by round
    target_modules: list[str] | None = None  # null: every linear layer of the body


class DpoSection(Section):
    """The objective and its optimiser."""

    beta: float = Field(0.1, gt=0)
    learning_rate: float | None = Field(
        None, gt=0
    )  # null: 0.3 under DP (SGD on the clip-normalised mean), else 1e-3 (AdamW)
    personal_learning_rate: float = Field(2.0e-3, gt=0)
    batch_size: int = Field(16, ge=1)  # non-private logical batch, in pairs
    micro_batch: int = Field(16, ge=1)  # physical rows at a time; changes memory and speed, never the result
    max_length: int = Field(512, ge=8)  # tokens of prompt + one completion
    max_prompt_length: int | None = Field(None, ge=1)
    max_grad_norm: float = Field(1.0, gt=0)  # non-private only
    gamma: float = 1.0  # weight of the explicit reward in the corrected DPO; its sign chooses complement or margin
    gamma_warmup_rounds: int = Field(3, ge=0)
    reward_weight: float = Field(1.0, ge=0)  # lambda of the Bradley-Terry loss
    reward_centering: float = Field(0.01, ge=0)
    stop_gradient: bool = True  # explicit reward enters the DPO term as a constant


class ServingSection(Section):
    """The local, un-noised copy each client serves itself with; it never feeds anything released."""

    epochs: int | None = Field(None, ge=0)  # null: 5 after a `frozen` or `joint` run, else 0
    learning_rate: float = Field(2.0e-3, gt=0)  # of the client's own copy of the LoRA, both factors


class PrivacySection(Section):
    """What is protected and how much of it may be spent."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=True)

    unit: Literal["pair", "client", "question", "none"] | None = None  # null: pair, or question (pluralllm)
    noise: Literal["local", "distributed"] = "local"  # distributed: each client adds a share, the sum carries it all
    arithmetic: Literal["float", "integer"] | None = None  # of sum and noise (null: integer; clip only: float)
    epsilon: float | None = None  # the budget; inf: clip only; exactly one of epsilon and noise_multiplier
    delta: float = Field(1.0e-5, gt=0, lt=1)
    noise_multiplier: float | None = Field(None, ge=0)
    clip_norm: float = Field(1.0, gt=0, allow_inf_nan=False)
    sample_rate: float = Field(0.5, gt=0, le=1)
    expected_batch: float | None = Field(None, gt=0, allow_inf_nan=False)  # null: sample_rate * data.pairs_per_client
    lost: int | None = Field(None, ge=0)  # distributed: most shares that may be missing (null: a tenth, at least 1)
    colluding: int = Field(1, ge=0)  # distributed: most clients that may help the adversary; 1 covers a curious client
    levels: int = Field(65536, ge=16, le=2**24)  # integer noise: clip_norm in units of its grid
    null_coordinates: int = Field(64, ge=0, le=100_000)  # distributed: coordinates that carry noise alone
    ledger_root: str | None = None
    insecure_seed: int | None = None  # tests only: reproducible noise, epsilon infinite
    allow_unsound: bool = False
    unaccounted_releases: list[str] = Field(default_factory=list)  # what was chosen on private data without a charge
    raise_budget_reason: str | None = None  # recorded when an existing ledger's budget is changed


class SecAggSection(Section):
    """The pairwise-masking protocol."""

    enabled: bool = True
    mode: Literal["semi-honest", "malicious-server"] = "semi-honest"
    graph: Literal["auto", "complete", "sparse"] = "auto"  # who masks with whom; auto: complete below 100 clients
    threshold: int | None = None  # null: floor(2n/3)+1, or the solver's where the graph is sparse
    corrupted: float = Field(0.1, ge=0, lt=1)  # sparse graph: largest fraction of clients that work with the server
    dropped: float = Field(0.1, ge=0, lt=1)  # sparse graph: largest fraction of clients that may disappear
    identities: str | None = None  # malicious-server: folder with roster.json and signing keys (fedpdpo keys make)
    transcript: bool = True  # each round leaves a public, hash-chained record (fedpdpo transcript verify)
    bits: Literal[16, 24, 32] = 24
    value_range: float = Field(1.0, gt=0)  # one client's coordinates are clipped to this before encoding


class EvaluationSection(Section):
    """What is measured; every number is local to the simulation unless it comes from the public split."""

    every: int = Field(1, ge=1)  # rounds
    split: Literal["validation", "test", "both"] = "test"  # after a round; both: validation under its own prefix
    final_split: Literal["validation", "test"] = "test"


class ModelSection(Section):
    """How the backbone is held."""

    dtype: Literal["auto", "float32", "bfloat16"] = "auto"  # auto: bfloat16 on a GPU, float32 on a CPU
    gradient_checkpointing: bool = False


class Config(Section):
    """One run. `load_config` resolves every null that has a derived value."""

    task: Literal["fedpdpo", "pluralllm"] = "fedpdpo"
    model_name_or_path: str = "builtin:tiny"  # fedpdpo
    dataset_name: str | None = None  # null: builtin:synthetic, or builtin:groups (pluralllm)
    data: DataSection = DataSection()
    synthetic: SyntheticSection = SyntheticSection()
    tiny: TinySection = TinySection()
    model: ModelSection = ModelSection()
    federation: FederationSection = FederationSection()
    method: MethodSection = MethodSection()
    lora: LoraSection = LoraSection()
    dpo: DpoSection = DpoSection()
    serving: ServingSection = ServingSection()
    survey: SurveySection = SurveySection()
    synthetic_survey: SyntheticSurveySection = SyntheticSurveySection()
    predictor: PredictorSection = PredictorSection()
    episodes: EpisodesSection = EpisodesSection()
    schedule: ScheduleSection = ScheduleSection()
    privacy: PrivacySection = PrivacySection()
    secagg: SecAggSection = SecAggSection()
    evaluation: EvaluationSection = EvaluationSection()
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    seed: int = Field(0, ge=0)
    output_dir: str = "runs/demo"
