"""The precision manager: how deep each layer of a network runs while others want the memory's bus."""

from tessera.firmware.adaptation.errors import AdaptationError
from tessera.firmware.adaptation.log import Decision, DecisionLog
from tessera.firmware.adaptation.manager import POLICIES, PrecisionManager
from tessera.firmware.adaptation.metrics import EnergyCoefficients, Limit, Metric, Observation, Progress, Work
from tessera.firmware.adaptation.network import AdaptableNetwork, Layer, StoredTensor
from tessera.firmware.adaptation.policies import Policy
from tessera.firmware.adaptation.saturation import DatabaseMemory, Forgetful, Memory
from tessera.firmware.adaptation.settings import Mode, PolicyName, Settings

__all__ = [
    "POLICIES",
    "AdaptableNetwork",
    "AdaptationError",
    "DatabaseMemory",
    "Decision",
    "DecisionLog",
    "EnergyCoefficients",
    "Forgetful",
    "Layer",
    "Limit",
    "Memory",
    "Metric",
    "Mode",
    "Observation",
    "Policy",
    "PolicyName",
    "PrecisionManager",
    "Progress",
    "Settings",
    "StoredTensor",
    "Work",
]
