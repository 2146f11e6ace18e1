"""An NPU without a simulator: its bus, its streams and its registers, by the models."""
