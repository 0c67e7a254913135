//! Holds the compiled descriptors against the wire facts, row by row and in both directions.

use std::collections::BTreeSet;

use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet};

/// Rows as the fact files have them, without a trailing empty label.
fn described(set: &FileDescriptorSet, package: &str) -> BTreeSet<String> {
    let mut rows = BTreeSet::new();
    for file in set.file.iter().filter(|file| file.package() == package) {
        for service in &file.service {
            for method in &service.method {
                let stream = if method.server_streaming() { "stream " } else { "" };
                rows.insert(format!(
                    "rpc\t{}\t{}\t{}\t{stream}{}",
                    service.name(),
                    method.name(),
                    local(method.input_type(), package),
                    local(method.output_type(), package),
                ));
            }
        }
        for message in &file.message_type {
            describe_message(message, package, &mut rows);
        }
        for enumeration in &file.enum_type {
            describe_enum(enumeration, "", &mut rows);
        }
    }
    rows
}

fn describe_message(message: &DescriptorProto, package: &str, rows: &mut BTreeSet<String>) {
    let name = message.name();
    if message.field.is_empty() {
        rows.insert(format!("message\t{name}"));
    }
    for field in &message.field {
        let (kind, label) = kind_and_label(field, message, package);
        let mut row =
            format!("field\t{name}\t{}\t{}\t{kind}\t{label}", field.number(), field.name());
        if field.options.as_ref().is_some_and(|options| options.deprecated()) {
            row.push_str("\tdeprecated");
        }
        rows.insert(row.trim_end().to_owned());
    }
    for enumeration in &message.enum_type {
        describe_enum(enumeration, &format!("{name}."), rows);
    }
}

fn describe_enum(enumeration: &EnumDescriptorProto, prefix: &str, rows: &mut BTreeSet<String>) {
    for value in &enumeration.value {
        rows.insert(format!(
            "enum\t{prefix}{}\t{}\t{}",
            enumeration.name(),
            value.number(),
            value.name()
        ));
    }
}

fn kind_and_label(
    field: &FieldDescriptorProto,
    message: &DescriptorProto,
    package: &str,
) -> (String, &'static str) {
    let repeated = field.label() == Label::Repeated;
    let map = message.nested_type.iter().find(|nested| {
        nested.options.as_ref().is_some_and(|options| options.map_entry())
            && field.type_name().ends_with(&format!(".{}", nested.name()))
    });
    if let Some(entry) = map {
        let part = |at: usize| kind(&entry.field[at], package);
        return (format!("map<{},{}>", part(0), part(1)), "");
    }
    let label = match (repeated, field.proto3_optional()) {
        (true, _) => "repeated",
        (_, true) => "optional",
        _ => "",
    };
    (kind(field, package), label)
}

fn kind(field: &FieldDescriptorProto, package: &str) -> String {
    match field.r#type() {
        Type::Message | Type::Enum => local(field.type_name(), package),
        other => other.as_str_name().trim_start_matches("TYPE_").to_lowercase(),
    }
}

fn local(name: &str, package: &str) -> String {
    let name = name.trim_start_matches('.');
    name.strip_prefix(&format!("{package}.")).unwrap_or(name).to_owned()
}

fn facts(text: &str) -> BTreeSet<String> {
    text.lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#') && !line.starts_with("reserved"))
        .map(|line| line.trim_end().to_owned())
        .collect()
}

/// The rows below the heading of one package.
fn section<'a>(text: &'a str, package: &str) -> &'a str {
    let heading = format!(": package {package},");
    let at = text.find(&heading).expect("the facts have the package");
    let body = &text[at..][text[at..].find('\n').expect("the heading is a line") + 1..];
    &body[..body.find("\n# ").unwrap_or(body.len())]
}

#[track_caller]
fn assert_same(described: &BTreeSet<String>, facts: &BTreeSet<String>) {
    let missing: Vec<_> = facts.difference(described).collect();
    let invented: Vec<_> = described.difference(facts).collect();
    assert!(
        missing.is_empty() && invented.is_empty(),
        "missing {missing:#?} invented {invented:#?}"
    );
}

#[test]
fn the_cri_definition_has_every_row_of_the_facts_and_no_other() {
    let set = protox::compile(["cri/v1.proto"], ["cri"]).unwrap();
    let facts = facts(include_str!("../facts/cri-v1.tsv"));
    assert_eq!(facts.iter().filter(|row| row.starts_with("rpc")).count(), 43);
    assert_same(&described(&set, "runtime.v1"), &facts);
}

#[test]
fn the_task_service_has_every_row_of_the_facts_and_no_other() {
    let set = protox::compile(["shim/task.proto"], ["shim"]).unwrap();
    let text = include_str!("../facts/shim-api.tsv");
    for package in ["containerd.v1.types", "containerd.task.v2"] {
        assert_same(&described(&set, package), &facts(section(text, package)));
    }
    let mounts = described(&set, "containerd.types");
    assert_same(&mounts, &facts(section(text, "containerd.types")));
}

#[test]
fn the_cgroup_metrics_have_every_row_of_the_facts_and_no_other() {
    let set =
        protox::compile(["shim/cgroups_v1.proto", "shim/cgroups_v2.proto"], ["shim"]).unwrap();
    let text = include_str!("../facts/cgroup-metrics.tsv");
    for package in ["io.containerd.cgroups.v1", "io.containerd.cgroups.v2"] {
        assert_same(&described(&set, package), &facts(section(text, package)));
    }
}

#[test]
fn what_shims_are_started_with_and_tell_has_every_row_of_the_facts_and_no_other() {
    let files = ["runc_options", "bootstrap", "events", "event_service"]
        .map(|name| format!("shim/{name}.proto"));
    let set = protox::compile(files, ["shim"]).unwrap();
    let text = include_str!("../facts/shim-api.tsv");
    for package in [
        "containerd.runc.v1",
        "containerd.runtime.bootstrap.v1",
        "containerd.events",
        "containerd.services.events.ttrpc.v1",
    ] {
        assert_same(&described(&set, package), &facts(section(text, package)));
    }
    let envelopes = &text[text.find("# types/event.proto").expect("the facts have envelopes")..];
    let envelopes = facts(section(envelopes, "containerd.types"));
    assert!(envelopes.is_subset(&described(&set, "containerd.types")));
}

/// The messages did not change with the third version of the service; its name did.
#[test]
fn the_third_version_of_the_task_service_has_the_rows_of_the_second() {
    let text = include_str!("../facts/shim-api.tsv");
    let [second, third] =
        ["containerd.task.v2", "containerd.task.v3"].map(|package| facts(section(text, package)));
    assert_same(&second, &third);
}

#[test]
fn the_part_of_containerds_api_has_every_row_of_the_facts_and_no_other() {
    let files = ["version", "containers", "tasks"].map(|name| format!("containerd/{name}.proto"));
    let set = protox::compile(files, ["containerd", "shim"]).unwrap();
    let text = include_str!("../facts/containerd-api.tsv");
    for package in ["version", "containers", "tasks"] {
        let package = format!("containerd.services.{package}.v1");
        let mut described = described(&set, &package);
        // A message inside another is no row of its own.
        described.retain(|row| !row.contains("Container.Runtime") || row.contains("runtime"));
        assert_same(&described, &facts(section(text, &package)));
    }
}
