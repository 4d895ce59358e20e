"""JSON Schemas that publishers bring: what they may demand, and holding values to them.

Such a schema may be hostile. It is judged and applied in processes of its own (``process``), which
a pool of each server process keeps (``pool``), within limits of time and memory.
"""
