//! What little memory a container can do with.

use serde_json::json;

use crate::harness::{Case, Test};

/// All of them.
pub const TESTS: &[Test] = &[(
    "a container with a memory limit of 512 KiB starts and ends well",
    a_container_with_a_memory_limit_of_512_kib_starts_and_ends_well,
)];

/// What prepares the process counts against its limit, too.
fn a_container_with_a_memory_limit_of_512_kib_starts_and_ends_well() {
    for round in 0..5 {
        let mut case = Case::new("");
        case.spec["process"]["args"] = json!(["/bin/true"]);
        case.spec["linux"]["resources"]["memory"] = json!({"limit": 512 << 10, "swap": 512 << 10});
        assert_eq!(case.run().code, 0, "round {round}");
    }
}
