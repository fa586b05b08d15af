"""Differential privacy for training by noised sums: randomness, clipping, noise, accounting, a durable record, attacks.

The package knows tensors, rows and events; it knows neither federations nor aggregation, and is of use without them
(docs/privacy-library.md). What is protected is one row of a batch; the package calls it a pair because here a row is a
preference pair, and every number is for adding or removing one.

Nothing is imported here: take what you need from its module.

| to | take |
|---|---|
| describe what was done | `events.gaussian_event` |
| know its epsilon | `accounting.epsilon`; `units` for a person or a replaced row; `views` for shares of noise |
| choose the noise | `calibration.noise_multiplier` |
| keep and check a record | `ledger.Ledger.open`, `ledger.verify` |
| fix a plan beforehand | `planned.plan_digest`, `planned.require_planned` |
| test the sampler | `sample_log.SampleLog`, `attestation.attest`, `attestation.attested_bound` |
| train | `dpsgd.PairDPSGD` |
| attack it | `audit.dirac`, `audit.foreign` (a loop that is not of this package), `audit.noise`, `audit.one_run` |

`entropy`, `events`, `accounting`, `calibration`, `attestation`, `ledger` and the audits' statistics import without
torch; `clipping`, `optimizer`, `dpsgd`, `audit.dirac` and `audit.foreign` need it.
"""
