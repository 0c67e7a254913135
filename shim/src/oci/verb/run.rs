//! `run`: create and start, and unless told otherwise wait for the end and delete.

use crate::oci::args::{Flag, Order, Parsed, switch};
use crate::oci::attach::{Relay, Signals, adopt_orphans, attend};
use crate::oci::launch::{FLAGS as SHARED, Launched, Stay, launch};
use crate::oci::{Context, Verb, end, seal, start};
use crate::runtime::HookKind;
use crate::{Failure, FailureKind};

const FLAGS: [Flag; 10] = {
    let [a, b, c, d, e, f, g] = SHARED;
    [a, b, c, d, e, f, g, switch(&["detach", "d"]), switch(&["keep"]), switch(&["no-subreaper"])]
};

pub const VERB: Verb = Verb {
    name: "run",
    usage: "[flags] <container-id>",
    flags: &FLAGS,
    order: Order::Any,
    failed: 1,
    run,
};

fn run(context: &Context, args: &Parsed) -> Result<u8, Failure> {
    seal::seal()?;
    let stay = if args.has("detach") { Stay::Detached } else { Stay::Attached };
    // Before there is a container: what ends us would leave it.
    let signals = (stay == Stay::Attached).then(Signals::catch).transpose()?;
    if stay == Stay::Attached && !args.has("no-subreaper") {
        adopt_orphans()?;
    }
    let launched = launch(&context.thread, &context.global, args, stay)?;
    let Launched { mut folder, record, init, terminal } = launched;
    let process = init.open()?;
    // Before its command runs: it may ask for its terminal's size at once.
    let terminal = terminal.map(Relay::new);
    let started = start::start(&folder);
    if let Err(failure) = started {
        end::kill(&init)?;
        end::remove(&context.thread, folder, &record)?;
        return Err(failure);
    }
    if record.poststart {
        end::run_hooks(&context.thread, HookKind::Poststart, &record, init.pid);
    }
    folder.unlock();
    let Some(signals) = signals else { return Ok(0) };
    let code = match &process {
        Some(process) => attend(process, &signals, terminal)?,
        None => {
            let cause = "it ended before it was started";
            return Err(Failure::new(FailureKind::Internal, "run", "process", cause));
        }
    };
    if !args.has("keep") {
        delete(context, folder, &record);
    }
    Ok(code)
}

/// The container's code counts, whatever becomes of the rest.
fn delete(
    context: &Context,
    folder: crate::oci::store::Folder,
    record: &crate::oci::record::Record,
) {
    // Somebody else may have deleted it meanwhile.
    let Ok(folder) = folder.locked() else { return };
    if let Err(failure) = end::remove(&context.thread, folder, record) {
        context.warn(&failure);
    }
}
