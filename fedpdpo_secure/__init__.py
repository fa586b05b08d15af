"""Federated preference alignment: the tasks, and the round that joins training, privacy and secure aggregation."""
