//! `list`: all containers below the root.

use std::fmt::Write;

use crate::oci::args::{Flag, Order, Parsed, switch, value};
use crate::oci::record::{Record, Status};
use crate::oci::store::Store;
use crate::oci::verb::state::describe;
use crate::oci::{Context, Verb};
use crate::{Failure, FailureKind};

const FLAGS: &[Flag] = &[value(&["format", "f"]), switch(&["quiet", "q"])];

pub const VERB: Verb =
    Verb { name: "list", usage: "[flags]", flags: FLAGS, order: Order::Any, failed: 1, run };

fn run(context: &Context, args: &Parsed) -> Result<u8, Failure> {
    let store = Store::new(&context.global.root);
    let mut found = Vec::new();
    for id in store.ids()? {
        // Between the listing and the look it may be deleted; one that is damaged does not hide the others.
        match store.open(&id).and_then(|folder| folder.known()) {
            Ok(known) => found.push(known),
            Err(failure) if failure.kind == FailureKind::NotFound => {}
            Err(failure) => context.warn(&failure),
        }
    }
    if args.has("quiet") {
        found.iter().for_each(|(record, _)| println!("{}", record.id));
        return Ok(0);
    }
    match args.text("format")? {
        None | Some("table") => print!("{}", table(&found)),
        Some("json") => {
            let all = found.iter().map(|(record, status)| describe(record, *status, "root"));
            println!("{}", serde_json::Value::Array(all.collect()));
        }
        Some(other) => {
            let object = format!("format {other}");
            let kind = FailureKind::InvalidArgument;
            return Err(Failure::new(kind, "use", object, "table and json are known"));
        }
    }
    Ok(0)
}

fn table(found: &[(Record, Status)]) -> String {
    let row = |(record, status): &(Record, Status)| {
        let state = describe(record, *status, "root");
        let pid = state["pid"].to_string();
        let bundle = record.bundle.display().to_string();
        [
            record.id.clone(),
            pid,
            status.as_str().to_owned(),
            bundle,
            record.created.clone(),
            "root".to_owned(),
        ]
    };
    let head = ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned);
    let rows: Vec<[String; 6]> = std::iter::once(head).chain(found.iter().map(row)).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0).max(11);
    let widths: [usize; 6] = std::array::from_fn(width);
    let mut text = String::new();
    for row in &rows {
        for (cell, width) in row.iter().zip(widths) {
            // A String takes everything.
            let _done = write!(text, "{cell:<width$} ");
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}
