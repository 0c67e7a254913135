//! The verbs, one a file.

mod create;
mod delete;
mod events;
mod exec;
mod features;
mod kill;
mod list;
mod pause;
mod process_spec;
mod ps;
mod resume;
mod run;
mod spec;
mod start;
mod state;
mod update;

use super::Verb;
use super::args::{Order, Parsed};
use super::{Context, Failure, FailureKind};

/// All of them.
pub(super) const ALL: &[Verb] = &[
    create::VERB,
    delete::VERB,
    events::VERB,
    exec::VERB,
    features::VERB,
    kill::VERB,
    list::VERB,
    pause::VERB,
    ps::VERB,
    resume::VERB,
    run::VERB,
    spec::VERB,
    start::VERB,
    state::VERB,
    update::VERB,
    missing("checkpoint"),
    missing("restore"),
];

/// One that runc has and this runtime has not.
const fn missing(name: &'static str) -> Verb {
    Verb { name, usage: "(not supported)", flags: &[], order: Order::First, failed: 1, run: refuse }
}

fn refuse(_context: &Context, _args: &Parsed) -> Result<u8, Failure> {
    let cause = "checkpoints are not supported by this runtime";
    Err(Failure::new(FailureKind::Unsupported, "save or restore", "container", cause))
}
