"""The operations: training, model services, tools."""
