"""Names of CPUID bits, MSRs and hypercalls of the Hyper-V interface, for people and for diffs.

Bits: TLFS, Feature and Interface Discovery; linux asm/hyperv-tlfs.h where the TLFS has none.
Debian's cpuid names the same bits: tests/baseline/debian_cpuid_bits.csv.
"""

from __future__ import annotations

from ..hyperv.flags import LEAF_FEATURES, LEAF_HINTS, LEAF_NESTED
from ..hyperv.hypercalls import ROWS as CALL_ROWS

LEAF_HARDWARE = 0x40000006

LEAVES = {
    0x40000000: "vendor, highest leaf",
    0x40000001: "interface",
    0x40000002: "version",
    LEAF_FEATURES: "privileges and features",
    LEAF_HINTS: "recommendations",
    0x40000005: "limits",
    LEAF_HARDWARE: "hardware features in use",
    0x40000007: "CPU management",
    0x40000008: "shared virtual memory",
    0x40000009: "nested privileges",
    LEAF_NESTED: "nested features",
    0x40000080: "debugger vendor",
    0x40000081: "debugger interface",
    0x40000082: "debugger features",
}

#: (leaf, register) -> bit -> name
BITS: dict[tuple[int, str], dict[int, str]] = {
    (1, "ecx"): {31: "hypervisor"},
    (0x80000007, "edx"): {8: "invtsc"},
    (LEAF_FEATURES, "eax"): {
        0: "AccessVpRunTimeReg",
        1: "AccessPartitionReferenceCounter",
        2: "AccessSynicRegs",
        3: "AccessSyntheticTimerRegs",
        4: "AccessIntrCtrlRegs",
        5: "AccessHypercallMsrs",
        6: "AccessVpIndex",
        7: "AccessResetReg",
        8: "AccessStatsReg",
        9: "AccessPartitionReferenceTsc",
        10: "AccessGuestIdleReg",
        11: "AccessFrequencyRegs",
        12: "AccessDebugRegs",
        13: "AccessReenlightenmentControls",
        14: "AccessRootSchedulerReg",
        15: "AccessTscInvariantControls",
    },
    (LEAF_FEATURES, "ebx"): {
        0: "CreatePartitions",
        1: "AccessPartitionId",
        2: "AccessMemoryPool",
        3: "AdjustMessageBuffers",
        4: "PostMessages",
        5: "SignalEvents",
        6: "CreatePort",
        7: "ConnectPort",
        8: "AccessStats",
        11: "Debugging",
        12: "CpuManagement",
        13: "ConfigureProfiler",
        16: "AccessVSM",
        17: "AccessVpRegisters",
        20: "EnableExtendedHypercalls",
        21: "StartVirtualProcessor",
        22: "Isolation",
    },
    (LEAF_FEATURES, "ecx"): {
        5: "InvariantMperfAvailable",
        6: "SupervisorShadowStackAvailable",
        7: "ArchitecturalPmuAvailable",
        8: "ExceptionTrapInterceptAvailable",
    },
    (LEAF_FEATURES, "edx"): {
        0: "MwaitAvailable",
        1: "GuestDebuggingAvailable",
        2: "PerformanceMonitorsAvailable",
        3: "CpuDynamicPartitioningAvailable",
        4: "XmmRegistersForFastHypercallAvailable",
        5: "GuestIdleAvailable",
        6: "HypervisorSleepStateSupportAvailable",
        7: "NumaDistanceQueryAvailable",
        8: "FrequencyRegsAvailable",
        9: "SyntheticMachineCheckAvailable",
        10: "GuestCrashRegsAvailable",
        11: "DebugRegsAvailable",
        12: "Npiep1Available",
        13: "DisableHypervisorAvailable",
        14: "ExtendedGvaRangesForFlushVirtualAddressListAvailable",
        15: "FastHypercallOutputAvailable",
        17: "SintPollingModeAvailable",
        18: "HypercallMsrLockAvailable",
        19: "DirectSyntheticTimers",
        20: "RegisterPatAvailable",
        21: "RegisterBndcfgsAvailable",
        23: "SyntheticTimeUnhaltedTimerAvailable",
        26: "IntelLbrSupported",
    },
    (LEAF_HINTS, "eax"): {
        0: "UseHypercallForAddressSpaceSwitch",
        1: "UseHypercallForLocalFlush",
        2: "UseHypercallForRemoteFlushAndLocalFlushEntire",
        3: "UseApicMsrs",
        4: "UseHvRegisterForReset",
        5: "UseRelaxedTiming",
        6: "UseDmaRemapping",
        7: "UseInterruptRemapping",
        8: "UseX2ApicMsrs",
        9: "DeprecateAutoEoi",
        10: "UseSyntheticClusterIpi",
        11: "UseExProcessorMasks",
        12: "Nested",
        13: "UseIntForMbecSystemCalls",
        14: "UseVmcsEnlightenments",
        15: "UseSyncedTimeline",
        17: "UseDirectLocalFlushEntire",
        18: "NoNonArchitecturalCoreSharing",
    },
    (LEAF_HARDWARE, "eax"): {
        0: "ApicOverlayAssistInUse",
        1: "MsrBitmapsInUse",
        2: "ArchitecturalPerformanceCountersInUse",
        3: "SecondLevelAddressTranslationInUse",
        4: "DmaRemappingInUse",
        5: "InterruptRemappingInUse",
        6: "MemoryPatrolScrubberPresent",
        7: "DmaProtectionInUse",
        8: "HpetRequested",
        9: "SyntheticTimersVolatile",
        14: "PhysicalDestinationModeRequired",
        16: "HardwareMemoryZeroingSupported",
        17: "UnrestrictedGuestSupported",
        18: "ResourceAllocationSupported",
        19: "ResourceMonitoringSupported",
        20: "GuestVirtualPmuSupported",
        21: "GuestVirtualLbrSupported",
        22: "GuestVirtualIptSupported",
        23: "ApicEmulationSupported",
        24: "AcpiWdatTableInUse",
    },
    (LEAF_NESTED, "eax"): {
        17: "DirectVirtualFlush",
        18: "FlushGuestPhysicalHypercalls",
        19: "EnlightenedMsrBitmap",
        20: "CombineVirtualizationExceptions",
        21: "DebugCtl",
        22: "EnlightenedNptTlb",
    },
    (LEAF_NESTED, "ebx"): {0: "PerfGlobalCtrl"},
    (0x40000082, "eax"): {1: "AllowKernelDebugging"},
}  # fmt: skip

#: hypercall code -> name; the extended calls are one row each in the table
CALL_NAMES: dict[int, str] = {row.code: row.name for row in CALL_ROWS}


def bit_name(leaf: int, register: str, bit: int) -> str:
    """Return the bit's name, or ``bit 27`` for one that has none here."""
    return BITS.get((leaf, register), {}).get(bit, f"bit {bit}")


def call_name(code: int) -> str:
    """Return the hypercall's official name, or its code."""
    return CALL_NAMES.get(code, f"hypercall {code:#x}")
