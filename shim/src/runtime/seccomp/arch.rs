//! The architectures whose system calls a filter can be asked about.

use oci_spec::runtime::Arch as SpecArch;

/// What the kernel sets in the number of a system call of x32's.
pub const X32_BIT: u32 = 0x4000_0000;

/// An architecture, as seccomp(2) sees it: a table of numbers, and the width of the arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arch {
    /// 64 bits on x86.
    X86_64,
    /// 64 bits on x86 with short pointers: the kernel calls it `X86_64`, and its numbers carry [`X32_BIT`].
    X32,
    /// 32 bits on x86.
    X86,
    /// 64 bits on ARM.
    Aarch64,
    /// 32 bits on ARM.
    Arm,
}

impl Arch {
    /// All of them, in the order of the table's columns.
    pub const ALL: [Self; 5] = [Self::X86_64, Self::X32, Self::X86, Self::Aarch64, Self::Arm];

    /// The one that this program is compiled for.
    #[must_use]
    pub const fn native() -> Self {
        #[cfg(target_arch = "x86_64")]
        return Self::X86_64;
        #[cfg(target_arch = "aarch64")]
        return Self::Aarch64;
    }

    /// The spec's architecture; `None` for one that no kernel of these families can run.
    #[must_use]
    pub fn from_spec(spec: SpecArch, native: Self) -> Option<Self> {
        let arch = match spec {
            SpecArch::ScmpArchNative => native,
            SpecArch::ScmpArchX86_64 => Self::X86_64,
            SpecArch::ScmpArchX32 => Self::X32,
            SpecArch::ScmpArchX86 => Self::X86,
            SpecArch::ScmpArchAarch64 => Self::Aarch64,
            SpecArch::ScmpArchArm => Self::Arm,
            _ => return None,
        };
        Some(arch)
    }

    /// `AUDIT_ARCH_*` (linux/audit.h).
    #[must_use]
    pub const fn audit(self) -> u32 {
        match self {
            Self::X86_64 | Self::X32 => 0xc000_003e,
            Self::X86 => 0x4000_0003,
            Self::Aarch64 => 0xc000_00b7,
            Self::Arm => 0x4000_0028,
        }
    }

    /// Whether a kernel of this architecture runs programs of the other.
    #[must_use]
    pub const fn runs(self, other: Self) -> bool {
        matches!(self, Self::Aarch64 | Self::Arm) == matches!(other, Self::Aarch64 | Self::Arm)
    }

    /// Whether only the lower half of an argument counts.
    #[must_use]
    pub const fn is_narrow(self) -> bool {
        matches!(self, Self::X32 | Self::X86 | Self::Arm)
    }

    /// The column in the table.
    pub(super) const fn column(self) -> usize {
        self as usize
    }
}
