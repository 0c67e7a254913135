//! Runs tests one after another and prints what `cargo test` would.
//!
//! Arguments: words that select tests by part of their name, `--skip WORD`, `--list`; others of libtest's are ignored.

use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tokio::time::timeout;

use crate::runtime::Runtime;
use crate::world::World;
use crate::{crictl, machine, tools};

/// No test may take longer; what waits for ever has failed.
const DEADLINE: Duration = Duration::from_secs(240);

/// What must be there for a test to make sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Nothing but a runtime.
    Any,
    /// Wherry itself: the test is about something the reference does otherwise or not at all.
    Wherry,
    /// crictl.
    Crictl,
    /// The standard CNI plugins.
    Plugins,
    /// Wherry, on cgroup v2.
    CgroupV2,
    /// Wherry, and systemd as the machine's first process, on cgroup v2.
    Systemd,
    /// Wherry, and a kernel with AppArmor.
    AppArmor,
}

/// A test as a table has it; written with [`tests!`](crate::tests).
#[allow(missing_debug_implementations, reason = "it is a row of a table")]
pub struct Test {
    /// `suite::what_is_promised`.
    pub name: &'static str,
    /// When it is skipped.
    pub needs: Needs,
    /// The test.
    pub run: for<'a> fn(&'a mut World) -> Pin<Box<dyn Future<Output = ()> + 'a>>,
}

/// A table of tests: `tests![Any: a_sentence, Wherry: another_sentence]`.
#[macro_export]
macro_rules! tests {
    ($($needs:ident: $name:ident),* $(,)?) => {
        vec![$($crate::runner::Test {
            name: concat!(module_path!(), "::", stringify!($name)),
            needs: $crate::runner::Needs::$needs,
            run: |world| Box::pin($name(world)),
        }),*]
    };
}

/// Why a test was skipped, thrown by [`skip`].
struct Skip(String);

/// Ends the test as skipped.
pub fn skip(reason: &str) -> ! {
    std::panic::resume_unwind(Box::new(Skip(reason.into())))
}

enum Outcome {
    Passed,
    Skipped(String),
    Failed(String),
}

/// Runs the selected tests in a world that is made for them.
pub async fn run(tests: Vec<Test>, folder: &std::path::Path) -> ExitCode {
    let selection = Selection::from_args();
    let (tests, others): (Vec<_>, Vec<_>) =
        tests.into_iter().partition(|test| selection.takes(test.name));
    if selection.list {
        tests.iter().for_each(|test| println!("{}: test", short(test.name)));
        return ExitCode::SUCCESS;
    }
    let runtime = Runtime::from_env();
    println!("\nrunning {} tests on {}", tests.len(), runtime.name());
    let started = Instant::now();
    let mut world = match World::new(runtime, folder).await {
        Ok(world) => world,
        Err(error) => {
            println!("the registries do not start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let (mut passed, mut failures, mut ignored) = (0, Vec::new(), 0);
    for test in tests {
        let (start, name) = (Instant::now(), short(test.name));
        let outcome = one(&test, &mut world).await;
        let seconds = start.elapsed().as_secs_f64();
        match outcome {
            Outcome::Passed => {
                passed += 1;
                println!("test {name} ... ok <{seconds:.3}s>");
            }
            Outcome::Skipped(reason) => {
                ignored += 1;
                println!("test {name} ... SKIPPED: {reason}");
            }
            Outcome::Failed(reason) => {
                println!("test {name} ... FAILED <{seconds:.3}s>\n    {reason}");
                println!("--- the daemon's last words\n{}\n---", world.log_tail());
                failures.push(name);
                world.drop_node();
            }
        }
    }
    world.drop_node();
    let verdict = if failures.is_empty() { "ok" } else { "FAILED" };
    failures.iter().for_each(|name| println!("    failed: {name}"));
    println!(
        "\ntest result: {verdict}. {passed} passed; {} failed; {ignored} ignored; 0 measured; \
         {} filtered out; finished in {:.2}s",
        failures.len(),
        others.len(),
        started.elapsed().as_secs_f64()
    );
    if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn one(test: &Test, world: &mut World) -> Outcome {
    if let Some(reason) = missing(test.needs, world.runtime) {
        return Outcome::Skipped(reason);
    }
    let body = AssertUnwindSafe((test.run)(world)).catch_unwind();
    let outcome = match timeout(DEADLINE, body).await {
        Ok(Ok(())) => Outcome::Passed,
        Ok(Err(thrown)) => match thrown.downcast::<Skip>() {
            Ok(skip) => Outcome::Skipped(skip.0),
            Err(thrown) => return Outcome::Failed(message(thrown.as_ref())),
        },
        Err(_) => return Outcome::Failed(format!("not finished after {DEADLINE:?}")),
    };
    let left = world.leftovers().await;
    if left.is_empty() { outcome } else { Outcome::Failed(format!("left behind: {left:#?}")) }
}

fn missing(needs: Needs, runtime: Runtime) -> Option<String> {
    if runtime.program().is_none() {
        return Some(format!("no {} program; hack/build makes ours", runtime.name()));
    }
    let foreign = match needs {
        Needs::Any | Needs::Plugins | Needs::Crictl => None,
        _ => (runtime != Runtime::Wherry).then(|| "about Wherry's own ways".into()),
    };
    foreign.or_else(|| match needs {
        Needs::Crictl => crictl::program().err(),
        Needs::Plugins if tools::cni_plugins().is_none() => {
            Some("the standard CNI plugins are not installed".into())
        }
        Needs::CgroupV2 => machine::lacks_cgroup_v2(),
        Needs::Systemd => machine::lacks_systemd(),
        Needs::AppArmor => machine::lacks_apparmor(),
        _ => None,
    })
}

fn message(thrown: &(dyn Any + Send)) -> String {
    let text = thrown.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| thrown.downcast_ref::<String>().cloned()).unwrap_or_else(|| "panic".into())
}

fn short(name: &str) -> &str {
    name.split_once("::").map_or(name, |(_, name)| name)
}

struct Selection {
    words: Vec<String>,
    skip: Vec<String>,
    list: bool,
}

impl Selection {
    fn from_args() -> Self {
        let mut selection = Self { words: Vec::new(), skip: Vec::new(), list: false };
        let mut args = std::env::args().skip(1);
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--skip" => selection.skip.extend(args.next()),
                "--list" => selection.list = true,
                flag if flag.starts_with('-') => {}
                _ => selection.words.push(arg),
            }
        }
        selection
    }

    fn takes(&self, name: &str) -> bool {
        let has = |words: &[String]| words.iter().any(|word| name.contains(word.as_str()));
        (self.words.is_empty() || has(&self.words)) && !has(&self.skip)
    }
}
