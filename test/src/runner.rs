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

/// No test may take longer; what waits for ever has failed. A soak gets more by `E2E_DEADLINE`, in seconds.
const DEADLINE: Duration = Duration::from_secs(240);

fn deadline() -> Duration {
    let given = std::env::var("E2E_DEADLINE").ok().and_then(|text| text.parse().ok());
    given.map_or(DEADLINE, Duration::from_secs)
}

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

/// How a test ended.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// As it should.
    Passed,
    /// It could not run, and why.
    Skipped(String),
    /// It failed, and how.
    Failed(String),
}

/// What is printed about tests, and their sum, as libtest does.
#[derive(Debug)]
pub struct Report {
    passed: usize,
    ignored: usize,
    failures: Vec<&'static str>,
    others: usize,
    started: Instant,
}

impl Report {
    /// A report of a run that leaves out this many tests.
    pub fn new(others: usize) -> Self {
        Self { passed: 0, ignored: 0, failures: Vec::new(), others, started: Instant::now() }
    }

    /// Counts and prints the end of a test.
    pub fn add(&mut self, name: &'static str, outcome: Outcome, time: Duration) {
        let (name, seconds) = (short(name), time.as_secs_f64());
        match outcome {
            Outcome::Passed => {
                self.passed += 1;
                println!("test {name} ... ok <{seconds:.3}s>");
            }
            Outcome::Skipped(reason) => {
                self.ignored += 1;
                println!("test {name} ... SKIPPED: {reason}");
            }
            Outcome::Failed(reason) => {
                println!("test {name} ... FAILED <{seconds:.3}s>\n    {reason}");
                self.failures.push(name);
            }
        }
    }

    /// Prints the sum.
    pub fn end(&self) -> ExitCode {
        let verdict = if self.failures.is_empty() { "ok" } else { "FAILED" };
        self.failures.iter().for_each(|name| println!("    failed: {name}"));
        println!(
            "\ntest result: {verdict}. {} passed; {} failed; {} ignored; 0 measured; \
             {} filtered out; finished in {:.2}s",
            self.passed,
            self.failures.len(),
            self.ignored,
            self.others,
            self.started.elapsed().as_secs_f64()
        );
        if self.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
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
    let mut report = Report::new(others.len());
    let mut world = match World::new(runtime, folder).await {
        Ok(world) => world,
        Err(error) => {
            println!("the registries do not start: {error}");
            return ExitCode::FAILURE;
        }
    };
    for test in tests {
        let start = Instant::now();
        let outcome = one(&test, &mut world).await;
        let failed = matches!(outcome, Outcome::Failed(_));
        report.add(test.name, outcome, start.elapsed());
        if failed {
            println!("--- the daemon's last words\n{}\n---", world.log_tail());
            world.drop_node();
        }
    }
    world.drop_node();
    report.end()
}

async fn one(test: &Test, world: &mut World) -> Outcome {
    if let Some(reason) = missing(test.needs, world.runtime) {
        return Outcome::Skipped(reason);
    }
    let outcome = guarded((test.run)(world)).await;
    if matches!(outcome, Outcome::Failed(_)) {
        return outcome;
    }
    let left = world.leftovers().await;
    if left.is_empty() { outcome } else { Outcome::Failed(format!("left behind: {left:#?}")) }
}

/// Runs a test's body to its end, its panic, or the deadline.
pub async fn guarded(body: impl Future<Output = ()>) -> Outcome {
    match timeout(deadline(), AssertUnwindSafe(body).catch_unwind()).await {
        Ok(Ok(())) => Outcome::Passed,
        Ok(Err(thrown)) => match thrown.downcast::<Skip>() {
            Ok(skip) => Outcome::Skipped(skip.0),
            Err(thrown) => Outcome::Failed(message(thrown.as_ref())),
        },
        Err(_) => Outcome::Failed(format!("not finished after {:?}", deadline())),
    }
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

/// A test's name without that of the program.
pub fn short(name: &str) -> &str {
    name.split_once("::").map_or(name, |(_, name)| name)
}

/// Which tests the command line selects.
#[derive(Clone, Debug)]
pub struct Selection {
    words: Vec<String>,
    skip: Vec<String>,
    /// Whether they are only to be named.
    pub list: bool,
}

impl Selection {
    /// What this program's arguments say.
    pub fn from_args() -> Self {
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

    /// Whether a test of this name is selected.
    pub fn takes(&self, name: &str) -> bool {
        let has = |words: &[String]| words.iter().any(|word| name.contains(word.as_str()));
        (self.words.is_empty() || has(&self.words)) && !has(&self.skip)
    }
}
