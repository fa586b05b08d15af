"""The command line, the configurations and everything that prints. Nothing below this package imports it."""
