"""The mutation check: what of the regression notices when the hardware's sources are changed a little."""
