from tests.schedule.sweeps import clock, node, source

__all__ = ["clock", "node", "source"]
