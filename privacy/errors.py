"""Errors of this package. Each docstring says what the error protects."""


class PrivacyError(Exception):
    """Base of every error that this package raises on purpose, `ValueError` for a caller's number excepted."""


class StructureError(PrivacyError):
    """A tensor is trained that the mechanism does not bound, or the reverse: the clip would not hold."""


class SilentTrainingError(PrivacyError):
    """A parameter did not move although the mechanism moved it: the model trains something else (opacus#820)."""


class LedgerError(PrivacyError):
    """Base of the ledger's errors."""


class LedgerLocked(LedgerError):
    """Another job holds this ledger; two writers could each spend the same budget."""


class LedgerBroken(LedgerError):
    """The record was edited, cut in the middle or reordered: what was spent is not known, so nothing may be spent."""


class LedgerMismatch(LedgerError):
    """The ledger belongs to other data, another client, or another budget than asked for."""


class BudgetExceeded(LedgerError):
    """The planned event would spend more than the budget; nothing was written and nothing may be trained."""


class CommitMismatch(LedgerError):
    """More was done than was reserved; the excess is recorded and charged before this is raised."""


class LedgerRolledBack(LedgerBroken):
    """The ledger is older than a head known of it, or tells another story: what was spent since would be forgotten."""


class RowsChargedElsewhere(LedgerMismatch):
    """Rows that were charged under one name would be charged under another, and so spend a second budget."""


class AdaptiveParameters(PrivacyError):
    """What was done is not what was planned: parameters chosen on the way may depend on private outputs, and the bounds
    hold for parameters fixed beforehand only."""
