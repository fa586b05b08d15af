"""Pair-level differential privacy: randomness, clipping, noise, accounting and the durable record of what was spent.

The package knows tensors, pairs and events; it knows neither federations nor aggregation. `privacy.entropy`,
`privacy.events`, `privacy.accounting`, `privacy.calibration` and `privacy.ledger` import without torch;
`privacy.clipping`, `privacy.optimizer` and `privacy.dpsgd` need it.
"""
