//! Which entry of an index is for this machine.

use serde::Deserialize;

/// The platform of an index entry (OCI image-spec, image-index.md).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Platform {
    #[serde(default)]
    pub(crate) os: String,
    #[serde(default)]
    pub(crate) architecture: String,
    pub(crate) variant: Option<String>,
}

/// What this machine runs, best first: its own architecture, then the 32-bit one it also executes.
#[derive(Debug, Clone)]
pub(crate) struct Machine {
    accepted: Vec<(&'static str, Option<&'static str>)>,
}

impl Machine {
    /// The machine this code runs on.
    pub(crate) fn this() -> Self {
        Self::named(std::env::consts::ARCH, &x86_levels())
    }

    fn named(arch: &str, levels: &[&'static str]) -> Self {
        const ARM: [(&str, Option<&str>); 4] =
            [("arm", Some("v8")), ("arm", Some("v7")), ("arm", Some("v6")), ("arm", Some("v5"))];
        let plain = |name: &'static str| vec![(name, None)];
        let accepted = match arch {
            "x86_64" => {
                let levels = levels.iter().map(|level| ("amd64", Some(*level)));
                plain("amd64").into_iter().chain(levels).chain([("386", None)]).collect()
            }
            "aarch64" => [("arm64", None)].into_iter().chain(ARM).collect(),
            "arm" => ARM[1..].to_vec(),
            "x86" => plain("386"),
            "powerpc64" => plain("ppc64le"),
            "loongarch64" => plain("loong64"),
            "riscv64" => plain("riscv64"),
            "s390x" => plain("s390x"),
            _ => Vec::new(),
        };
        Self { accepted }
    }

    /// How well a platform fits, 0 best; `None` if it does not run here.
    pub(crate) fn rank(&self, platform: &Platform) -> Option<usize> {
        if platform.os != "linux" {
            return None;
        }
        let arch = platform.architecture.as_str();
        let variant = platform.variant.as_deref().filter(|v| !v.is_empty());
        // A missing variant means the usual one, and the usual one is as good as none (containerd/platforms).
        let variant = match (arch, variant) {
            ("arm64", Some("v8" | "8")) | ("amd64", Some("v1")) => None,
            ("arm", None | Some("7")) => Some("v7"),
            (_, other) => other,
        };
        self.accepted.iter().position(|(a, v)| *a == arch && *v == variant)
    }

    /// The machine's own platform, for messages.
    pub(crate) fn name(&self) -> String {
        self.accepted
            .first()
            .map_or_else(|| "linux".to_owned(), |(arch, _)| format!("linux/{arch}"))
    }
}

/// The x86-64 micro-architecture levels above the first that this CPU has (x86-64 psABI, "Micro-Architecture Levels").
#[cfg(target_arch = "x86_64")]
fn x86_levels() -> Vec<&'static str> {
    use std::arch::is_x86_feature_detected as has;
    let v2 = has!("sse4.2") && has!("ssse3") && has!("popcnt") && has!("cmpxchg16b");
    let v3 = v2
        && has!("avx2")
        && has!("bmi1")
        && has!("bmi2")
        && has!("fma")
        && has!("movbe")
        && has!("lzcnt");
    let mut levels = Vec::new();
    if v2 {
        levels.push("v2");
    }
    if v3 {
        levels.push("v3");
    }
    levels
}

#[cfg(not(target_arch = "x86_64"))]
fn x86_levels() -> Vec<&'static str> {
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        let mut parts = text.split('/').map(str::to_owned);
        let mut next = || parts.next().unwrap_or_default();
        let (os, architecture, variant) = (next(), next(), next());
        Platform { os, architecture, variant: Some(variant).filter(|v| !v.is_empty()) }
    }

    fn best<'a>(machine: &Machine, entries: &[&'a str]) -> Option<&'a str> {
        let ranked = entries.iter().filter_map(|e| machine.rank(&platform(e)).map(|r| (r, *e)));
        ranked.min().map(|(_, entry)| entry)
    }

    #[test]
    fn the_own_architecture_comes_first_and_its_32_bit_one_last() {
        let amd64 = Machine::named("x86_64", &["v2"]);
        let list =
            ["linux/386", "linux/arm64/v8", "linux/amd64/v2", "linux/amd64", "windows/amd64"];
        assert_eq!(best(&amd64, &list), Some("linux/amd64"));
        assert_eq!(best(&amd64, &list[..3]), Some("linux/amd64/v2"));
        assert_eq!(best(&amd64, &["linux/amd64/v3"]), None);
        assert_eq!(best(&amd64, &["linux/386"]), Some("linux/386"));
        assert_eq!(best(&amd64, &["unknown/unknown", "linux/s390x"]), None);
    }

    #[test]
    fn arm_variants_fall_back_downwards_only() {
        let arm64 = Machine::named("aarch64", &[]);
        assert_eq!(
            best(&arm64, &["linux/arm/v6", "linux/arm/v7", "linux/arm64/v8"]),
            Some("linux/arm64/v8")
        );
        assert_eq!(best(&arm64, &["linux/arm/v6", "linux/arm/v7"]), Some("linux/arm/v7"));
        let arm = Machine::named("arm", &[]);
        assert_eq!(best(&arm, &["linux/arm/v8", "linux/arm/v6"]), Some("linux/arm/v6"));
        assert_eq!(best(&arm, &["linux/arm"]), Some("linux/arm"));
    }

    #[test]
    fn this_machine_runs_something() {
        assert!(!Machine::this().accepted.is_empty());
    }
}
