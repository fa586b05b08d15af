"""PluralLLM: groups of users jointly train a small predictor of a group's answers from a few of its other answers."""
