//! The rules of the house that no compiler checks: the floors between crates, the fence around `unsafe`, sizes, names.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// The floors of the architecture. An arrow may only point to a lower one.
const FLOORS: [(&str, u32); 9] = [
    ("sys", 0),
    ("proto", 0),
    ("snapshotter", 1),
    ("cni", 1),
    ("image", 2),
    ("shim", 2),
    ("cri", 3),
    ("wherry", 4),
    ("e2e", 5),
];

/// Code lines of a file, its tests not counted.
const CODE_LINES: usize = 600;

/// Names that say nothing about what is inside.
const DRAWERS: [&str; 6] = ["utils", "util", "helpers", "common", "misc", "inner"];

fn workspace() -> PathBuf {
    Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).parent().unwrap().to_owned()
}

fn packages() -> Vec<Value> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .current_dir(workspace())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    metadata["packages"].as_array().unwrap().clone()
}

fn floor(name: &str) -> Option<u32> {
    FLOORS.iter().find(|(crate_name, _)| *crate_name == name).map(|(_, floor)| *floor)
}

/// All Rust files of the workspace's crates.
fn sources() -> Vec<PathBuf> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            let (path, name) = (entry.path(), entry.file_name());
            if path.is_dir() && name != "target" {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    for (name, _) in FLOORS {
        let folder = if name == "e2e" { "test" } else { name };
        walk(&workspace().join(folder), &mut found);
    }
    found
}

/// The lines of a file that are code, up to its tests.
fn code(text: &str) -> Vec<&str> {
    let own = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let lines = own.lines().map(str::trim);
    lines.filter(|line| !line.is_empty() && !line.starts_with("//")).collect()
}

#[test]
fn every_crate_has_a_floor() {
    for package in packages() {
        let name = package["name"].as_str().unwrap();
        assert!(floor(name).is_some(), "{name} is on no floor: ARCHITECTURE and this test need it");
    }
}

#[test]
fn no_arrow_between_crates_points_up() {
    for package in packages() {
        let name = package["name"].as_str().unwrap();
        for dependency in package["dependencies"].as_array().unwrap() {
            let used = dependency["name"].as_str().unwrap();
            if let (Some(own), Some(other)) = (floor(name), floor(used)) {
                assert!(other < own, "{name} (floor {own}) uses {used} (floor {other})");
            }
        }
    }
}

#[test]
fn only_sys_contains_unsafe_code() {
    for path in sources() {
        let inside = path.strip_prefix(workspace()).unwrap();
        if inside.starts_with("sys") || inside == Path::new("test/tests/floors.rs") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        for line in code(&text) {
            let words = line.split(|letter: char| !letter.is_alphanumeric() && letter != '_');
            let found = words.into_iter().any(|word| word == "unsafe");
            assert!(!found, "{}: {line}", inside.display());
        }
    }
}

#[test]
fn every_other_crate_forbids_unsafe_code() {
    for package in packages().iter().filter(|package| package["name"] != "sys") {
        for target in package["targets"].as_array().unwrap() {
            let kind = target["kind"][0].as_str().unwrap();
            let path = target["src_path"].as_str().unwrap();
            let text = fs::read_to_string(path).unwrap();
            // Build scripts, and the files that only hold unit tests of others, are not shipped.
            if kind == "lib" || kind == "bin" {
                assert!(text.contains("#![forbid(unsafe_code)]"), "{path}");
            }
        }
    }
}

#[test]
fn no_file_is_too_long_to_read() {
    for path in sources() {
        let text = fs::read_to_string(&path).unwrap();
        let lines = code(&text).len();
        let tests = path.file_name().is_some_and(|name| name == "tests.rs");
        assert!(tests || lines <= CODE_LINES, "{}: {lines} lines of code", path.display());
    }
}

#[test]
fn no_file_is_a_drawer_for_odds_and_ends() {
    for path in sources() {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        assert!(!DRAWERS.contains(&name.as_str()), "{}", path.display());
    }
}
