"""The model executor: runs requests for networks on an NPU, and plans again whenever something changes."""
