"""What happens on the memory bus and in the units: bandwidth monitor, bandwidth regulator, activity counters."""

from tessera.rtl.monitor.activity import ActivityCounters, BusStalls
from tessera.rtl.monitor.bandwidth import BandwidthMonitor
from tessera.rtl.monitor.regulator import BandwidthRegulator

__all__ = ["ActivityCounters", "BandwidthMonitor", "BandwidthRegulator", "BusStalls"]
