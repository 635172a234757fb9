"""Example agents: clients of the HTTP API only. They show the loop of observing, trying and keeping.

All intelligence is here, none in the engine: an agent proposes plans, runs them, compares
metrics, and writes down which engine version it used.
"""
